"""The door of a namespace, and pods that drain, against a real API server."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from e2e.waiting import wait_until
from lepton_operator import names
from lepton_operator.build.door import HEALTH_PORT
from lepton_operator.build.serving import GRPC_PORT, HTTP_PORT, SERVE
from tests.integration.conftest import Namespace, Operators
from tests.integration.kubelet import Kubelet
from tests.integration.test_operator import writes

SEEN, GONE = "an object is seen", "a pod is gone"
DOOR_ADDRESS = "127.0.9.2"
POD_ADDRESS = "10.0.1.2"
DIGEST = f"sha256:{'ab' * 32}"
OBJECTS = ("Deployment", "NetworkPolicy", "PodDisruptionBudget")


class Door(ThreadingHTTPServer):
    """Tells how many requests the second serving pod has."""

    def __init__(self) -> None:
        self.requests = 1
        self.asked: list[str] = []
        super().__init__((DOOR_ADDRESS, HEALTH_PORT), _Handler)


class _Handler(BaseHTTPRequestHandler):
    server: Door

    def do_GET(self) -> None:
        found: dict[str, int] = {}
        if self.path != "/failing":  # which a door is asked once, whether or not a pod drains
            self.server.asked.append(self.path)
            found = {f"{POD_ADDRESS}:8000": self.server.requests}
        told = f"{json.dumps(found)}\n".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(told)))
        self.end_headers()
        self.wfile.write(told)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base's name
        """A test asserts; it does not chat."""


@pytest.fixture
def door() -> Iterator[Door]:
    with Door() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def serve(namespace: Namespace, **spec: Any) -> None:
    """A service of a model that has a version."""
    namespace.apply("LeptonModel", "digits", spec={})
    version = {"version": 1, "digest": DIGEST}
    served = {"observedGeneration": 1, "versions": [version], "served": version}
    namespace.api.patch(namespace.path("LeptonModel", "digits", "status"), {"status": served})
    namespace.apply("InferenceService", "digits", spec={"model": {"name": "digits"}, **spec})


def objects_of_doors(namespace: Namespace) -> list[str]:
    every = [each for kind in OBJECTS for each in namespace.list(kind)]
    labels = [each["metadata"].get("labels", {}) for each in every]
    return [each[names.NAME] for each in labels if each.get(names.KIND) == names.DOOR_KIND]


def test_the_first_service_brings_a_door_and_the_last_takes_it_away(
    namespace: Namespace, operators: Operators
) -> None:
    operator = operators.start()
    serve(namespace)
    wait_until(lambda: objects_of_doors(namespace), lambda found: len(found) == 4, SEEN)
    time.sleep(1)
    before = writes(operator)
    time.sleep(3)
    assert writes(operator) == before
    namespace.delete("InferenceService", "digits")
    wait_until(lambda: objects_of_doors(namespace), lambda found: not found, GONE)


def kubernetes_service(namespace: Namespace) -> dict[str, Any]:
    return namespace.get("Service", "digits") or {}


def make_service_of_old(namespace: Namespace) -> None:
    """Make the Service as an operator without doors did."""
    owner = (namespace.get("InferenceService", "digits") or {})["metadata"]
    reference = {"apiVersion": "lepton.ai/v1alpha1", "kind": "InferenceService", "name": "digits"}
    labels = names.owner_labels("InferenceService", "digits")
    ports = ((HTTP_PORT, "http"), (GRPC_PORT, "grpc"))
    namespace.apply(
        "Service",
        "digits",
        metadata={
            "name": "digits",
            "labels": labels,
            "ownerReferences": [{**reference, "uid": owner["uid"], "controller": True}],
        },
        spec={
            "selector": {**labels, names.ROLE: SERVE},
            "ports": [{"name": name, "port": port, "targetPort": name} for port, name in ports],
        },
    )


def test_a_service_of_old_leads_to_its_pods_until_a_door_is_ready(
    namespace: Namespace, operators: Operators
) -> None:
    serve(namespace)
    make_service_of_old(namespace)
    before = kubernetes_service(namespace)["spec"]
    look = partial(kubernetes_service, namespace)
    operators.start()
    Kubelet(namespace).run("digits-serve-0")
    namespace.wait_for_reason("InferenceService", "digits", "Serving")
    announced = wait_until(look, lambda found: names.DOOR_PORT in str(found), SEEN)
    wait_until(lambda: objects_of_doors(namespace), lambda found: len(found) == 3, SEEN)
    assert announced["spec"] == before
    assert namespace.get("NetworkPolicy", names.SERVING_POLICY) is None

    Kubelet(namespace).open_door()
    led = wait_until(look, lambda found: found["spec"]["selector"] == names.door_labels(), SEEN)
    port = int(announced["metadata"]["annotations"][names.DOOR_PORT])
    assert {each["targetPort"] for each in led["spec"]["ports"]} == {port}
    assert names.DOOR_PORT not in str(led)
    wait_until(lambda: objects_of_doors(namespace), lambda found: len(found) == 4, SEEN)


def test_a_pod_goes_when_its_door_tells_that_it_has_no_requests(
    namespace: Namespace, operators: Operators, door: Door
) -> None:
    operators.start()
    serve(namespace, replicas=2)
    kubelet = Kubelet(namespace)
    kubelet.run("digits-serve-0", "10.0.1.1")
    kubelet.run("digits-serve-1", POD_ADDRESS)
    kubelet.open_door(DOOR_ADDRESS)
    namespace.wait_for_reason("InferenceService", "digits", "Serving")
    assert door.asked == []

    namespace.apply("InferenceService", "digits", spec={"model": {"name": "digits"}, "replicas": 1})
    marked = wait_until(
        lambda: namespace.get("Pod", "digits-serve-1") or {},
        lambda found: names.DRAINING in found["metadata"]["annotations"],
        SEEN,
    )
    time.sleep(2)
    pod = namespace.get("Pod", "digits-serve-1")
    assert pod is not None
    assert pod["metadata"]["annotations"] == marked["metadata"]["annotations"]
    status = (namespace.get("InferenceService", "digits") or {})["status"]
    assert status["rollout"]["phase"] == "Draining"
    assert "1 request is in flight" in status["waiting"][0]["message"]
    assert status["conditions"][0]["status"] == "True"

    door.requests = 0
    told = time.monotonic()
    wait_until(namespace.pods, lambda found: "digits-serve-1" not in found, GONE)
    assert time.monotonic() - told < 3
    assert set(door.asked) == {"/in-flight?draining"}
