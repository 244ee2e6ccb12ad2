from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from lepton_ai.model_folder import files, read_manifest, read_metrics, source_digest
from lepton_ai.onnx_model import Limits
from lepton_ai.record import InvalidModelError
from tests.fixtures.onnx_models import write_digits_version


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_digits_version(tmp_path_factory.mktemp("digits"))


@pytest.fixture
def folder(digits: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(digits, tmp_path / "output"))


def test_a_manifest_lists_the_files_of_a_version_and_no_others(folder: Path) -> None:
    (folder / "trainable" / "parts").mkdir(parents=True)
    (folder / "trainable" / "parts" / "1.bin").write_bytes(b"one")
    (folder / "notes.txt").write_text("mine")
    manifest = read_manifest(folder, Limits())
    assert [file.path for file in manifest.files] == [
        "heldout.npz",
        "metrics.json",
        "model.onnx",
        "signature.json",
        "trainable/parts/1.bin",
    ]
    part = manifest.file("trainable/parts/1.bin")
    assert part is not None
    assert part.sha256 == hashlib.sha256(b"one").hexdigest()
    assert manifest.signature.labels == tuple("0123456789")


def test_the_digest_of_a_folder_is_that_of_its_paths_and_digests(folder: Path) -> None:
    before = source_digest(folder)
    listed = [[file.path, file.sha256] for file in files(folder)]
    canonical = json.dumps(listed, separators=(",", ":")).encode()
    assert before == "sha256:" + hashlib.sha256(canonical).hexdigest()
    (folder / "notes.txt").write_text("changes nothing")
    assert source_digest(folder) == before
    (folder / "signature.json").write_text("{}")
    assert source_digest(folder) != before


def test_the_command_prints_the_digest_and_nothing_else(folder: Path) -> None:
    def digest(path: Path) -> str:
        argv = [sys.executable, "-m", "lepton_ai.agent", "digest", str(path)]
        return subprocess.run(argv, check=True, capture_output=True, text=True).stdout

    assert digest(folder) == source_digest(folder) + "\n"
    model = folder / "model.onnx"
    assert digest(model) == f"sha256:{hashlib.sha256(model.read_bytes()).hexdigest()}\n"


@pytest.mark.parametrize("path", ["model.onnx", "trainable/weights"])
def test_a_link_out_of_the_folder_is_refused(folder: Path, tmp_path: Path, path: str) -> None:
    (tmp_path / "secretKey").write_text("secret")
    (folder / "trainable").mkdir()
    (folder / path).unlink(missing_ok=True)
    (folder / path).symlink_to(tmp_path / "secretKey")
    with pytest.raises(InvalidModelError, match=f"{path} is a link that leads out of the folder"):
        read_manifest(folder, Limits())


def test_a_link_inside_the_folder_is_the_file_that_it_names(folder: Path) -> None:
    before = source_digest(folder)
    (folder / "model.onnx").rename(folder / "best.onnx")
    (folder / "model.onnx").symlink_to("best.onnx")
    assert source_digest(folder) == before


def test_a_pipe_is_refused_and_not_waited_for(folder: Path) -> None:
    (folder / "trainable").mkdir()
    os.mkfifo(folder / "trainable" / "pipe")
    with pytest.raises(InvalidModelError, match=r"trainable/pipe is a link .* or no file"):
        files(folder)


@pytest.mark.parametrize("path", ["model.onnx", "heldout.npz", "signature.json", "metrics.json"])
@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir], ids=["a pipe", "a folder"])
def test_what_only_has_the_name_of_a_file_is_refused(
    folder: Path, make: Callable[[Path], None], path: str
) -> None:
    """Else its reader waits for ever, or ends and is started again for ever; so does the job."""
    (folder / path).unlink(missing_ok=True)
    make(folder / path)
    with pytest.raises(InvalidModelError, match=f"{path} is a link .* or no file"):
        read_manifest(folder, Limits())


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        pytest.param("{", "signature.json cannot be read: the file: Invalid JSON", id="no JSON"),
        pytest.param('{"labels": "0123"}', "cannot be read: labels", id="labels are a text"),
        pytest.param('{"labels": []}', "cannot be read: labels", id="no labels at all"),
        pytest.param(
            '{"labels": ["cat", "dog"]}',
            "names 2 labels, and the model's output has 10 columns",
            id="labels for another model",
        ),
        pytest.param(
            '{"preprocessing": {"image": {"scale": 255}}}', "preprocessing.image", id="no sentence"
        ),
    ],
)
def test_a_signature_that_cannot_be_right_is_refused(
    folder: Path, text: str, sentence: str
) -> None:
    (folder / "signature.json").write_text(text)
    with pytest.raises(InvalidModelError, match=sentence):
        read_manifest(folder, Limits())


@pytest.mark.parametrize("text", ["", "[1]", "{", '{"a": "b", "c": true, "d": NaN, "e": null}'])
def test_broken_metrics_cost_no_model(folder: Path, text: str) -> None:
    (folder / "metrics.json").write_text(text)
    assert read_metrics(folder) == {}
