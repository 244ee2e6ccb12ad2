"""The door of a namespace, and pods that drain, against a real API server."""

from __future__ import annotations

import time
from functools import partial
from typing import Any

from e2e.waiting import wait_until
from lepton_operator import names
from lepton_operator.build.serving import GRPC_PORT, HTTP_PORT, SERVE
from tests.integration.conftest import Namespace, Operators
from tests.integration.door import DOOR_ADDRESS, Door
from tests.integration.kubelet import Kubelet
from tests.integration.test_operator import writes, writes_at_rest

SEEN, GONE = "an object is seen", "a pod is gone"
POD_ADDRESS = "10.0.1.2"
DIGEST = f"sha256:{'ab' * 32}"
OBJECTS = ("Deployment", "NetworkPolicy", "PodDisruptionBudget")


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
    namespace.wait_for_reason("InferenceService", "digits", "Starting")
    time.sleep(1)
    before = writes_at_rest(operator)
    time.sleep(3)
    assert writes(operator) == before
    namespace.delete("InferenceService", "digits")
    wait_until(lambda: objects_of_doors(namespace), lambda found: not found, GONE)
    time.sleep(1)
    assert writes_at_rest(operator) == before + 4, "each object is deleted once"


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


def test_a_service_of_old_leads_to_its_pods_until_the_doors_listen_for_it(
    namespace: Namespace, operators: Operators, door: Door
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

    port = int(announced["metadata"]["annotations"][names.DOOR_PORT])
    door.listeners = [port + 1]
    Kubelet(namespace).open_door(DOOR_ADDRESS)
    wait_until(lambda: list(door.asked), bool, "an object is seen")
    time.sleep(2)
    assert look()["spec"] == before

    door.listeners = [port, port + 1]
    led = wait_until(look, lambda found: found["spec"]["selector"] == names.door_labels(), SEEN)
    assert {each["targetPort"] for each in led["spec"]["ports"]} == {port}
    assert names.DOOR_PORT not in str(led)
    wait_until(lambda: objects_of_doors(namespace), lambda found: len(found) == 4, SEEN)
    wait_until(partial(asked_within_a_second, door), lambda asked: not asked, SEEN)


def asked_within_a_second(door: Door) -> list[str]:
    door.asked.clear()
    time.sleep(1)
    return list(door.asked)


def test_a_pod_goes_when_its_door_tells_that_it_has_no_requests(
    namespace: Namespace, operators: Operators, door: Door
) -> None:
    operators.start()
    serve(namespace, replicas=2)
    kubelet = Kubelet(namespace)
    kubelet.run("digits-serve-0", "10.0.1.1")
    kubelet.run("digits-serve-1", POD_ADDRESS)
    door.in_flight = {POD_ADDRESS: 1}
    kubelet.open_door(DOOR_ADDRESS)
    namespace.wait_for_reason("InferenceService", "digits", "Serving")
    assert door.asked == []

    namespace.apply("InferenceService", "digits", spec={"model": {"name": "digits"}, "replicas": 1})
    marked = wait_until(
        lambda: namespace.get("Pod", "digits-serve-1") or {},
        lambda found: names.DRAINING in found["metadata"]["annotations"],
        SEEN,
    )
    # A door that did not answer in time is believed to know something ten seconds later.
    status = wait_until(
        lambda: (namespace.get("InferenceService", "digits") or {})["status"],
        lambda found: "1 request is in flight" in str(found.get("waiting")),
        "a condition shows",
    )
    assert status["rollout"]["phase"] == "Draining"
    assert "1 request is in flight" in status["waiting"][0]["message"]
    assert status["conditions"][0]["status"] == "True"
    time.sleep(2)
    pod = namespace.get("Pod", "digits-serve-1")
    assert pod is not None
    assert pod["metadata"]["annotations"] == marked["metadata"]["annotations"]

    door.in_flight = {POD_ADDRESS: 0}  # the time to drain is not over for minutes
    wait_until(namespace.pods, lambda found: "digits-serve-1" not in found, GONE)
    assert set(door.asked) == {"/in-flight?draining"}
