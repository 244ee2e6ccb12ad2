"""LeptonModels on real pods and a real store: versions, gates, and what is refused."""

from __future__ import annotations

import base64
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from e2e.jobs import model, training_job
from e2e.kubectl import Kubectl
from e2e.models import bucket_of, upload, upload_digits
from e2e.test_training import NO_GPU, completes
from e2e.waiting import condition, has_reason, is_ready, is_true, wait_until
from tests.fixtures import onnx_models

GATE = {"thresholds": [{"metric": "accuracy", "minimum": "0.85"}]}


def model_of(kubectl: Kubectl, name: str) -> dict[str, Any] | None:
    return kubectl.get("leptonmodel", name)


def ready(kubectl: Kubectl, name: str) -> dict[str, Any]:
    found = wait_until(lambda: model_of(kubectl, name), is_ready, "a model is ready")
    assert found is not None
    return found


def stalled(kubectl: Kubectl, name: str) -> str:
    """Wait until only a change of the model can mend it; return the sentence."""
    found = wait_until(
        lambda: model_of(kubectl, name), lambda each: is_true(each, "Stalled"), "a model is ready"
    )
    return str(condition(found, "Stalled")["message"])


def outcome_of_newest(found: dict[str, Any] | None) -> str:
    (newest, *_) = (found or {}).get("status", {}).get("versions", [{}])
    return str(newest.get("gate", {}).get("outcome"))


def job_with_model(name: str, seed: int = 0, steps: int = onnx_models.STEPS) -> dict[str, Any]:
    """Return a job that leaves a fixture's model, as a script of a user's would."""
    with tempfile.TemporaryDirectory() as folder:
        file = onnx_models.write_digits_model(Path(folder) / "model.onnx", seed, steps)
        text = base64.b64encode(file.read_bytes()).decode()
    code = f"""
import base64, os, pathlib
folder = pathlib.Path(os.environ["LEPTON_OUTPUT_DIR"])
(folder / "model.onnx").write_bytes(base64.b64decode("{text}"))
"""
    return training_job(name, code, resourcesPerNode=NO_GPU, output={"model": name})


def test_a_source_becomes_a_version_and_is_evaluated(namespace: Kubectl) -> None:
    namespace.apply(model("digits", source=upload_digits(namespace), evaluation=GATE))
    found = ready(namespace, "digits")
    (version,) = found["status"]["versions"]
    assert version["version"] == 1
    assert version["gate"]["outcome"] == "Passed"
    assert version["evaluation"]["samples"] == len(onnx_models.held_out_digits()[1])
    assert float(version["evaluation"]["metrics"]["accuracy"]) > 0.9
    assert found["status"]["served"]["digest"] == version["digest"]
    assert found["status"]["served"]["score"].startswith("accuracy=0.9")


def test_a_version_that_fails_the_gate_takes_nobodys_place(namespace: Kubectl) -> None:
    namespace.apply(model("digits", source=upload_digits(namespace), evaluation=GATE))
    ready(namespace, "digits")
    worse = upload_digits(namespace, seed=1, steps=0)
    namespace.apply(model("digits", source=worse, evaluation=GATE))
    found = wait_until(
        lambda: model_of(namespace, "digits"),
        lambda each: condition(each, "LatestAccepted").get("status") == "False",
        "a model is ready",
    )
    assert found is not None
    newest, before = found["status"]["versions"]
    assert (newest["version"], newest["gate"]["outcome"]) == (2, "Failed")
    assert (before["version"], before["gate"]["outcome"]) == (1, "Passed")
    assert found["status"]["served"]["version"] == 1
    assert is_ready(found)


def test_changed_thresholds_need_no_pod(namespace: Kubectl) -> None:
    namespace.apply(model("digits", source=upload_digits(namespace), evaluation=GATE))
    ready(namespace, "digits")
    pods = {pod["metadata"]["name"] for pod in namespace.list("pods")}
    impossible = {"thresholds": [{"metric": "accuracy", "minimum": "0.999"}]}
    namespace.run("patch", "lm", "digits", "--type=merge", "-p", _json({"evaluation": impossible}))
    found = wait_until(
        lambda: model_of(namespace, "digits"),
        lambda each: outcome_of_newest(each) == "Failed",
        "a condition shows",
    )
    assert found is not None
    # What serves stays until another passes.
    assert found["status"]["served"]["version"] == 1
    assert {pod["metadata"]["name"] for pod in namespace.list("pods")} <= pods


