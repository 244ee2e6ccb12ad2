"""Under loads that are meant to fool it the law neither swings nor leaves its bounds."""

from __future__ import annotations

import pytest

from bench.autoscaling.adversary import (
    PERIODS,
    Room,
    leak,
    never_ending,
    play,
    square,
    steady,
)
from bench.autoscaling.arrivals import HOUR
from bench.autoscaling.run import Case
from bench.autoscaling.world import Setting

STARTUP = 60.0
SETTING = Setting(startup_seconds=STARTUP)


@pytest.mark.parametrize("periods", PERIODS)
def test_a_square_wave_turns_it_no_more_often_than_the_load_turns(periods: float) -> None:
    case = Case(square(periods * STARTUP), SETTING)
    played = play(case)
    assert played.reversals <= HOUR / (periods * STARTUP)
    assert played.most <= case.most


@pytest.mark.parametrize("periods", [0.5, 1.0])
def test_what_returns_within_a_start_up_is_not_let_go(periods: float) -> None:
    played = play(Case(square(periods * STARTUP), SETTING))
    assert played.reversals <= 0.2 * HOUR / (periods * STARTUP)
    assert played.outcome.violations_percent < 2


def test_demand_that_leaks_upwards_is_followed_with_hardly_a_late_request() -> None:
    played = play(Case(leak(), SETTING))
    assert played.outcome.violations_percent < 1
    assert played.outcome.cost < 2


def test_requests_that_never_end_take_no_more_than_their_work_would() -> None:
    case = Case(steady(20.0), SETTING)
    fair, fooled = play(case), play(case, never_ending(each_seconds=10.0))
    assert fooled.outcome.violations_percent <= fair.outcome.violations_percent
    assert fooled.most <= case.most
    assert fooled.reversals <= fair.reversals


def starved(pods: int) -> Room:
    """Room for so many from the tenth minute on, for half an hour."""
    return Room(lambda now: pods if 600 <= now < 2400 else 1000)


def test_a_cluster_without_room_is_asked_for_the_same_all_along() -> None:
    case = Case(steady(40.0), SETTING)
    room = starved(3)
    played = play(case, room=room)
    without = [each for n, each in enumerate(played.decisions) if 600 <= 2 * n < 2400]
    assert all(each.replicas >= each.current for each in without), "it gave up what it waits for"
    assert max(each.replicas for each in without) <= case.most
    assert played.reversals <= 2


def test_pods_that_got_no_room_are_shown_as_starting_for_as_long_as_they_waited() -> None:
    room = starved(3)
    assert [room.given(now, wanted) for now, wanted in ((700, 5), (710, 6))] == [3, 3]
    assert list(room.pending_since) == [700, 700, 710]
    assert room.given(720, 4) == 3
    assert list(room.pending_since) == [700]
