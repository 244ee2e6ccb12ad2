"""The operator lives, and what is between it and the API server does not do what it should."""

from __future__ import annotations

from itertools import product

import pytest

from tests.resilience.faults import (
    Answer,
    CutWatch,
    DelayedWatch,
    EventType,
    ExpiredWatch,
    Fault,
    LostAnswer,
)
from tests.resilience.history import RESOURCES
from tests.resilience.laboratory import Laboratory
from tests.resilience.scenarios import GANG_RESTART, SCENARIOS, Scenario
from tests.resilience.writes import Target, Write

pytestmark = pytest.mark.asyncio(loop_scope="session")

CREATE_POD = Write(Target("create", "pods", "gang-train-1-0"), 1)
DELETE_POD = Write(Target("delete", "pods", "gang-train-1-1"), 1)
CLOSE_ATTEMPT = Write(Target("patch", "trainingjobs/status", "gang"), 3)
RETRY_AFTER = {"Retry-After": "1"}
DELAY_SECONDS = 3.0
EVENT_TYPES: tuple[EventType, ...] = ("ADDED", "MODIFIED", "DELETED")

ONE_OF_EACH: tuple[Fault, ...] = (
    LostAnswer(CREATE_POD),
    Answer(CLOSE_ATTEMPT, 409),
    Answer(CREATE_POD, 429, RETRY_AFTER),
    Answer(DELETE_POD, 500),
    CutWatch("pods", "MODIFIED"),
    DelayedWatch("pods", "ADDED", DELAY_SECONDS),
    ExpiredWatch("pods", "DELETED"),
)


@pytest.mark.parametrize("fault", ONE_OF_EACH, ids=str)
async def test_a_gang_restarts_in_spite_of(fault: Fault, laboratory: Laboratory) -> None:
    differing = await laboratory.differing(GANG_RESTART, [fault])
    assert not differing, differing
    assert fault not in laboratory.absent(GANG_RESTART)


@pytest.mark.long
@pytest.mark.parametrize("scenario", SCENARIOS, ids=str)
async def test_no_fault_at_any_write_makes_a_difference(
    scenario: Scenario, laboratory: Laboratory
) -> None:
    reference = await laboratory.reference(scenario)
    faults = [fault for write in reference.kill_points for fault in _faults_of(write)]
    differing = await laboratory.differing(scenario, faults)
    assert not differing, differing


@pytest.mark.long
@pytest.mark.parametrize("scenario", SCENARIOS, ids=str)
async def test_no_fault_of_a_watch_makes_a_difference(
    scenario: Scenario, laboratory: Laboratory
) -> None:
    reference = await laboratory.reference(scenario)
    faults: list[Fault] = []
    for resource, event in product(RESOURCES, EVENT_TYPES):
        if (resource, event) in reference.observation.events:
            faults.append(CutWatch(resource, event))
            faults.append(DelayedWatch(resource, event, DELAY_SECONDS))
            faults.append(ExpiredWatch(resource, event))
    differing = await laboratory.differing(scenario, faults)
    assert not differing, differing


def _faults_of(write: Write) -> tuple[Fault, ...]:
    return (
        LostAnswer(write),
        Answer(write, 409),
        Answer(write, 429, RETRY_AFTER),
        Answer(write, 500),
    )
