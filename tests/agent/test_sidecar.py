from __future__ import annotations

import os
import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from e2e.cluster.ports import free_port
from lepton_ai.curves import Curves
from lepton_ai.datasets import from_arrays
from lepton_ai.lineage import Checkpoint, tell_checkpoint, tell_data
from lepton_ai.versions import Version
from lepton_launcher.records import is_record
from tests.agent.gateway import ACCESS_KEY, SECRET_KEY, Gateway, write_secret
from tests.agent.pods import IMAGE_ID, SUCCEEDED, UID, SidecarPod, sidecar, wait_until
from tests.agent.stores import StoreUnderTest
from tests.fixtures.onnx_models import write_broken_model, write_too_new_model

FAILED = {
    "outcome": "Failed",
    "reason": "UserError",
    "message": "ZeroDivisionError: division by zero",
    "rank": 3,
    "exitCode": 1,
}
DIGEST = "sha256:" + "c" * 64
LARGE_BYTES = 256 * 1024 * 1024


def leave(folder: Path, pod: SidecarPod) -> None:
    shutil.copytree(folder, pod.output, dirs_exist_ok=True)


def test_a_success_becomes_a_version_and_the_next_attempt_finds_it(
    any_store: StoreUnderTest, tmp_path: Path, digits: Path
) -> None:
    with sidecar(any_store, tmp_path / "pod", model="reader") as pod:
        assert pod.start() is None
        leave(digits, pod)
        (pod.output / "trainable").mkdir()
        (pod.output / "trainable" / "weights.bin").write_bytes(b"weights")
        (pod.output / "checkpoint.pt").write_bytes(b"not part of a version")
        pod.end(SUCCEEDED)
        answer = pod.answer()
    assert is_record(answer)
    assert answer["model"]["version"] == 1
    assert answer["metrics"]["accuracy"] > 0.95
    version = any_store.json("models/team/reader/versions/1.json")
    assert version["identity"] == UID
    assert version["digest"] == answer["model"]["digest"]
    assert version["lineage"] == {
        "trainingJob": "digits",
        "uid": UID,
        "attempt": 1,
        "image": "trainer:1",
        "imageID": IMAGE_ID,
        "entrypoint": ["-m", "recipe"],
    }
    paths = [file["path"] for file in version["manifest"]["files"]]
    assert "trainable/weights.bin" in paths
    assert "checkpoint.pt" not in paths
    assert any_store.json(f"runs/{UID}/success.json") == answer
    assert any_store.json(f"runs/{UID}/1-0.json") == answer
    with sidecar(any_store, tmp_path / "next", attempt=2, rank=1, model="reader") as following:
        assert following.start() == answer


def test_what_only_the_script_knows_is_in_the_lineage_and_its_curves_lie_beside_the_model(
    any_store: StoreUnderTest, tmp_path: Path, digits: Path
) -> None:
    curves = Curves()
    curves.add(1, {"loss": 0.5})
    data = from_arrays("mine", np.zeros((3, 2)), np.arange(3))
    with sidecar(any_store, tmp_path / "pod", model="reader") as pod:
        assert pod.start() is None
        leave(digits, pod)
        curves.write(pod.output)
        picture = pod.output / "curves.png"
        picture.unlink(missing_ok=True)  # there is one where matplotlib is
        picture.symlink_to("/etc/hostname")
        tell_data(pod.output, [data])
        tell_checkpoint(pod.output, Checkpoint(step=12, digest=DIGEST))
        pod.end(SUCCEEDED)
        pod.answer()
        assert "curves.png is a link" in pod.log
    version = any_store.json("models/team/reader/versions/1.json")
    lineage = version["lineage"]
    assert lineage["data"] == [{"name": "mine", "digest": data.digest, "samples": 3}]
    assert lineage["checkpoint"] == {"step": 12, "digest": DIGEST}
    (kept,) = lineage["curves"]
    assert kept["path"] == "curves.jsonl"
    assert any_store.json(f"models/team/reader/blobs/{kept['sha256']}") == {"step": 1, "loss": 0.5}
    assert "curves.jsonl" not in [file["path"] for file in version["manifest"]["files"]]
    assert Version.model_validate(version).summary().lineage == {
        "trainingJob": "digits",
        "uid": UID,
        "imageDigest": "sha256:abababababab",
        "dataDigest": data.digest[:19],
        "checkpointStep": 12,
    }


@pytest.mark.parametrize("rank", [0, 2])
def test_a_failure_is_recorded_for_the_same_pod_and_for_no_other(
    any_store: StoreUnderTest, tmp_path: Path, rank: int
) -> None:
    with sidecar(any_store, tmp_path / "pod", rank=rank, model="reader") as pod:
        pod.start()
        pod.end(FAILED)
        assert pod.answer() == FAILED
    with sidecar(any_store, tmp_path / "again", rank=rank, model="reader") as again:
        assert again.start() == FAILED
    with sidecar(any_store, tmp_path / "next", attempt=2, rank=rank, model="reader") as following:
        assert following.start() is None
    assert any_store.json(f"runs/{UID}/success.json") is None


