"""What people and machines do to objects that nobody planned for: all of it ends well."""

from __future__ import annotations

import contextlib
import http.client
import json
import select
import socket
from collections.abc import Iterator
from typing import Any

import grpc
import pytest

from e2e.clients import client
from e2e.jobs import attempts, model, service, training_job
from e2e.kubectl import Kubectl
from e2e.models import upload_digits
from e2e.test_serving import serves
from e2e.test_training import NO_GPU, completes, job_of
from e2e.waiting import condition, is_ready, is_true, wait_until
from tests.closed_paths import CALLS, CLOSED, DISGUISED

DEAF = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(3600)"


def uids(kubectl: Kubectl, selector: str) -> set[str]:
    return {pod["metadata"]["uid"] for pod in kubectl.list("pods", selector)}


def merge(kubectl: Kubectl, kind: str, name: str, change: dict[str, Any], *more: str) -> None:
    kubectl.run("patch", kind, name, "--type=merge", "-p", json.dumps(change), *more)


def test_a_job_made_anew_starts_when_the_pods_of_its_namesake_are_gone(
    bare_namespace: Kubectl,
) -> None:
    job = training_job("again", DEAF, resourcesPerNode=NO_GPU, terminationGracePeriodSeconds=5)
    bare_namespace.apply(job)
    wait_until(lambda: job_of(bare_namespace, "again"), is_ready, "a pod runs")
    before = uids(bare_namespace, "lepton.ai/name=again")
    (name,) = (pod["metadata"]["name"] for pod in bare_namespace.list("pods"))
    # It stays until it may go: nobody has to be quick to see who waits for that.
    merge(bare_namespace, "pod", name, {"metadata": {"finalizers": ["e2e.lepton.ai/held"]}})
    bare_namespace.delete("tj", "again", "--wait=false")
    bare_namespace.apply(job)
    told = wait_until(
        lambda: condition(job_of(bare_namespace, "again"), "Ready"),
        lambda ready: ready.get("reason") == "NameTaken",
        "a condition shows",
    )
    assert "that had this name before is still being deleted" in told["message"]
    merge(bare_namespace, "pod", name, {"metadata": {"finalizers": []}})
    found = wait_until(lambda: job_of(bare_namespace, "again"), is_ready, "a pod runs")
    assert [each["number"] for each in attempts(found)] == [1]
    assert not before & uids(bare_namespace, "lepton.ai/name=again")


def test_children_changed_by_hand_are_mended_or_replaced(namespace: Kubectl) -> None:
    namespace.apply(model("digits", source=upload_digits(namespace)), service("digits"))
    serves(namespace, "digits", version=1)
    selector = namespace.list("services")[0]["spec"]["selector"]
    merge(namespace, "service", "digits", {"spec": {"selector": {"lepton.ai/role": "nobody"}}})
    wait_until(
        lambda: namespace.list("services")[0]["spec"]["selector"],
        lambda found: found == selector,
        "an object is seen",
    )
    namespace.run("label", "pod", "digits-serve-0", "app.kubernetes.io/managed-by-")
    wait_until(
        lambda: namespace.get("pod", "digits-serve-1"), lambda pod: pod is not None, "a pod runs"
    )
    serves(namespace, "digits", version=1)


def test_sixteen_thresholds_on_metrics_that_do_not_exist_are_told(namespace: Kubectl) -> None:
    thresholds = [{"metric": f"unknown-{each}", "minimum": "0.5"} for each in range(16)]
    evaluation = {"thresholds": thresholds}
    namespace.apply(
        model("digits", source=upload_digits(namespace), evaluation=evaluation), service("digits")
    )
    found = wait_until(
        lambda: namespace.get("lm", "digits"),
        lambda each: is_true(each, "Stalled"),
        "a model is ready",
    )
    assert condition(found, "Stalled")["reason"] == "GateFailed"
    assert "The evaluation reports no metric 'unknown-0'" in condition(found, "Ready")["message"]


def test_a_job_suspended_and_resumed_at_once_completes(bare_namespace: Kubectl) -> None:
    bare_namespace.apply(
        training_job("toggled", "import time; time.sleep(3)", resourcesPerNode=NO_GPU)
    )
    for suspend in (True, False, True, False):
        merge(bare_namespace, "tj", "toggled", {"spec": {"suspend": suspend}})
    job = completes(bare_namespace, "toggled")
    assert {each["outcome"] for each in attempts(job)[:-1]} <= {"Suspended"}
    assert "restarts" not in job["status"] or not any(job["status"]["restarts"].values())


def test_a_status_written_by_hand_is_mended(bare_namespace: Kubectl) -> None:
    job = training_job("forged", "import time; time.sleep(10)", resourcesPerNode=NO_GPU)
    bare_namespace.apply(job)
    wait_until(lambda: job_of(bare_namespace, "forged"), is_ready, "a pod runs")
    before = uids(bare_namespace, "lepton.ai/name=forged")
    forged: dict[str, Any] = {"attempts": [], "attempt": None, "restarts": None, "conditions": []}
    merge(bare_namespace, "tj", "forged", {"status": forged}, "--subresource=status")
    found = wait_until(lambda: job_of(bare_namespace, "forged"), is_ready, "a condition shows")
    assert [each["number"] for each in attempts(found)] == [1]
    assert uids(bare_namespace, "lepton.ai/name=forged") == before
    completes(bare_namespace, "forged")


