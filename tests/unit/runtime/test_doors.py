"""The door of a namespace is no object, and is looked at like one."""

from __future__ import annotations

from typing import Any

import pytest

from lepton_operator import names
from lepton_operator.cache import Cache, Key, door_key
from tests.unit.door.cluster import kubernetes_service
from tests.unit.runtime import objects

SERVICE = Key("InferenceService", "team", "digits")
DOOR = Key("Door", "team", "lepton-door")


@pytest.fixture
def cache() -> Cache:
    found = Cache("nvidia.com/gpu")
    found.put("InferenceService", objects.service())
    return found


def woken(cache: Cache, kind: str, body: dict[str, Any]) -> set[Key]:
    change = cache.put(kind, body)
    return cache.affected(change) if change else set()


def test_the_first_service_wakes_the_door_of_its_namespace() -> None:
    cache = Cache("nvidia.com/gpu")
    assert woken(cache, "InferenceService", objects.service()) >= {SERVICE, DOOR}
    assert woken(cache, "InferenceService", objects.service(version=2)) == {SERVICE}
    second = Key("InferenceService", "team", "second")
    assert woken(cache, "InferenceService", objects.service("second", "svc-2")) == {second}
    assert cache.own_keys() == [SERVICE, second, DOOR]


def test_the_last_service_wakes_it_again(cache: Cache) -> None:
    change = cache.remove("InferenceService", objects.service(version=2))
    assert change
    assert DOOR in cache.affected(change)
    assert cache.own_keys() == []


def test_a_door_that_is_left_over_is_looked_at_after_a_start() -> None:
    cache = Cache("nvidia.com/gpu")
    cache.put("Pod", objects.door_pod())
    assert cache.own_keys() == [DOOR]


def test_its_pods_are_its_own_though_a_replica_set_controls_them(cache: Cache) -> None:
    assert DOOR in woken(cache, "Pod", objects.door_pod())
    own = cache.own(DOOR)
    assert own is not None
    assert [pod.name for pod in cache.pods(own.uid)] == ["lepton-door-1"]


def test_services_are_woken_when_the_first_door_takes_requests_and_when_the_last_ceases_to(
    cache: Cache,
) -> None:
    """A thousand services: what each door does besides must not have all of them looked at."""
    assert woken(cache, "Pod", objects.door_pod(ready=False)) == {DOOR}
    assert woken(cache, "Pod", objects.door_pod(version=2)) == {DOOR, SERVICE}
    moved = objects.door_pod(version=3)
    moved["metadata"]["annotations"] = {"lepton.ai/note": "x"}
    assert woken(cache, "Pod", moved) == {DOOR}
    assert woken(cache, "Pod", objects.door_pod("second", "door-2")) == {DOOR}
    leaving = objects.door_pod(version=4)
    leaving["metadata"]["deletionTimestamp"] = objects.CREATED
    assert woken(cache, "Pod", leaving) == {DOOR}
    change = cache.remove("Pod", objects.door_pod("second", "door-2", version=2))
    assert change
    assert cache.affected(change) == {DOOR, SERVICE}


def test_several_changes_that_are_looked_at_together_hide_none(cache: Cache) -> None:
    """After a list a first door that began, and one that ceased, are told at once."""
    began = cache.put("Pod", objects.door_pod())
    ceased = cache.put("Pod", objects.door_pod(version=2, ready=False))
    assert began
    assert ceased
    assert SERVICE in cache.affected(began)
    assert SERVICE in cache.affected(ceased)


def test_a_service_whose_pod_drains_is_woken_by_every_door(cache: Cache) -> None:
    cache.put("Pod", objects.door_pod("first", "door-0"))
    cache.put("Pod", objects.serving_pod(since=objects.CREATED))
    assert woken(cache, "Pod", objects.door_pod()) == {DOOR, SERVICE}
    change = cache.remove("Pod", objects.door_pod(version=2))
    assert change
    assert cache.affected(change) == {DOOR, SERVICE}


def test_a_door_of_another_namespace_wakes_nobody_here(cache: Cache) -> None:
    other = objects.door_pod()
    other["metadata"]["namespace"] = "other"
    assert woken(cache, "Pod", other) == {door_key("other")}


@pytest.mark.parametrize(
    ("kind", "is_kept"),
    [("Deployment", False), ("PodDisruptionBudget", True), ("NetworkPolicy", True)],
)
def test_of_a_small_object_the_spec_is_kept(cache: Cache, kind: str, is_kept: bool) -> None:  # noqa: FBT001
    labels = names.owner_labels("Door", "lepton-door")
    metadata = objects.metadata("lepton-door", "d-1", 1, labels=labels)
    assert woken(cache, kind, {"metadata": metadata, "spec": {"a": 1}}) == {DOOR}
    (found,) = cache.objects(names.door_uid("team"))
    assert (found.kind, found.spec) == (kind, {"a": 1} if is_kept else {})


def a_service_of_old(version: int, selected: str, port: int | str, announced: str = "") -> Any:
    body = kubernetes_service(port=port)
    body["metadata"]["resourceVersion"] = str(version)
    body["metadata"]["annotations"] = {names.DOOR_PORT: announced}
    body["spec"]["selector"] = names.owner_labels(selected, "digits")
    return body


def test_a_service_that_waits_to_be_led_to_all_doors_is_woken_by_each(cache: Cache) -> None:
    cache.put("Pod", objects.door_pod("first", "door-0"))
    cache.put("Service", a_service_of_old(1, "InferenceService", "http", "10000"))
    assert woken(cache, "Pod", objects.door_pod()) == {DOOR, SERVICE}
    cache.put("Service", a_service_of_old(2, "Door", 10_000))
    assert woken(cache, "Pod", objects.door_pod(version=2, ready=False)) == {DOOR}


def test_a_service_that_leads_past_the_doors_is_known_until_it_does_not(cache: Cache) -> None:
    assert not cache.bypassed("team")
    old, led = "InferenceService", "Door"
    assert DOOR in woken(cache, "Service", a_service_of_old(1, old, "http"))
    assert cache.bypassed("team")
    assert DOOR not in woken(cache, "Service", a_service_of_old(2, old, "http", "10000"))
    assert cache.bypassed("team")
    assert DOOR in woken(cache, "Service", a_service_of_old(3, led, 10_000))
    assert not cache.bypassed("team")
    cache.put("Service", a_service_of_old(4, old, "http"))
    change = cache.remove("Service", a_service_of_old(5, old, "http"))
    assert change
    assert DOOR in cache.affected(change)
    assert not cache.bypassed("team")


@pytest.mark.parametrize(
    ("announced", "port"),
    [
        ("10000", 10_000),
        ("29999", 29_999),
        ("9902", None),
        ("30000", None),
        ("x", None),
        ("", None),
    ],
)
def test_the_port_where_a_service_is_to_lead(
    cache: Cache, announced: str, port: int | None
) -> None:
    cache.put("Service", a_service_of_old(1, "InferenceService", "http", announced))
    found = cache.service("svc-1")
    assert found is not None
    assert found.door_port == port


def test_pods_that_drain_are_known(cache: Cache) -> None:
    since = objects.CREATED
    cache.put("Pod", objects.serving_pod())
    assert cache.draining() == []
    cache.put("Pod", objects.serving_pod(version=2, since=since))
    assert [pod.uid for pod in cache.draining()] == ["pod-1"]
    cache.put("Pod", objects.serving_pod(version=3))
    assert cache.draining() == []
    cache.put("Pod", objects.serving_pod(version=4, since=since))
    cache.remove("Pod", objects.serving_pod(version=5, since=since))
    assert cache.draining() == []