def test_a_pod_that_went_on_in_a_later_attempt_is_recorded_there(
    folder_store: StoreUnderTest, tmp_path: Path, digits: Path
) -> None:
    with sidecar(folder_store, tmp_path / "pod", rank=1, model="reader") as pod:
        pod.start()
        pod.end({**FAILED, "attempt": 3})
        assert pod.answer() == {**FAILED, "attempt": 3}
    assert folder_store.json(f"runs/{UID}/3-1.json") == {**FAILED, "attempt": 3}
    assert folder_store.json(f"runs/{UID}/1-1.json") is None
    with sidecar(folder_store, tmp_path / "first", model="reader") as first:
        first.start()
        leave(digits, first)
        first.end({**SUCCEEDED, "attempt": 3})
        assert first.answer()["attempt"] == 3
    version = folder_store.json("models/team/reader/versions/1.json")
    assert version["lineage"]["attempt"] == 3


def test_a_run_that_saved_and_left_has_no_result_to_be_missed(
    folder_store: StoreUnderTest, tmp_path: Path
) -> None:
    message = "Saved at step 120 and left, as it was asked to."
    saved = {"outcome": "Failed", "reason": "Saved", "message": message, "step": 120}
    with sidecar(folder_store, tmp_path / "pod", model="reader") as pod:
        pod.start()
        pod.end(saved)
        assert pod.answer() == saved
    assert folder_store.json(f"runs/{UID}/success.json") is None


def test_a_failed_pod_s_log_is_searched_and_what_matched_is_recorded(
    folder_store: StoreUnderTest, tmp_path: Path
) -> None:
    patterns = {"a1b2": "loss is nan", "c3d4": "never"}
    with sidecar(folder_store, tmp_path / "pod", model=None, patterns=patterns) as pod:
        pod.start()
        (pod.folder / "exchange" / "log-tail").write_bytes(b"step 7: loss is nan\nNVRM: Xid 79\n")
        reached = {**FAILED, "step": 7, "resumedFrom": 5, "furthest": 6}
        pod.end(reached)
        answer = pod.answer()
    assert answer == {**reached, "matched": ["GpuError", "a1b2"]}
    assert folder_store.json(f"runs/{UID}/1-0.json") == answer


def test_another_rank_that_succeeds_makes_no_version(
    folder_store: StoreUnderTest, tmp_path: Path
) -> None:
    with sidecar(folder_store, tmp_path / "pod", rank=1, model="reader") as pod:
        pod.start()
        pod.end(SUCCEEDED)
        assert pod.answer() == SUCCEEDED
    assert folder_store.open().paths_below("models") == []
    assert folder_store.json(f"runs/{UID}/success.json") is None


def _write_model_with_weights_elsewhere(folder: Path) -> None:
    secret = folder.parent.parent / "secret.onnx"
    secret.write_bytes(b"what the user may not read")
    (folder / "model.onnx").symlink_to(secret)


@pytest.mark.parametrize(
    ("prepare", "reason", "sentence"),
    [
        pytest.param(lambda _: None, "NoModel", "left no model.onnx", id="no model.onnx"),
        pytest.param(
            lambda folder: write_broken_model(folder / "model.onnx"),
            "InvalidModel",
            "is not an ONNX file",
            id="no ONNX file",
        ),
        pytest.param(
            lambda folder: write_too_new_model(folder / "model.onnx"),
            "InvalidModel",
            "uses ONNX opset 25, and the Triton that would serve it loads at most opset 21",
            id="an opset that Triton cannot load",
        ),
        pytest.param(
            _write_model_with_weights_elsewhere,
            "InvalidModel",
            "leads out of the folder",
            id="a link out of the folder",
        ),
        pytest.param(
            lambda folder: (folder / "model.onnx").mkdir(),
            "InvalidModel",
            "or no file",
            id="a folder of that name",
        ),
    ],
)
def test_a_result_that_is_no_model_is_the_users_failure(
    folder_store: StoreUnderTest, tmp_path: Path, prepare: Any, reason: str, sentence: str
) -> None:
    with sidecar(folder_store, tmp_path / "pod", model="reader") as pod:
        pod.start()
        prepare(pod.output)
        pod.end(SUCCEEDED)
        answer = pod.answer()
    assert is_record(answer)
    assert (answer["outcome"], answer["reason"]) == ("Failed", reason)
    assert sentence in answer["message"]
    assert folder_store.json(f"runs/{UID}/1-0.json") == answer
    assert folder_store.open().paths_below("models") == []


