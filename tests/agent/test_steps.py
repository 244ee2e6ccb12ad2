from __future__ import annotations

import hashlib
import json
import shutil
import urllib.request
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from e2e.cluster.ports import free_port
from lepton_ai.agent.fetch import Transfer, serve
from lepton_ai.model_folder import read_manifest, source_digest
from lepton_ai.onnx_model import Limits
from lepton_ai.versions import ModelVersions
from lepton_operator import records
from tests.agent.stores import Ended, StoreUnderTest
from tests.fixtures.onnx_models import (
    held_out_digits,
    write_broken_model,
    write_digits_model,
    write_digits_version,
    write_fixed_model,
    write_too_new_model,
)

MODEL = ("--namespace", "team", "--name", "reader")
LIMITS = ("--max-opset", 21, "--max-ir", 10)
WRONG_DIGEST = "sha256:" + "0" * 64


def do_import(store: StoreUnderTest, uri: str, digest: str, *more: object) -> Ended:
    return store.agent("import", *MODEL, "--uri", uri, "--digest", digest, *LIMITS, *more)


def imported(store: StoreUnderTest, folder: Path) -> dict[str, Any]:
    """Import a folder; return the version's line in the message."""
    ended = do_import(store, f"file://{folder}", source_digest(folder))
    assert ended.code == 0, ended.log
    version: dict[str, Any] = ended.record["versions"][0]
    return version


def do_evaluate(store: StoreUnderTest, version: dict[str, Any], dataset: str) -> Ended:
    which = ("--version", version["version"], "--digest", version["digest"])
    return store.agent("evaluate", *MODEL, *which, "--dataset", dataset)


@pytest.fixture
def version(folder_store: StoreUnderTest, digits: Path) -> dict[str, Any]:
    """Return the line of a version that is in the folder already."""
    versions = ModelVersions(folder_store.open(), "team", "reader")
    manifest = read_manifest(digits, Limits())
    return versions.publish("run", manifest, digits, {}, {}).summary().to_dict()


@pytest.fixture(autouse=True)
def _records_that_the_operator_reads(tmp_path: Path) -> Iterator[None]:
    """Whatever a command writes must be a record for the operator too."""
    yield
    message = tmp_path / "termination-log"
    if message.exists():
        assert records.parse(message.read_text()) is not None


def test_from_a_uri_to_a_repository_that_triton_loads(
    any_store: StoreUnderTest, digits: Path, tmp_path: Path
) -> None:
    version = imported(any_store, digits)
    assert version["version"] == 1
    assert version["lineage"] == {"uri": f"file://{digits}"}
    evaluated = do_evaluate(any_store, version, "heldout").record["evaluation"]
    assert evaluated["samples"] == len(held_out_digits()[1])
    assert evaluated["metrics"]["accuracy"] == pytest.approx(version["metrics"]["accuracy"])
    listed = any_store.agent("index", *MODEL, "--dataset", "heldout").record
    assert listed["versions"] == [{**version, "evaluation": evaluated}]
    assert listed["more"] is False
    assert any_store.agent("index", *MODEL, "--known", "1").record["versions"] == []
    which = ("--version", 1, "--digest", version["digest"], "--max-batch-size", 8)
    where = ("--repository", tmp_path / "models", "--model", "reader")
    assert any_store.agent("fetch", *MODEL, *which, *where).code == 0
    fetched = tmp_path / "models" / "reader"
    assert (fetched / "1/model.onnx").read_bytes() == (digits / "model.onnx").read_bytes()
    config = text_format.Parse(
        (fetched / "config.pbtxt").read_text(), model_config_pb2.ModelConfig()
    )
    assert config.max_batch_size == 8


def do_fetch(store: StoreUnderTest, version: dict[str, Any], models: Path, *how: object) -> Ended:
    which = ("--version", version["version"], "--digest", version["digest"])
    return store.agent("fetch", *MODEL, *which, "--repository", models, "--model", "reader", *how)


