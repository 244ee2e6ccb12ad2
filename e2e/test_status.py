"""Statuses that can be believed: by kstatus, by kubectl, and while pods do not serve."""

from __future__ import annotations

import http.client
import json
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from e2e.cluster.target import Target
from e2e.jobs import model, service, training_job
from e2e.kstatus import kstatus
from e2e.kubectl import Kubectl, Manifest
from e2e.models import bucket_of, upload, upload_digits
from e2e.processes import processes_of
from e2e.test_models import ready, stalled
from e2e.test_serving import serves, service_of
from e2e.test_training import NO_GPU, completes
from e2e.waiting import condition, has_reason, is_ready, is_true, wait_until
from tests.fixtures.onnx_models import write_table_model

WRONG_DIGEST = "sha256:" + "0" * 64


def created(namespace: Kubectl, manifest: Manifest) -> dict[str, Any]:
    """Create an object, and return it as it was in that moment."""
    given = json.dumps(manifest)
    found: dict[str, Any] = json.loads(
        namespace.run("create", "-o", "json", "-f", "-", given=given)
    )
    return found


def patched(namespace: Kubectl, kind: str, name: str, spec: Manifest) -> dict[str, Any]:
    """Change an object, and return it as it was in that moment."""
    patch = json.dumps({"spec": spec})
    said = namespace.run("patch", kind, name, "--type=merge", "-o", "json", "-p", patch)
    found: dict[str, Any] = json.loads(said)
    return found


def waits_for_ready(namespace: Kubectl, what: str) -> None:
    namespace.run("wait", "--for=condition=Ready", what, "--timeout=150s", timeout_seconds=160)


def test_kstatus_and_kubectl_judge_all_kinds_rightly(namespace: Kubectl) -> None:
    source = upload_digits(namespace)
    job = training_job("good", "pass", resourcesPerNode=NO_GPU)
    bad_code = training_job(
        "bad", "raise SystemExit(3)", resourcesPerNode=NO_GPU, failurePolicy={"maxRestarts": 0}
    )
    wrong = model("wrong", source={**source, "digest": WRONG_DIGEST})
    fresh = [
        created(namespace, each)
        for each in (service("digits"), model("digits", source=source), job, bad_code, wrong)
    ]
    assert [each["status"] for each in fresh] == [{"observedGeneration": -1}] * len(fresh)
    assert {kstatus(each) for each in fresh} == {"InProgress"}

    waits_for_ready(namespace, "lisvc/digits")
    assert kstatus(service_of(namespace, "digits")) == "Current"
    assert kstatus(ready(namespace, "digits")) == "Current"
    assert kstatus(completes(namespace, "good")) == "Current"
    stalled(namespace, "wrong")
    assert kstatus(namespace.get("leptonmodel", "wrong")) == "Failed"
    failed = wait_until(
        lambda: namespace.get("trainingjob", "bad"),
        lambda each: is_true(each, "Failed"),
        "a job fails",
    )
    assert kstatus(failed) == "Failed"

    more = patched(namespace, "lisvc", "digits", {"replicas": 2})
    assert condition(more, "Ready")["status"] == "True", "of the generation before"
    assert kstatus(more) == "InProgress"
    waits_for_ready(namespace, "lisvc/digits")
    found = service_of(namespace, "digits")
    assert found is not None
    assert found["status"]["replicas"] == {"current": 2, "ready": 2, "updated": 2}
    assert kstatus(found) == "Current"

    patched(namespace, "lisvc", "digits", {"model": {"name": "nothing"}})
    found = wait_until(
        lambda: service_of(namespace, "digits"),
        lambda each: has_reason(each, "ModelNotFound"),
        "a condition shows",
    )
    assert kstatus(found) == "InProgress", "what can be mended elsewhere is no failure"


@contextmanager
def client(namespace: Kubectl, name: str) -> Iterator[Callable[[int], int]]:
    """Give what looks up a number, over one connection, and returns the HTTP status."""
    found = namespace.get("service", name)
    assert found is not None
    connection = http.client.HTTPConnection(found["spec"]["clusterIP"], 8000, timeout=10)

    def look_up(index: int) -> int:
        given = {"name": "index", "datatype": "INT64", "shape": [1, 1], "data": [index]}
        body = json.dumps({"inputs": [given]})
        connection.request("POST", f"/v2/models/{name}/infer", body)
        answer = connection.getresponse()
        answer.read()
        return answer.status

    with closing(connection):
        yield look_up


