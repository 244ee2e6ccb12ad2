"""The replicas of a replay."""

from __future__ import annotations

from lepton_operator.replay.fleets import AsItWas, Fleet, UnderTheLaw
from lepton_operator.replay.recording import Look
from lepton_operator.signals.counts import Counts


def look(time: float, ready: int, starting: int = 0) -> Look:
    return Look(time, Counts(), ready, starting, ready + starting)


def seen(fleet: Fleet, *looks: Look) -> list[tuple[int, tuple[float, ...], tuple[float, ...]]]:
    """Return ready ones, ages of those that start, and start-ups, at each look."""
    found = []
    for each in looks:
        fleet.go_on(each)
        replicas = fleet.replicas()
        found.append((replicas.ready, replicas.starting_ages, replicas.startups_seconds))
        fleet.learned()
    return found


def test_those_that_start_first_are_ready_first() -> None:
    looks = look(0, 2), look(2, 2, 1), look(4, 2, 3), look(34, 3, 2), look(36, 5)
    assert seen(AsItWas(), *looks) == [
        (2, (), ()),
        (2, (0,), ()),
        (2, (2, 0, 0), ()),
        (3, (30, 30), (32,)),
        (5, (), (32, 32)),
    ]


def test_those_that_are_removed_before_they_are_ready_took_no_time() -> None:
    assert seen(AsItWas(), look(0, 2), look(2, 2, 3), look(4, 2)) == [
        (2, (), ()),
        (2, (0, 0, 0), ()),
        (2, (), ()),
    ]


def test_what_the_law_adds_is_ready_after_a_start_up() -> None:
    fleet = UnderTheLaw(30)
    fleet.go_on(look(0, 2))
    fleet.scale(4)
    assert fleet.wanted == 4
    assert seen(fleet, look(2, 9), look(30, 9)) == [(2, (2, 2), ()), (4, (), (30, 30))]


def test_those_that_are_not_ready_are_removed_first() -> None:
    fleet = UnderTheLaw(30)
    fleet.go_on(look(0, 4))
    fleet.scale(6)
    fleet.go_on(look(2, 4))
    fleet.scale(5)
    assert fleet.replicas().starting_ages == (2,)
    fleet.scale(1)
    assert seen(fleet, look(4, 4)) == [(1, (), ())]