def test_fetch_writes_what_the_service_asks_for(
    folder_store: StoreUnderTest, version: dict[str, Any], tmp_path: Path
) -> None:
    asked = ("--must-batch", "--preferred-batch-sizes", "4,8", "--instances", 2)
    more = ("--max-queue-delay-microseconds", 500, "--response-cache", "--priority-levels", 3)
    ended = do_fetch(folder_store, version, tmp_path, "--max-batch-size", 8, *asked, *more)
    assert ended.code == 0, ended.log
    text = (tmp_path / "reader" / "config.pbtxt").read_text()
    config = text_format.Parse(text, model_config_pb2.ModelConfig())
    assert list(config.dynamic_batching.preferred_batch_size) == [4, 8]
    assert config.dynamic_batching.max_queue_delay_microseconds == 500
    assert config.dynamic_batching.priority_levels == 3
    assert config.instance_group[0].count == 2
    assert config.response_cache.enable


def test_a_model_that_cannot_be_batched_is_refused_before_it_is_fetched(
    folder_store: StoreUnderTest, tmp_path: Path
) -> None:
    (tmp_path / "source").mkdir()
    write_fixed_model(tmp_path / "source" / "model.onnx")
    version = imported(folder_store, tmp_path / "source")
    models = tmp_path / "models"
    refused = do_fetch(folder_store, version, models, "--max-batch-size", 8, "--must-batch")
    assert (refused.code, refused.record["reason"]) == (2, "CannotBatch")
    assert "the first size of 'image' is always 1" in refused.record["message"]
    assert not models.exists()
    assert do_fetch(folder_store, version, models, "--max-batch-size", 8).code == 0


def test_a_fetch_that_fails_says_how_many_bytes_it_had(
    folder_store: StoreUnderTest, version: dict[str, Any], digits: Path, tmp_path: Path
) -> None:
    size = (digits / "model.onnx").stat().st_size
    (blob,) = (
        each
        for each in (folder_store.objects / "models/team/reader/blobs").iterdir()
        if each.read_bytes() == (digits / "model.onnx").read_bytes()
    )
    blob.write_bytes(b"x" * size)
    ended = do_fetch(folder_store, version, tmp_path / "models", "--max-batch-size", 8)
    assert (ended.code, ended.record["reason"]) == (2, "DigestMismatch")
    assert ended.record["message"].startswith(f"After {size} of {size} bytes: The store's bytes")