SERVICE = "/inference.GRPCInferenceService"
TIMEOUT_SECONDS = 10
TWO_GB = 2_000_000_000
PIECE = bytes(1 << 20)


def a_served_model(namespace: Kubectl, **spec: Any) -> str:
    """Serve a digits model; return the address of its Service."""
    source = upload_digits(namespace)
    namespace.apply(model("digits", source=source), service("digits", **spec))
    serves(namespace, "digits", version=1)
    return str((namespace.get("service", "digits") or {})["spec"]["clusterIP"])


def addresses(namespace: Kubectl, role: str) -> list[str]:
    return [pod["status"]["podIP"] for pod in namespace.list("pods", f"lepton.ai/role={role}")]


def status_of(host: str, method: str, path: str) -> int:
    """Send a path as it is; return the status of the answer."""
    with socket.create_connection((host, 8000), TIMEOUT_SECONDS) as client:
        head = f"{method} {path} HTTP/1.1\r\nHost: digits\r\nConnection: close\r\n"
        client.sendall(f"{head}Content-Length: 2\r\n\r\n{{}}".encode())
        return int(client.recv(1024).split()[1])


def answered_while_sending(client: socket.socket) -> bytes:
    """Send until an answer comes."""
    client.setblocking(False)
    while True:
        readable, writable, _ = select.select([client], [client], [], TIMEOUT_SECONDS)
        assert readable or writable, "the door takes nothing, and says nothing"
        if readable:
            return client.recv(1024)
        # Who has answered hangs up: what it said before that can still be read.
        with contextlib.suppress(BlockingIOError, ConnectionError):
            client.send(PIECE)


def code_of(host: str, method: str, message: bytes = b"") -> grpc.StatusCode:
    with grpc.insecure_channel(f"{host}:8001") as channel:
        try:
            channel.unary_unary(f"{SERVICE}/{method}")(message, timeout=TIMEOUT_SECONDS)
        except grpc.RpcError as error:
            return grpc.StatusCode(error.code())
    return grpc.StatusCode.OK


def in_flight(namespace: Kubectl) -> int:
    """Return what all doors of the namespace have under way at its pods."""
    pods = addresses(namespace, "serve")
    total = 0
    for door in addresses(namespace, "door"):
        connection = http.client.HTTPConnection(door, 9902, timeout=TIMEOUT_SECONDS)
        connection.request("GET", "/in-flight")
        told = json.loads(connection.getresponse().read())
        connection.close()
        total += sum(count for place, count in told.items() if place.rpartition(":")[0] in pods)
    return total


@pytest.fixture
def answers(namespace: Kubectl) -> Iterator[None]:
    """After the test the service is what it was: it answers, and nothing is in flight."""
    yield
    assert client(namespace, "digits").version() == "1"
    wait_until(lambda: in_flight(namespace), lambda count: count == 0, "a condition shows")
    serves(namespace, "digits", version=1)
    assert not any(
        status["restartCount"]
        for pod in namespace.list("pods", "lepton.ai/role in (serve, door)")
        for status in pod["status"]["containerStatuses"]
    )


@pytest.mark.usefixtures("answers")
def test_nobody_changes_a_server_neither_through_the_door_nor_past_it(namespace: Kubectl) -> None:
    """No network here enforces the policies that keep others than the door from a pod."""
    host = a_served_model(namespace)
    (pod,) = addresses(namespace, "serve")
    for method in ("GET", "POST"):
        for path in (*CLOSED, *DISGUISED):
            assert status_of(host, method, path) == 403, path
        for path in CLOSED:
            assert status_of(pod, method, path) in (403, 404), path
    for call in CALLS:
        assert code_of(host, call) == grpc.StatusCode.PERMISSION_DENIED, call
        assert code_of(pod, call) == grpc.StatusCode.UNAVAILABLE, call


@pytest.mark.usefixtures("answers")
def test_clients_that_make_no_sense_harm_nobody(namespace: Kubectl) -> None:
    host = a_served_model(namespace)
    for message in (b"", b"\xff" * 20, b"\x0a\xff", bytes(1000)):
        for _ in range(10):
            assert code_of(host, "ModelInfer", message) != grpc.StatusCode.OK
    for _ in range(20):
        assert code_of(host, "NoSuchCall") == grpc.StatusCode.UNIMPLEMENTED
        assert status_of(host, "POST", "/v2/models/digits/infer") in (400, 500)
        assert status_of(host, "GET", "/v2/models/nobody/ready") == 400
        with socket.create_connection((host, 8000), TIMEOUT_SECONDS) as client:
            client.sendall(b"POST /v2/models/digits/infer HTTP/1.1\r\nContent-Length: 9\r\n\r\n{")


@pytest.mark.usefixtures("answers")
def test_a_body_of_two_gigabytes_costs_the_door_nothing(namespace: Kubectl) -> None:
    host = a_served_model(namespace)
    head = b"POST /v2/models/digits/infer HTTP/1.1\r\nHost: digits\r\n"
    with socket.create_connection((host, 8000), TIMEOUT_SECONDS) as client:
        client.sendall(head + b"Content-Length: %d\r\n\r\n" % TWO_GB)
        told = answered_while_sending(client)
    assert told.startswith(b"HTTP/1.1 413 ")
