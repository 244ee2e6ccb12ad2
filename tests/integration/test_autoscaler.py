"""Replicas follow what a door counts, against a real API server; nobody here has a Prometheus."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest

from e2e.waiting import wait_until
from lepton_operator.api.inference import InferenceService
from lepton_operator.conditions import find
from tests.integration.conftest import Namespace, Operators
from tests.integration.door import DOOR_ADDRESS, Door
from tests.integration.kubelet import Kubelet
from tests.integration.test_drains import serve
from tests.integration.test_operator import writes, writes_at_rest

SCALED, SAID, SEEN = "a service is scaled", "scaling is told", "an object is seen"
SERVICE_SECONDS = 0.1
TARGET = {"latencyMilliseconds": 500}
ASKED: dict[str, Any] = {"minReplicas": 1, "maxReplicas": 5, "target": TARGET}
HPA = {
    "apiVersion": "autoscaling/v2",
    "kind": "HorizontalPodAutoscaler",
    "spec": {
        "scaleTargetRef": {
            "apiVersion": "lepton.ai/v1alpha1",
            "kind": "InferenceService",
            "name": "digits",
        },
        "minReplicas": 1,
        "maxReplicas": 3,
    },
}


@dataclass
class Clients:
    """Requests to one pod, which takes 100 ms for each, as a door counts them."""

    door: Door
    rate: float = 0.0
    _arrivals: float = 1000.0
    _waiting: float = 0.0
    _ends: threading.Event = field(default_factory=threading.Event)

    def ask(self) -> None:
        """Go on until the end, in real time."""
        before = time.monotonic()
        while not self._ends.wait(0.1):
            now = time.monotonic()
            seconds, before = now - before, now
            came = self.rate * seconds
            self._arrivals += came
            waiting = max(0.0, self._waiting + came - seconds / SERVICE_SECONDS)
            self._waiting = waiting if self.rate else 0.0
            active = self._waiting + min(1.0, self.rate * SERVICE_SECONDS)
            counts = {"arrivals": self._arrivals, "active": active, "rejected": 0}
            self.door.counts = {"digits": counts}

    def leave(self) -> None:
        """Nobody asks any more, and nobody waits."""
        self.rate = 0.0

    def end(self) -> None:
        self._ends.set()


@pytest.fixture
def clients(door: Door) -> Iterator[Clients]:
    found = Clients(door)
    asking = threading.Thread(target=found.ask)
    asking.start()
    yield found
    found.end()
    asking.join()


def look(namespace: Namespace) -> InferenceService:
    return InferenceService.model_validate(namespace.get("InferenceService", "digits") or {})


def replicas(namespace: Namespace) -> int:
    return look(namespace).spec.replicas


def decided(service: InferenceService) -> list[int]:
    """Return the number of the last decision that the status tells; nothing if it tells none."""
    told = service.status.autoscaling
    return [each.to for each in told.decisions[:1]] if told is not None else []


def reasons(namespace: Namespace) -> list[str]:
    """Return why it was scaled, by the Events."""
    events = [each for each in namespace.list("Event") if each["reason"] == "Scaled"]
    return [each["message"].partition("replicas. ")[2] for each in events]


def said(namespace: Namespace, condition: str = "ScalingActive") -> str:
    found = find(look(namespace).status.conditions, condition)
    return f"{found.status} {found.reason}: {found.message}" if found is not None else ""


@pytest.fixture
def kubelet(namespace: Namespace, operators: Operators) -> Kubelet:
    """A service of one pod that asks for a latency, and its door."""
    operators.start()
    serve(namespace, autoscaling=ASKED)
    found = Kubelet(namespace)
    found.run("digits-serve-0")
    found.open_door(DOOR_ADDRESS)
    return found


@pytest.mark.usefixtures("kubelet")
def test_more_requests_bring_more_replicas_and_the_status_says_why(
    namespace: Namespace, clients: Clients
) -> None:
    clients.rate = 45
    wait_until(partial(replicas, namespace), lambda it: it >= 3, SCALED)
    # The number comes first; and it may go on while the status is written.
    found = wait_until(partial(look, namespace), lambda it: decided(it) == [it.spec.replicas], SAID)
    assert found.status.autoscaling is not None
    last = found.status.autoscaling.decisions[0]
    assert last.metric in ("demand", "backlog")
    assert last.value > 0
    assert "requests" in last.reason
    wait_until(partial(reasons, namespace), lambda found: last.reason in found, SEEN)
    # Pods that nobody makes ready add nothing, and nothing is asked for beyond the maximum.
    clients.rate = 200
    wait_until(partial(replicas, namespace), lambda it: it == 5, SCALED)
    wait_until(partial(said, namespace, "ScalingLimited"), lambda it: "TooManyReplicas" in it, SAID)
    wait_until(partial(said, namespace), lambda it: "True DoorsAsked" in it, SAID)
    assert replicas(namespace) == 5


@pytest.mark.usefixtures("kubelet")
def test_an_hpa_takes_the_place_of_the_law_until_it_goes(
    namespace: Namespace, clients: Clients
) -> None:
    for name in ("theirs", "another"):
        namespace.apply("HorizontalPodAutoscaler", name, spec=HPA["spec"])
    wait_until(partial(said, namespace), lambda it: "another, theirs" in it, SAID)
    assert said(namespace).startswith("False ScaledByAnother")
    clients.rate = 45
    time.sleep(8)
    assert replicas(namespace) == 1
    for name in ("theirs", "another"):
        namespace.delete("HorizontalPodAutoscaler", name)
    wait_until(partial(replicas, namespace), lambda it: it >= 3, SCALED)
    wait_until(partial(said, namespace), lambda it: "ScaledByAnother" not in it, SAID)


@pytest.mark.usefixtures("kubelet")
def test_zero_by_hand_stays_zero(namespace: Namespace, clients: Clients) -> None:
    path = namespace.path("InferenceService", "digits", "scale")
    namespace.api.patch(path, {"spec": {"replicas": 0}})
    clients.rate = 45
    wait_until(partial(said, namespace), lambda it: "ScaledToZero" in it, SAID)
    time.sleep(5)
    assert replicas(namespace) == 0


@pytest.mark.usefixtures("door")
def test_where_nothing_is_counted_the_number_stays_and_nothing_is_written(
    namespace: Namespace, operators: Operators
) -> None:
    operator = operators.start()
    serve(namespace, autoscaling=ASKED, replicas=3)
    wait_until(partial(said, namespace), lambda it: it.startswith("False NoSamples"), SAID)
    before = writes_at_rest(operator)
    time.sleep(6)
    assert writes(operator) == before
    assert replicas(namespace) == 3


def test_bounds_hold_without_any_request(
    namespace: Namespace, operators: Operators, door: Door
) -> None:
    operators.start()
    serve(namespace, autoscaling=ASKED | {"minReplicas": 2}, replicas=1)
    Kubelet(namespace).open_door(DOOR_ADDRESS)
    door.counts = {"digits": {"arrivals": 0, "active": 0, "rejected": 0}}
    wait_until(partial(replicas, namespace), lambda it: it == 2, SCALED)


def test_bounds_hold_before_any_door_tells_anything(
    namespace: Namespace, operators: Operators
) -> None:
    operators.start()
    serve(namespace, autoscaling=ASKED | {"minReplicas": 2}, replicas=1)
    wait_until(partial(replicas, namespace), lambda it: it == 2, SCALED)


@pytest.mark.usefixtures("door")
def test_a_new_leader_goes_on_with_what_was_decided_and_takes_nothing_down_at_once(
    namespace: Namespace, operators: Operators, clients: Clients
) -> None:
    first = operators.start()
    serve(namespace, autoscaling=ASKED)
    kubelet = Kubelet(namespace)
    kubelet.run("digits-serve-0")
    kubelet.open_door(DOOR_ADDRESS)
    clients.rate = 45
    wait_until(partial(replicas, namespace), lambda it: it >= 3, SCALED)
    wait_until(lambda: decided(look(namespace)), bool, SAID)
    first.end()
    before = look(namespace)
    clients.leave()
    second = operators.start("second")
    second.wait_until_it_says("Everything is listed")
    time.sleep(15)
    after = look(namespace)
    assert after.spec.replicas == before.spec.replicas
    assert before.status.autoscaling is not None
    assert after.status.autoscaling is not None
    assert after.status.autoscaling.decisions == before.status.autoscaling.decisions


@pytest.mark.usefixtures("kubelet", "clients")
def test_a_schedule_in_a_zone_that_does_not_exist_is_told(namespace: Namespace) -> None:
    schedule = {"start": "0 8 * * *", "end": "0 9 * * *", "timeZone": "Europe/Nowhere"}
    serve(namespace, autoscaling=ASKED | {"schedules": [schedule | {"minReplicas": 2}]})
    found = wait_until(
        partial(said, namespace, "ScalingLimited"), lambda it: "ScheduleNeverHolds" in it, SAID
    )
    assert "Europe/Nowhere" in found
