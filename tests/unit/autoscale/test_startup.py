from __future__ import annotations

import math

import pytest

from lepton_operator.autoscale import startup


def test_impossible_times_are_not_learned() -> None:
    assert startup.learn((30.0,), (math.nan, -1.0, math.inf, 0.0)) == (30.0,)


def test_the_newest_are_kept() -> None:
    known = startup.learn((), tuple(float(n) for n in range(1, 151)))
    assert len(known) == startup.KEPT
    assert known[-1] == 150


def test_a_pod_on_its_way_tells_of_starts_before_one_has_ended() -> None:
    assert startup.mean((), (200.0,)) == 200
    assert startup.mean((30.0, 50.0), (200.0,)) == 40


@pytest.mark.parametrize(
    ("age", "ready"),
    [(0.0, 60 - 40), (35.0, 60 - 15), (55.0, 0)],
)
def test_a_pod_is_counted_as_those_that_took_longer_than_its_age(age: float, ready: float) -> None:
    assert startup.expected_ready_seconds((30.0, 50.0), age, 60.0) == pytest.approx(ready)
