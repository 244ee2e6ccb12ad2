"""What goes wrong around services, against a real API server."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest

from e2e.cluster.control_plane import ControlPlane
from e2e.waiting import wait_until
from lepton_operator import names
from tests.integration.conftest import DEFAULTS, Namespace, Operators
from tests.integration.door import DOOR_ADDRESS, Door
from tests.integration.kubelet import DOOR, Kubelet
from tests.integration.test_drains import GONE, SEEN, objects_of_doors, serve

NODES = ("lost-1", "kept-1")
NODE_NOT_READY_SECONDS = 2


def target_ports(namespace: Namespace, name: str) -> set[Any]:
    found = namespace.get("Service", name) or {"spec": {"ports": []}}
    return {each["targetPort"] for each in found["spec"]["ports"]}


def status(namespace: Namespace, name: str = "digits") -> dict[str, Any]:
    return dict((namespace.get("InferenceService", name) or {}).get("status", {}))


# Two that claim one thing


def test_of_two_services_at_one_port_the_younger_gets_another(
    namespace: Namespace, operators: Operators
) -> None:
    operators.start()
    for name in ("older", "younger"):
        namespace.apply("InferenceService", name, spec={"model": {"name": "digits"}})
        wait_until(partial(target_ports, namespace, name), bool, SEEN)
        time.sleep(1)  # ages are whole seconds
    (port,) = target_ports(namespace, "older")
    service = namespace.get("Service", "younger") or {}
    ports = [{**each, "targetPort": port} for each in service["spec"]["ports"]]
    namespace.api.patch(namespace.path("Service", "younger"), {"spec": {"ports": ports}})
    wait_until(
        partial(target_ports, namespace, "younger"),
        lambda found: len(found) == 1 and found != {port},
        SEEN,
    )
    assert target_ports(namespace, "older") == {port}


def test_a_service_whose_name_a_strangers_service_has_says_so_and_gets_it_later(
    namespace: Namespace, operators: Operators
) -> None:
    operators.start()
    spec = {"ports": [{"port": 80}], "selector": {"app": "another"}}
    namespace.apply("Service", "digits", spec=spec)
    serve(namespace)
    said = namespace.wait_for_reason("InferenceService", "digits", "NameTaken")
    assert "digits" in said
    stranger = namespace.get("Service", "digits") or {}
    assert stranger["spec"]["selector"] == {"app": "another"}
    assert "ownerReferences" not in stranger["metadata"]

    namespace.delete("Service", "digits")
    serve(namespace, replicas=2)  # the next generation: a refusal is tried again after a minute
    ports = wait_until(partial(target_ports, namespace, "digits"), bool, SEEN)
    assert ports < set(names.DOOR_PORTS)


# No door


def test_where_no_door_can_be_the_status_says_what_to_do(
    namespace: Namespace, operators: Operators
) -> None:
    """A namespace that is not in door.namespaces has door pods that are never ready."""
    operators.start()
    serve(namespace)
    kubelet = Kubelet(namespace)
    kubelet.run("digits-serve-0")
    said = namespace.wait_for_reason("InferenceService", "digits", "DoorNotReady")
    assert "add it there and upgrade the release" in said
    assert "door.namespaces" in said
    kubelet.open_door()
    namespace.wait_for_reason("InferenceService", "digits", "Serving")


# Deleted, and made anew


def test_a_service_deleted_in_the_middle_of_a_rollout_leaves_nothing_and_can_come_back(
    namespace: Namespace, operators: Operators, door: Door
) -> None:
    operator = operators.start()
    serve(namespace)
    kubelet = Kubelet(namespace)
    kubelet.run("digits-serve-0")
    kubelet.open_door(DOOR_ADDRESS)
    namespace.wait_for_reason("InferenceService", "digits", "Serving")
    serve(namespace, batching={"maxBatchSize": 8})
    wait_until(namespace.pods, lambda found: "digits-serve-1" in found, SEEN)
    first = (namespace.get("InferenceService", "digits") or {})["metadata"]["uid"]

    namespace.delete("InferenceService", "digits")
    wait_until(partial(objects_of_doors, namespace), lambda found: not found, GONE)
    # Nobody collects garbage here: what it left stands in the way of the next one.
    serve(namespace)
    namespace.wait_for_reason("InferenceService", "digits", "NameTaken")
    assert {owner(namespace, each) for each in ("digits-serve-0", "digits-serve-1")} == {first}
    for kind, name in (("Service", "digits"), ("PodDisruptionBudget", "digits-serve")):
        namespace.delete(kind, name)
    serve(namespace, replicas=2)
    made = wait_until(namespace.pods, lambda found: len(names_of(found)) == 4, SEEN)
    for each in names_of(made):
        if owner(namespace, each) != first:
            kubelet.run(each)
    namespace.wait_for_reason("InferenceService", "digits", "Serving")
    assert not operator.says(" level=error ")
    assert door.asked == []


def owner(namespace: Namespace, pod: str) -> str:
    (found,) = (namespace.get("Pod", pod) or {})["metadata"]["ownerReferences"]
    return str(found["uid"])


def names_of(pods: list[str]) -> list[str]:
    return [each for each in pods if each.startswith("digits-serve-")]


# A node that is lost


@pytest.fixture
def nodes(plane: ControlPlane) -> Iterator[None]:
    for name in NODES:
        node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}}
        plane.api.apply(f"/api/v1/nodes/{name}", node)
        say_ready(plane, name, "True")
    yield
    for name in NODES:
        plane.api.delete(f"/api/v1/nodes/{name}")


def say_ready(plane: ControlPlane, node: str, ready: str) -> None:
    """Say what a kubelet, or the node controller in its place, says of a node."""
    since = (datetime.now(UTC) - timedelta(seconds=1)).strftime("%Y-%m-%dT%H:%M:%SZ")
    condition = {"type": "Ready", "status": ready, "lastTransitionTime": since}
    plane.api.patch(f"/api/v1/nodes/{node}/status", {"status": {"conditions": [condition]}})


@pytest.mark.usefixtures("nodes")
def test_a_node_lost_with_half_of_the_replicas_has_them_made_elsewhere_and_may_come_back(
    plane: ControlPlane, namespace: Namespace, operators: Operators, door: Door
) -> None:
    defaults = {**DEFAULTS, "nodeNotReadySeconds": NODE_NOT_READY_SECONDS}
    operator = operators.start(watchNamespaces=[], defaults=defaults)
    serve(namespace, replicas=4)
    kubelet = Kubelet(namespace)
    for number in range(4):
        bring_up(kubelet, number, NODES[number % 2])
    kubelet.open_door(DOOR_ADDRESS)
    namespace.wait_for_reason("InferenceService", "digits", "Serving")

    say_ready(plane, NODES[0], "Unknown")
    for number in (0, 2):
        kubelet.lose(f"digits-serve-{number}")
    wait_until(namespace.pods, lambda found: len(names_of(found)) == 6, SEEN)
    expected = Counter(NodeLost=2, Starting=2)
    wait_until(partial(reasons, namespace), lambda found: found == expected, SEEN)
    assert status(namespace)["replicas"]["ready"] == 2
    for number in (4, 5):
        bring_up(kubelet, number, NODES[1])
    namespace.wait_for_reason("InferenceService", "digits", "Serving")
    assert len(names_of(namespace.pods())) == 6, "who cannot be asked is not deleted"

    # It is back, and its pods served all the time: two of six drain.
    door.in_flight = {f"10.0.1.{number}": 0 for number in range(6)}
    for number in (0, 2):
        kubelet.run(f"digits-serve-{number}", f"10.0.1.{number}")
    await_word_of_pods(namespace, kubelet)
    say_ready(plane, NODES[0], "True")
    gone = wait_until(partial(deleted, namespace), lambda found: len(found) == 2, SEEN)
    assert all(names.DRAINING in each["metadata"]["annotations"] for each in gone)
    for each in gone:
        kubelet.end(each["metadata"]["name"])
    four = {"current": 4, "ready": 4, "updated": 4}
    wait_until(
        partial(status, namespace),
        lambda found: found["replicas"] == four and not found.get("waiting"),
        SEEN,
    )
    assert not operator.says(" level=error ")


def await_word_of_pods(namespace: Namespace, kubelet: Kubelet) -> None:
    """Wait until the operator knows what was said of pods: another watch tells it of nodes."""
    kubelet.lose(DOOR)
    namespace.wait_for_reason("InferenceService", "digits", "DoorNotReady")
    kubelet.run(DOOR, DOOR_ADDRESS)
    namespace.wait_for_reason("InferenceService", "digits", "Serving")


def deleted(namespace: Namespace) -> list[dict[str, Any]]:
    return [each for each in namespace.list("Pod") if "deletionTimestamp" in each["metadata"]]


def bring_up(kubelet: Kubelet, number: int, node: str) -> None:
    name = f"digits-serve-{number}"
    wait_until(kubelet.namespace.pods, lambda found: name in found, SEEN, name)
    kubelet.bind(name, node)
    kubelet.run(name, f"10.0.1.{number}")


def reasons(namespace: Namespace) -> Counter[str]:
    return Counter(each["reason"] for each in status(namespace).get("waiting", ()))