def test_what_the_launcher_told_stays_with_a_result_that_is_no_model(
    folder_store: StoreUnderTest, tmp_path: Path
) -> None:
    told = {"attempt": 2, "step": 9, "furthest": 9, "restarts": 1, "ledger": {"productive": 4.5}}
    with sidecar(folder_store, tmp_path / "pod", model="reader") as pod:
        pod.start()
        pod.end({**SUCCEEDED, **told})
        answer = pod.answer()
    assert answer["reason"] == "NoModel"
    assert {name: answer.get(name) for name in told} == told


def test_the_first_success_of_a_run_stays(
    folder_store: StoreUnderTest, tmp_path: Path, digits: Path
) -> None:
    with sidecar(folder_store, tmp_path / "one", model="reader") as one:
        one.start()
        with sidecar(folder_store, tmp_path / "two", attempt=2, model="reader") as two:
            assert two.start() is None
            for pod in (one, two):
                leave(digits, pod)
                pod.end(SUCCEEDED)
            answers = [one.answer(), two.answer()]
    assert answers[0] == answers[1]
    assert folder_store.open().paths_in("models/team/reader/versions") == [
        "models/team/reader/versions/1.json"
    ]


def test_without_a_store_the_pod_runs_and_ends_with_what_its_launcher_says(tmp_path: Path) -> None:
    store = StoreUnderTest(str(tmp_path / "no secret"), tmp_path / "nothing", tmp_path)
    with sidecar(store, tmp_path / "pod", model=None) as pod:
        assert pod.start() is None
        pod.end(SUCCEEDED)
        assert pod.answer() == SUCCEEDED


def test_a_failure_is_answered_in_time_while_the_store_is_down(tmp_path: Path) -> None:
    store = _store_at(free_port(), tmp_path)
    with sidecar(store, tmp_path / "pod", model=None) as pod:
        pod.start()
        began = time.monotonic()
        pod.end(FAILED)
        assert pod.answer() == FAILED
        assert time.monotonic() - began < 10  # as long as the launcher waits


def _store_at(port: int, tmp_path: Path) -> StoreUnderTest:
    secret = write_secret(
        tmp_path / "secret",
        url="s3://results",
        endpoint=f"http://127.0.0.1:{port}",
        accessKey=ACCESS_KEY,
        secretKey=SECRET_KEY,
    )
    return StoreUnderTest(str(secret), tmp_path / "nothing", tmp_path)


def test_a_result_outlives_a_store_that_is_down_and_a_sigterm(tmp_path: Path, digits: Path) -> None:
    gateway = Gateway(free_port(), tmp_path / "gateway")
    store = _store_at(gateway.port, tmp_path)
    absent = replace(store, location=str(tmp_path / "no secret yet"))
    with sidecar(absent, tmp_path / "pod", model="reader") as pod:
        pod.start()
        leave(digits, pod)
        pod.end(SUCCEEDED)
        wait_until(lambda: "try 2 follows" in pod.log, "a second try")
        pod.process.terminate()
        gateway.make_bucket("results")
        with gateway.running():
            Path(store.location).rename(absent.location)
            wait_until(lambda: pod.process.poll() is not None, "the sidecar's end")
        assert pod.process.returncode == 0
        assert pod.read("answer.json")["model"]["version"] == 1


def test_a_sidecar_that_waits_ends_at_once_on_sigterm(
    folder_store: StoreUnderTest, tmp_path: Path
) -> None:
    with sidecar(folder_store, tmp_path / "pod", model="reader") as pod:
        pod.start()
        began = time.monotonic()
        pod.process.terminate()
        assert pod.process.wait(10) == 0
        assert time.monotonic() - began < 2


def test_a_sidecar_killed_in_the_middle_of_an_upload_goes_on_when_it_is_started_again(
    s3_store: StoreUnderTest, tmp_path: Path, digits: Path
) -> None:
    folder = tmp_path / "pod"
    with sidecar(s3_store, folder, model="reader") as pod:
        pod.start()
        leave(digits, pod)
        (pod.output / "trainable").mkdir()
        with (pod.output / "trainable" / "weights").open("wb") as weights:
            weights.write(os.urandom(1024))
            weights.truncate(LARGE_BYTES)
        pod.end(SUCCEEDED)
        parts = s3_store.objects / ".sgwtmp"
        wait_until(lambda: any(parts.rglob("*")), "the first parts of the upload")
        pod.process.kill()
        pod.process.wait()
        assert pod.read("answer.json") is None
        assert s3_store.open().paths_below("models/team/reader/versions") == []
    with sidecar(s3_store, folder, model="reader") as again:
        answer = again.answer()
    assert answer["model"]["version"] == 1
    assert answer["model"]["sizeBytes"] > LARGE_BYTES
    assert s3_store.open().paths_in("models/team/reader/versions") == [
        "models/team/reader/versions/1.json"
    ]
    assert s3_store.json(f"runs/{UID}/success.json") == answer