def test_a_wiped_status_comes_back_from_the_store(namespace: Kubectl) -> None:
    namespace.apply(job_with_model("wiped"), model("wiped"))
    job = completes(namespace, "wiped")
    before = ready(namespace, "wiped")["status"]["versions"]
    for kind in ("trainingjob", "leptonmodel"):
        namespace.run(
            *("patch", kind, "wiped", "--subresource=status", "--type=json"),
            *("-p", '[{"op": "replace", "path": "/status", "value": {}}]'),
        )
    again = completes(namespace, "wiped")
    assert again["status"]["output"] == job["status"]["output"]
    assert ready(namespace, "wiped")["status"]["versions"] == before
    # Trained again would be two records of two runs' attempts, and a second version.
    records = [each["path"] for each in _objects(namespace, "models/")]
    assert sum(path.endswith("/versions/1.json") for path in records) == 1
    assert not any(path.endswith("/versions/2.json") for path in records)


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (onnx_models.write_broken_model, "ONNX"),
        (onnx_models.write_too_new_model, "21"),
    ],
    ids=["a file that is no ONNX", "an opset that Triton cannot load"],
)
def test_a_file_that_cannot_be_served_is_refused(
    namespace: Kubectl, tmp_path: Path, write: Any, words: str
) -> None:
    write(tmp_path / "model.onnx")
    namespace.apply(model("refused", source=upload(namespace, tmp_path, "uploads/refused")))
    assert words in stalled(namespace, "refused")


def test_a_digest_that_does_not_match_is_refused_before_the_file_is_read(
    namespace: Kubectl,
) -> None:
    source = upload_digits(namespace) | {"digest": f"sha256:{'0' * 64}"}
    namespace.apply(model("forged", source=source))
    assert source["digest"] in stalled(namespace, "forged")
    assert not any("/versions/" in each["path"] for each in _objects(namespace, "models/"))


def test_thresholds_without_data_are_refused(namespace: Kubectl) -> None:
    namespace.apply(job_with_model("dataless"), model("dataless", evaluation=GATE))
    completes(namespace, "dataless")
    assert "held-out" in stalled(namespace, "dataless")


def test_a_dataset_without_labels_is_refused(namespace: Kubectl, tmp_path: Path) -> None:
    source = upload_digits(namespace)
    store, bucket = bucket_of(namespace)
    store.put("data/unlabelled.npz", _unlabelled(tmp_path))
    evaluation = {"dataset": f"s3://{bucket}/data/unlabelled.npz", **GATE}
    namespace.apply(model("unlabelled", source=source, evaluation=evaluation))
    assert "labels" in stalled(namespace, "unlabelled")


def test_a_missing_store_is_waited_for(bare_namespace: Kubectl) -> None:
    bare_namespace.apply(model("storeless"))
    found = wait_until(
        lambda: model_of(bare_namespace, "storeless"),
        lambda each: has_reason(each, "NoStore"),
        "a pod runs",
    )
    assert is_true(found, "Reconciling")


def test_a_model_with_a_source_takes_nothing_from_jobs(namespace: Kubectl) -> None:
    namespace.apply(model("fixed", source=upload_digits(namespace)))
    ready(namespace, "fixed")
    namespace.apply(job_with_model("fixed"))
    found = wait_until(
        lambda: namespace.get("trainingjob", "fixed"),
        lambda job: has_reason(job, "OutputRefused"),
        "a condition shows",
    )
    assert is_true(found, "Reconciling")
    assert not namespace.list("pods", "lepton.ai/role=train")


def _objects(namespace: Kubectl, prefix: str) -> list[dict[str, Any]]:
    store, _ = bucket_of(namespace)
    return [dict(each) for batch in store.list(prefix) for each in batch]


def _unlabelled(folder: Path) -> Path:
    np.savez(folder / "unlabelled.npz", x=onnx_models.held_out_digits()[0])
    return folder / "unlabelled.npz"


def _json(spec: dict[str, Any]) -> str:
    return json.dumps({"spec": spec})
