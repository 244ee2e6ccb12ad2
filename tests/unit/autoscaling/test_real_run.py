"""What is made of a recorded run: figures, the prediction, and the file that keeps it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bench.autoscaling_real import recording
from bench.autoscaling_real.figures import measured, predicted, summary, windows
from bench.autoscaling_real.prediction import predictions, replay
from bench.autoscaling_real.recording import (
    AtDoors,
    Bounds,
    Phase,
    Pod,
    Recording,
    Replicas,
    Request,
    Usage,
)

RATE, STEP = 5.0, 30.0


def arrivals() -> list[float]:
    """Five requests a second for 20 s, then thirty a second for 40 s."""
    return [*np.arange(0, 20, 1 / RATE), *np.arange(20, 60, 1 / STEP)]


@pytest.fixture
def run() -> Recording:
    """One pod; at 22.5 s four are asked for, which serve at 30 s, and one is removed at 50 s."""
    late = (22.0, 32.0)
    return Recording(
        asked=Bounds(target_seconds=0.5, percentile=95.0, least=1, most=6),
        phases=[Phase("base", RATE, 20), Phase("step up", STEP, 40)],
        requests=[
            Request(at, 2.0 if late[0] <= at < late[1] else 0.1, "gone" if at == 20 else "")
            for at in arrivals()
        ],
        replicas=[Replicas(-1, 1, 1), Replicas(22.5, 4, 1), Replicas(30, 4, 4), Replicas(50, 3, 3)],
        at_doors=[AtDoors(-1, 1), AtDoors(30, 4), AtDoors(50, 3)],
        pods=[
            Pod("serve-0", -10, -5, -5),
            Pod("serve-1", 22.6, 29, 30),
            Pod("serve-2", 22.6, 29, 30),
            Pod("serve-3", 22.6, 29, 30, left=50, gone=55),
        ],
        decisions=[],
        conditions=[],
        usage=[Usage(at, 0.5, 0.1) for at in range(60)],
        operator_cores=0.01,
    )


def test_a_recording_that_is_kept_is_the_same(run: Recording, tmp_path: Path) -> None:
    recording.save(run, tmp_path / "run.json")
    assert recording.load(tmp_path / "run.json") == run


def test_pods_are_paid_for_from_their_creation_until_they_are_gone(run: Recording) -> None:
    assert measured(run).gpu_seconds == pytest.approx(60 + 2 * (60 - 22.6) + (55 - 22.6))


def test_start_ups_are_of_pods_that_were_seen_to_start(run: Recording) -> None:
    assert run.startups_seconds == pytest.approx([7.4, 7.4, 7.4])


def test_a_failed_request_is_over_the_target(run: Recording) -> None:
    _, found = windows(measured(run), 10, 100)
    assert found.tolist() == [0.1, 0.1, float("inf"), 2.0, 0.1, 0.1]


def test_a_step_is_followed_from_scale_to_capacity(run: Recording) -> None:
    real = measured(run)
    found = summary(run, real, [real])
    (reaction,) = found["reactions"]
    names = ("scaled_s", "created_s", "ready_s", "enough_s")
    assert [reaction[name] for name in names] == [2.5, 2.6, 10.0, 10.0]
    base, step, whole = found["phases"]
    assert (base["replicas"], step["replicas"]) == (1, pytest.approx((10 + 80 + 30) / 40))
    assert whole["p99_ms"] == 2000
    assert found["scalings"] == 2


def test_the_simulator_meets_the_same_requests_with_the_same_start_ups(run: Recording) -> None:
    case = replay(run, seed=3)
    assert case.trace.arrivals.tolist() == arrivals()
    assert set(case.load().startup) == set(run.startups_seconds)
    assert (case.initial, case.most) == (1, 6)


def test_the_law_scales_in_the_prediction_as_it_would_in_the_operator(run: Recording) -> None:
    for each in predictions(run)[:3]:
        foretold = predicted(run, each)
        (scaled, _), *_ = (step for step in foretold.wanted if step[1] > 1)
        assert 20 < scaled <= 24, "by counts of a second ago, each two seconds"
        assert foretold.ready[-1][1] >= 3
