"""The operator dies at a write: the end is the same, nothing is made twice, nothing is lost."""

from __future__ import annotations

import pytest

from tests.resilience.faults import Kill
from tests.resilience.laboratory import Laboratory
from tests.resilience.scenarios import (
    GANG_POD_LOST,
    GANG_RESTART,
    RESTARTED,
    SCENARIOS,
    SERVING,
    SUSPEND_RESUME,
    TRAIN_EVALUATE_SERVE,
    Scenario,
)

pytestmark = pytest.mark.asyncio(loop_scope="session")

A_FEW = 2
MAX_ABSENT_SHARE = 0.1


# The others go the way of one of these.
SPOT_CHECKED = (
    TRAIN_EVALUATE_SERVE,
    GANG_POD_LOST,
    SUSPEND_RESUME,
    *(each for each in SERVING if each is not RESTARTED),
)


async def test_a_gang_restarts_though_the_operator_dies_at_any_write(
    laboratory: Laboratory,
) -> None:
    points = await laboratory.kill_points(GANG_RESTART)
    differing = await laboratory.differing(GANG_RESTART, points)
    assert not differing, differing


@pytest.mark.parametrize("scenario", SPOT_CHECKED, ids=str)
async def test_a_few_kill_points_make_no_difference(
    scenario: Scenario, laboratory: Laboratory
) -> None:
    points = await laboratory.kill_points(scenario)
    differing = await laboratory.differing(scenario, a_few(points))
    assert not differing, differing


@pytest.mark.long
@pytest.mark.parametrize("scenario", SCENARIOS, ids=str)
async def test_no_kill_point_makes_a_difference(scenario: Scenario, laboratory: Laboratory) -> None:
    points = await laboratory.kill_points(scenario)
    differing = await laboratory.differing(scenario, points)
    assert not differing, differing
    absent = laboratory.absent(scenario)
    assert len(absent) <= MAX_ABSENT_SHARE * len(points), absent


def a_few(points: list[Kill]) -> list[Kill]:
    """Return some that lie apart, the same each time: a change is judged, not the day."""
    return [points[len(points) * (2 * index + 1) // (2 * A_FEW)] for index in range(A_FEW)]