def test_a_full_disk_is_told_with_the_bytes_that_it_took(
    folder_store: StoreUnderTest, version: dict[str, Any], digits: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "models" / "reader" / "1"
    folder.mkdir(parents=True)
    (folder / ".model.onnx.partial").symlink_to("/dev/full")
    ended = do_fetch(folder_store, version, tmp_path / "models", "--max-batch-size", 8)
    assert (ended.code, ended.record.get("reason")) == (1, None)
    size = (digits / "model.onnx").stat().st_size
    assert f"of {size} bytes: The model cannot be written" in ended.record["message"]
    assert "(No space left on device)" in ended.record["message"]


def test_how_far_a_fetch_is_can_be_asked() -> None:
    transfer, port = Transfer(), free_port()
    serve(transfer, port)
    transfer.note(5, 10)
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/progress", timeout=10) as answer:
        assert json.load(answer) == {"fetchedBytes": 5, "totalBytes": 10}


def test_an_import_that_is_repeated_makes_no_second_version(
    folder_store: StoreUnderTest, tmp_path: Path
) -> None:
    folder = write_digits_version(tmp_path / "source")
    digest = source_digest(folder)
    first = imported(folder_store, folder)
    shutil.rmtree(folder)
    again = do_import(folder_store, f"file://{folder}", digest)
    assert again.record["versions"] == [first]


def test_a_file_in_the_same_bucket_is_imported_by_its_own_digest(
    s3_store: StoreUnderTest, tmp_path: Path
) -> None:
    model = write_digits_model(tmp_path / "reader.onnx")
    (s3_store.objects / "uploads").mkdir()
    shutil.copy(model, s3_store.objects / "uploads" / "reader.onnx")
    uri = f"s3://{s3_store.objects.name}/uploads/reader.onnx"
    digest = "sha256:" + hashlib.sha256(model.read_bytes()).hexdigest()
    ended = do_import(s3_store, uri, digest)
    assert ended.code == 0, ended.log
    version = s3_store.json("models/team/reader/versions/1.json")
    assert [file["path"] for file in version["manifest"]["files"]] == ["model.onnx"]
    assert version["identity"] == digest


def test_a_folder_in_a_bucket_has_the_digest_that_lepton_agent_prints(
    s3_store: StoreUnderTest, digits: Path
) -> None:
    shutil.copytree(digits, s3_store.objects / "digits-v1")
    (s3_store.objects / "digits-v1" / "README.md").write_text("belongs to no version")
    uri = f"s3://{s3_store.objects.name}/digits-v1"
    ended = do_import(s3_store, uri, source_digest(digits))
    assert ended.code == 0, ended.log
    assert len(s3_store.json("models/team/reader/versions/1.json")["manifest"]["files"]) == 4


def test_a_claim_is_read_where_the_operator_mounts_it(
    folder_store: StoreUnderTest, digits: Path
) -> None:
    mount = ("--mount", digits.parent)
    ended = do_import(folder_store, f"pvc://models/{digits.name}", source_digest(digits), *mount)
    assert ended.code == 0, ended.log
    outside = do_import(folder_store, "pvc://models/../x.onnx", WRONG_DIGEST, *mount)
    assert outside.record["reason"] == "InvalidModel"
    assert "leads out of its volume" in outside.record["message"]


def _write_wrong(tmp_path: Path) -> tuple[Path, str]:
    return write_digits_model(tmp_path / "m.onnx"), WRONG_DIGEST


def _write_broken(tmp_path: Path) -> tuple[Path, str]:
    file = write_broken_model(tmp_path / "m.onnx")
    return file, source_digest(file)


def _write_too_new(tmp_path: Path) -> tuple[Path, str]:
    file = write_too_new_model(tmp_path / "m.onnx")
    return file, source_digest(file)


def _write_nothing(tmp_path: Path) -> tuple[Path, str]:
    return tmp_path / "m.onnx", WRONG_DIGEST


@pytest.mark.parametrize(
    ("write", "ends", "sentence"),
    [
        pytest.param(_write_wrong, (2, "DigestMismatch"), "source.digest says sha", id="digest"),
        pytest.param(_write_broken, (2, "InvalidModel"), "is not an ONNX file", id="not ONNX"),
        pytest.param(_write_too_new, (2, "InvalidModel"), "at most opset 21", id="too new"),
        pytest.param(_write_nothing, (1, "SourceNotFound"), "There is no file at", id="not there"),
    ],
)
def test_a_source_that_cannot_be_used_makes_no_version(
    folder_store: StoreUnderTest, tmp_path: Path, write: Any, ends: tuple[int, str], sentence: str
) -> None:
    file, digest = write(tmp_path)
    ended = do_import(folder_store, f"file://{file}", digest)
    assert (ended.code, ended.record["reason"]) == ends
    assert sentence in ended.record["message"]
    assert sentence in ended.log
    assert folder_store.open().paths_below("models") == []


def _save(tmp_path: Path, **arrays: Any) -> str:
    np.savez(tmp_path / "data.npz", **arrays)
    return f"file://{tmp_path}/data.npz"


IMAGES, LABELS = held_out_digits()


@pytest.mark.parametrize(
    ("write", "ends"),
    [
        pytest.param(
            lambda path: _save(path, x=IMAGES),
            ("InvalidDataset", "has no labels"),
            id="no labels",
        ),
        pytest.param(
            lambda path: _save(path, x=IMAGES[:, :5], y=LABELS),
            ("InvalidDataset", "The samples of"),
            id="another shape",
        ),
        pytest.param(
            lambda path: _save(path, x=IMAGES, y=np.array([{}] * len(IMAGES))),
            ("InvalidDataset", "Python objects, which are never loaded"),
            id="pickles",
        ),
        pytest.param(lambda _: "nothing", ("NoData", "no data set named 'nothing'"), id="unknown"),
    ],
)
def test_a_data_set_that_cannot_be_used_is_the_users_failure(
    folder_store: StoreUnderTest, version: dict[str, Any], tmp_path: Path, write: Any, ends: Any
) -> None:
    ended = do_evaluate(folder_store, version, write(tmp_path))
    reason, sentence = ends
    assert (ended.code, ended.record["reason"]) == (2, reason)
    assert sentence in ended.record["message"]


def test_a_version_without_held_out_data_says_what_to_do(
    folder_store: StoreUnderTest, tmp_path: Path
) -> None:
    write_digits_model(tmp_path / "only" / "model.onnx")
    ended = do_evaluate(folder_store, imported(folder_store, tmp_path / "only"), "heldout")
    assert (ended.code, ended.record["reason"]) == (2, "NoData")
    assert "write heldout.npz (x, y) to LEPTON_OUTPUT_DIR" in ended.record["message"]


def test_an_evaluation_is_made_once(
    folder_store: StoreUnderTest, version: dict[str, Any], tmp_path: Path
) -> None:
    dataset = _save(tmp_path, x=IMAGES, y=LABELS)
    first = do_evaluate(folder_store, version, dataset)
    for blob in (folder_store.objects / "models/team/reader/blobs").iterdir():
        blob.unlink()
    assert do_evaluate(folder_store, version, dataset).record == first.record


@pytest.mark.usefixtures("version")
def test_an_index_of_many_versions_names_the_newest_and_says_that_there_are_more(
    folder_store: StoreUnderTest,
) -> None:
    first = folder_store.json("models/team/reader/versions/1.json")
    for number in range(2, 9):
        again = first | {"version": number, "identity": f"run-{number}"}
        path = f"models/team/reader/versions/{number}.json"
        folder_store.open().put_new(path, json.dumps(again).encode())
    record = folder_store.agent("index", *MODEL, "--known", "8,6").record
    assert [version["version"] for version in record["versions"]] == [7, 5, 4, 3, 2]
    assert record["more"] is True


def test_prepare_leaves_a_launcher_that_starts(
    folder_store: StoreUnderTest, tmp_path: Path
) -> None:
    launcher = tmp_path / "lepton" / "launcher.pyz"
    assert folder_store.agent("prepare", "--launcher", launcher, "--needs-store").code == 0
    assert "lepton_launcher/__main__.py" in zipfile.ZipFile(launcher).namelist()
    assert sorted(path.name for path in launcher.parent.iterdir()) == [
        "exchange",
        "launcher.pyz",
        "output",
    ]


def test_prepare_says_that_a_pattern_is_none(folder_store: StoreUnderTest, tmp_path: Path) -> None:
    launcher = ["--launcher", tmp_path / "launcher.pyz"]
    refused = folder_store.agent("prepare", *launcher, "--patterns", '{"a1": "loss is (nan"}')
    assert (refused.code, refused.record["reason"]) == (2, "InvalidSpec")
    assert "missing ): loss is (nan" in refused.record["message"]
    assert folder_store.agent("prepare", *launcher, "--patterns", '{"a1": "nan"}').code == 0


@pytest.mark.parametrize(
    ("uri", "code"),
    [
        pytest.param("lepton-store://checkpoints", 0, id="the namespace's own store"),
        pytest.param("s3://no-such-bucket/team", 3, id="a bucket that is not there"),
    ],
)
def test_prepare_tries_the_place_of_the_checkpoints(
    s3_store: StoreUnderTest, tmp_path: Path, uri: str, code: int
) -> None:
    launcher = ["--launcher", tmp_path / "lepton" / "launcher.pyz"]
    (tmp_path / "lepton").mkdir()
    assert s3_store.agent("prepare", *launcher, "--checkpoint-uri", uri).code == code


def test_prepare_says_before_any_gpu_is_held_that_there_is_no_store(tmp_path: Path) -> None:
    store = StoreUnderTest(str(tmp_path / "secret"), tmp_path / "nothing", tmp_path)
    launcher = ("--launcher", tmp_path / "launcher.pyz")
    refused = store.agent("prepare", *launcher, "--needs-store")
    assert (refused.code, refused.record["reason"]) == (3, "NoStore")
    assert "Create it with url, region, accessKey and secretKey" in refused.record["message"]
    assert store.agent("prepare", *launcher).code == 0