def test_a_pod_that_is_ready_and_fails_its_requests_is_named(
    namespace: Kubectl, tmp_path: Path
) -> None:
    write_table_model(tmp_path / "model.onnx")
    namespace.apply(model("table", source=upload(namespace, tmp_path, "uploads/table")))
    namespace.apply(service("table"))
    serves(namespace, "table", version=1)
    with client(namespace, "table") as look_up:
        assert look_up(4) == 200

        def failing() -> dict[str, Any] | None:
            assert look_up(99) == 500
            return service_of(namespace, "table")

        found = wait_until(failing, lambda each: has_reason(each, "RequestsFail"), "a pod is named")
        assert found is not None
        pod = namespace.get("pod", "table-serve-0")
        assert condition(pod, "Ready")["status"] == "True"
        assert condition(found, "Ready")["status"] == "False"
        assert kstatus(found) == "InProgress"
        assert found["status"]["replicas"] == {"current": 1, "ready": 0, "updated": 0}
        (waiting,) = found["status"]["waiting"]
        assert waiting["pod"] == "table-serve-0"
        assert "it answered with HTTP status 500, and nothing without" in waiting["message"]
        assert look_up(4) == 200
        found = wait_until(lambda: service_of(namespace, "table"), is_ready, "a pod is named")
    assert found is not None
    assert found["status"]["lastFailure"]["reason"] == "RequestsFail"


@contextmanager
def stopped(pod: Manifest) -> Iterator[None]:
    """Have the pod's server stand still for a while."""
    servers = processes_of(pod["metadata"]["uid"], running=b"tritonserver")
    assert servers
    for pid in servers:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in servers:
            os.kill(pid, signal.SIGCONT)


def test_a_pod_that_stops_answering_takes_ready_away(namespace: Kubectl, installed: Target) -> None:
    if installed.embedded is None:
        pytest.skip("Triton's process is on another machine")
    namespace.apply(model("digits", source=upload_digits(namespace)), service("digits"))
    serves(namespace, "digits", version=1)
    pod = namespace.get("pod", "digits-serve-0")
    assert pod is not None
    with stopped(pod):
        found = wait_until(
            lambda: service_of(namespace, "digits"),
            lambda each: has_reason(each, "NotAnswering"),
            "a pod is named",
        )
        assert found is not None
        assert condition(found, "Ready")["status"] == "False"
        assert kstatus(found) == "InProgress"
        assert [each["pod"] for each in found["status"]["waiting"]] == ["digits-serve-0"]
    found = serves(namespace, "digits", version=1)
    assert found["status"]["lastFailure"]["reason"] == "NotAnswering"


def test_a_model_that_cannot_be_fetched_says_how_many_bytes_came(namespace: Kubectl) -> None:
    namespace.apply(model("digits", source=upload_digits(namespace)))
    ready(namespace, "digits")
    store, _ = bucket_of(namespace)
    for each in (path for page in store.list() for path in page):
        if "/blobs/" in each["path"] and each["size"] > 2000:
            store.put(each["path"], b"x" * each["size"])
    namespace.apply(service("digits"))
    found = wait_until(
        lambda: service_of(namespace, "digits"),
        lambda each: has_reason(each, "FetchFailed"),
        "a service is ready",
    )
    assert "After " in condition(found, "Ready")["message"]
    assert "The store's bytes of model.onnx" in condition(found, "Ready")["message"]
    assert kstatus(found) == "InProgress"


def test_a_server_that_has_too_little_memory_says_so(namespace: Kubectl) -> None:
    namespace.apply(model("digits", source=upload_digits(namespace)))
    small = {"requests": {"cpu": "10m"}, "limits": {"memory": "48Mi"}}
    namespace.apply(service("digits", resources=small))
    found = wait_until(
        lambda: service_of(namespace, "digits"),
        lambda each: has_reason(each, "OutOfMemory"),
        "a service is ready",
    )
    assert found is not None
    (waiting,) = found["status"]["waiting"]
    assert "raise the memory in resources" in waiting["message"]
    assert found["status"]["lastFailure"]["reason"] == "OutOfMemory"
