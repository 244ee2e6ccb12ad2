"""The interval on a virtual clock: 200 jobs whose failures are exponential."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from lepton_ai.checkpoints.interval import (
    DAY_SECONDS,
    FIRST_SAVE_SECONDS,
    PRIOR,
    SaveCost,
    best_interval,
)

JOBS = 200
NODES = 64
WORK_SECONDS = 10 * DAY_SECONDS
HOUR_SECONDS = 3600.0
COSTS_SECONDS = (1.0, 10.0, 100.0)
MTBF_HOURS = (1.0, 6.0, 36.0)
Seconds = NDArray[np.float64]


def cost_of(lost_seconds: float) -> SaveCost:
    """A save whose steps beside it lose most of it, and which takes twice as long."""
    return SaveCost(lost_seconds / 10, lost_seconds * 9 / 10, 2 * lost_seconds)


class Jobs:
    """200 jobs, each done when it has worked for ten days; failures come at random.

    A save begins each interval, costs some of it, and counts once it has taken its duration. A
    failure takes training back to the last checkpoint that counts.
    """

    def __init__(self, cost: SaveCost, mtbf_seconds: float) -> None:
        self.cost = cost
        self.mtbf_seconds = mtbf_seconds

    def waste(self, interval_seconds: float | None) -> float:
        """The share of time that was no lasting work; None for the interval that adapts."""
        random = np.random.default_rng(7)
        left = np.full(JOBS, WORK_SECONDS)
        wall = np.zeros(JOBS)
        failures = np.zeros(JOBS, dtype=int)
        while (running := left > 0).any():
            intervals = self._intervals(interval_seconds, failures, wall)
            gains = intervals - self.cost.lost_seconds
            until_failure = random.exponential(self.mtbf_seconds, JOBS)
            until_done = left + np.floor(left / gains) * self.cost.lost_seconds
            done = running & (until_done <= until_failure)
            saves = np.maximum(0, (until_failure - self.cost.duration_seconds) // intervals)
            wall += np.where(done, until_done, until_failure) * running
            left = np.where(done, 0.0, left - np.minimum(saves * gains, left) * running)
            failures += running & ~done
        return float(1 - WORK_SECONDS * JOBS / wall.sum())

    def _intervals(
        self, fixed_seconds: float | None, failures: NDArray[np.int_], wall: Seconds
    ) -> Seconds:
        if fixed_seconds is not None:
            return np.full(JOBS, fixed_seconds)
        return np.array(
            [
                best_interval(
                    self.cost, PRIOR.after(int(seen), NODES * float(past)).mtbf_seconds(NODES)
                ).seconds
                for seen, past in zip(failures, wall, strict=True)
            ]
        )


@pytest.mark.parametrize("lost_seconds", COSTS_SECONDS)
@pytest.mark.parametrize("mtbf_hours", MTBF_HOURS)
def test_200_jobs_waste_at_most_a_tenth_more_than_with_the_best_fixed_interval(
    lost_seconds: float, mtbf_hours: float
) -> None:
    jobs = Jobs(cost_of(lost_seconds), mtbf_hours * HOUR_SECONDS)
    about = math.sqrt(2 * lost_seconds * jobs.mtbf_seconds)
    fixed = np.geomspace(max(about / 4, 2 * lost_seconds), min(about * 4, jobs.mtbf_seconds), 40)

    best = min(jobs.waste(float(seconds)) for seconds in fixed)

    assert jobs.waste(None) <= 1.1 * best


def test_the_first_interval_is_short_because_nothing_is_known() -> None:
    interval = best_interval(None, 1e9)

    assert interval.seconds == FIRST_SAVE_SECONDS
    assert "not known before the first" in interval.because


def test_the_interval_is_daly_s_and_says_why() -> None:
    interval = best_interval(SaveCost(0.5, 1.5, 3.0), mtbf_seconds=10_000)

    assert interval.seconds == pytest.approx(math.sqrt(2 * 2 * 10_000), rel=0.01)
    assert interval.because == (
        "201 s (Daly): a save costs 2 s of training (0.5 s of stall, 1.5 s of slower steps), a "
        "failure is expected each 1e+04 s"
    )


@given(
    stall=st.floats(0, 1e3),
    slowdown=st.floats(0, 1e3),
    extra=st.floats(0, 1e4),
    mtbf=st.floats(1, 1e9),
)
def test_an_interval_is_never_under_two_durations_of_a_save(
    stall: float, slowdown: float, extra: float, mtbf: float
) -> None:
    cost = SaveCost(stall, slowdown, stall + extra)

    assert best_interval(cost, mtbf).seconds >= 2 * cost.duration_seconds


@given(lost=st.floats(0.1, 100), mtbf=st.floats(100, 1e7), factor=st.floats(1.1, 100))
def test_more_failures_never_lengthen_the_interval_and_a_dearer_save_never_shortens_it(
    lost: float, mtbf: float, factor: float
) -> None:
    seconds = best_interval(SaveCost(lost, 0, 0), mtbf).seconds

    assert best_interval(SaveCost(lost, 0, 0), mtbf * factor).seconds >= seconds
    assert best_interval(SaveCost(lost * factor, 0, 0), mtbf).seconds >= seconds


def test_a_gang_of_more_nodes_fails_more_often() -> None:
    assert PRIOR.mtbf_seconds(1) == 50 * DAY_SECONDS
    assert PRIOR.mtbf_seconds(100) == DAY_SECONDS / 2


def test_each_failure_updates_what_is_believed() -> None:
    day = DAY_SECONDS
    seen = PRIOR.after(failures=2, node_seconds=10 * day)

    assert seen.mtbf_seconds(1) == pytest.approx((25 + 10) * day / 2.5)
    assert PRIOR.after(0, 10 * day).mtbf_seconds(1) > PRIOR.mtbf_seconds(1)
