"""The work for one event is the same beside ten services and beside hundreds.

Counted in steps of the interpreter, which a busy machine does not change.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from lepton_operator.cache import Key
from lepton_operator.door.resources import Kind
from lepton_operator.names import DOOR_PORTS
from tests.steps import steps
from tests.unit.door.cluster import inference_service, kubernetes_service, serving_pod
from tests.unit.door.test_feed import Scene
from tests.unit.door.test_subscriptions import Door
from tests.unit.runtime import objects

FEW, MANY = 10, 300
# What the machinery of dicts and protobuf may add.
TOLERANCE = 1.1


class Crowd:
    """A scene of many services, and a door that has all of them."""

    def __init__(self, services: int) -> None:
        self.scene = Scene()
        self.woken: set[Key] = set()
        for number in range(services):
            self.add(number)
        self.scene.put("Pod", objects.door_pod())
        self.scene.feed.begin()
        self.door = Door(self.scene.feed.catalogue)
        for kind in (Kind.RUNTIME, Kind.CLUSTER, Kind.LISTENER):
            self.door.ask(kind)
        self.door.ask(Kind.ENDPOINTS, *(f"service-{each}/http" for each in range(services)))
        self.door.settle()

    def add(self, number: int) -> None:
        name, uid = f"service-{number}", f"svc-{number}"
        self.put("InferenceService", inference_service(name, uid))
        self.put("Service", kubernetes_service(name, uid, DOOR_PORTS[number]))
        self.put("Pod", self.pod(number))

    def pod(self, number: int, **changes: Any) -> dict[str, Any]:
        name, uid = f"service-{number}", f"svc-{number}"
        address = f"10.0.{number // 250}.{number % 250}"
        return serving_pod(f"{name}-serve-0", uid, name, address=address, **changes)

    def put(self, kind: str, body: dict[str, Any]) -> None:
        change = self.scene.put(kind, body)
        if change is not None:
            self.woken |= self.scene.cache.affected(change)


def a_pod_is_not_ready(crowd: Crowd) -> None:
    crowd.put("Pod", crowd.pod(3, ready=False))


def a_spec_changes(crowd: Crowd) -> None:
    limits = {"concurrency": 5}
    crowd.put("InferenceService", inference_service("service-3", "svc-3", 2, limits=limits))


def a_status_is_written(crowd: Crowd) -> None:
    status = {"revisions": [{"name": "a1b2c3", "version": 1}]}
    crowd.put("InferenceService", inference_service("service-3", "svc-3") | {"status": status})


def a_service_comes(crowd: Crowd) -> None:
    crowd.add(2000)


def another_door_comes(crowd: Crowd) -> None:
    crowd.put("Pod", objects.door_pod("lepton-door-2", "door-2"))


@pytest.mark.parametrize(
    "event",
    [a_pod_is_not_ready, a_spec_changes, a_status_is_written, a_service_comes, another_door_comes],
)
def test_the_work_for_an_event_does_not_grow_with_the_services(
    event: Callable[[Crowd], None],
) -> None:
    def act(crowd: Crowd) -> None:
        event(crowd)
        crowd.door.settle()

    few, many = (Crowd(services) for services in (FEW, MANY))
    act(Crowd(FEW))  # what is done once only
    for crowd in (few, many):
        crowd.woken.clear()
    beside_few, beside_many = steps(partial(act, few)), steps(partial(act, many))
    assert beside_many < beside_few * TOLERANCE
    assert many.woken == few.woken


def test_a_door_that_is_the_only_one_is_news_for_all() -> None:
    crowd = Crowd(FEW)
    crowd.woken.clear()
    crowd.put("Pod", objects.door_pod(ready=False))
    assert len(crowd.woken) == FEW + 1, "and for what makes doors"
