"""The harness itself: an operator with a bug works undisturbed, and must not pass under a fault."""

from __future__ import annotations

import pytest

from tests.resilience.doors import LISTENER_SECONDS
from tests.resilience.faults import ExpiredWatch, Fault, Kill
from tests.resilience.harness import DEADLINE_SECONDS, Harness, Reference
from tests.resilience.laboratory import Laboratory
from tests.resilience.scenarios import (
    GANG_POD_GONE,
    GANG_RESTART,
    LATE,
    SCALE_DOWN,
    UPGRADED,
    Scenario,
)
from tests.resilience.test_faults import CLOSE_ATTEMPT
from tests.resilience.writes import Target, Write

pytestmark = pytest.mark.asyncio(loop_scope="session")

STUCK_SECONDS = 12.0
# Longer than a Service takes to be led to doors that are ready, however busy the machine is.
LATE_SECONDS = 10.0
MARK_POD = Write(Target("patch", "pods", "seeds-serve-N"), 1)


async def differences(
    harness: Harness,
    scenario: Scenario,
    reference: Reference,
    fault: Fault,
    deadline_seconds: float = DEADLINE_SECONDS,
) -> str:
    """Return how a broken operator differs under a fault; undisturbed it must not."""
    assert not reference.judge(await harness.run(scenario))
    found = await harness.run(scenario, fault, deadline_seconds)
    assert found.fired
    return "\n".join(reference.judge(found))


async def test_names_drawn_at_random_make_pods_twice(laboratory: Laboratory) -> None:
    broken = "tests.resilience.broken.random_names"
    async with laboratory.harness.replaced(broken) as harness:
        reference = await harness.learn(GANG_RESTART)
        first = next(each for each in reference.kill_points if each.target.verb == "create")
        found = reference.judge(await harness.run(GANG_RESTART, Kill(first, "after")))
    told = "\n".join(found)
    assert "the operator asked: create pods gang-train-1-1" in told
    assert "the API server saw: create pods gang-train-1-1" in told


async def test_what_is_deleted_before_it_is_recorded_is_lost(laboratory: Laboratory) -> None:
    reference = await laboratory.reference(GANG_RESTART)
    broken = "tests.resilience.broken.hasty_deletes"
    async with laboratory.harness.replaced(broken) as harness:
        found = await differences(harness, GANG_RESTART, reference, Kill(CLOSE_ATTEMPT, "before"))
    assert "TrainingJob gang[0].status.restarts.user: 1 became 0" in found


async def test_a_deletion_missed_in_a_gap_of_the_watch_stops_the_gang(
    laboratory: Laboratory,
) -> None:
    reference = await laboratory.reference(GANG_POD_GONE)
    broken = "tests.resilience.broken.no_relist"
    async with laboratory.harness.replaced(broken) as harness:
        fault = ExpiredWatch("pods", "DELETED")
        found = await differences(harness, GANG_POD_GONE, reference, fault, STUCK_SECONDS)
    assert f"nothing more after {STUCK_SECONDS} s" in found


@pytest.mark.parametrize(
    ("module", "scenario", "listener_seconds", "told"),
    [
        ("no_drain", SCALE_DOWN, LISTENER_SECONDS, "was deleted before it had drained"),
        ("no_surge", LATE, LISTENER_SECONDS, "of 2 pods were in rotation"),
        ("hasty_move", UPGRADED, LATE_SECONDS, "was led to the doors before they listen there"),
    ],
)
async def test_a_promise_that_is_broken_on_the_way_is_told_though_the_end_is_right(
    module: str,
    scenario: Scenario,
    listener_seconds: float,
    told: str,
    laboratory: Laboratory,
) -> None:
    broken = f"tests.resilience.broken.{module}"
    async with laboratory.harness.replaced(broken, listener_seconds) as harness:
        found = await harness.run(scenario)
    assert not found.stuck
    assert told in "\n".join(found.broken)


async def test_a_service_that_the_doors_lose_for_a_while_is_told(laboratory: Laboratory) -> None:
    broken = "tests.resilience.broken.early_stream"
    reference = await laboratory.reference(SCALE_DOWN)
    async with laboratory.harness.replaced(broken) as harness:
        found = await differences(harness, SCALE_DOWN, reference, Kill(MARK_POD, "before"))
    assert "the door lost service seeds, which is there" in found
    assert "only 0 of 1 pods were in rotation" in found
