from __future__ import annotations

import math
from functools import reduce

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lepton_operator.autoscale import keep
from lepton_operator.autoscale.values import Moment, Overload, Worth


def wanted(*replicas: int) -> tuple[Moment, ...]:
    return tuple(Moment(2.0 * n, 0.0, 0.0, each) for n, each in enumerate(replicas))


def ready(moments: tuple[Moment, ...], now: float, startup: float, began_with: int) -> int:
    none: tuple[Moment, ...] = ()
    lowest = reduce(keep.troughs, moments, none)
    return keep.reference_ready(moments, lowest, now, startup, began_with)


def test_a_replica_of_the_reference_is_ready_a_start_up_after_it_was_wanted() -> None:
    moments = wanted(2, 2, 5, 5, 5)
    assert ready(moments, 10.0, 8.0, 2) == 2
    assert ready(moments, 12.0, 8.0, 2) == 5


def test_the_reference_lets_go_at_once() -> None:
    assert ready(wanted(5, 5, 5, 2), 8.0, 4.0, 5) == 2


def test_before_its_first_moment_the_reference_has_what_there_was() -> None:
    assert ready((), 0.0, 60.0, 4) == 4
    assert ready(wanted(6), 2.0, 60.0, 4) == 4


@given(st.lists(st.integers(1, 9), min_size=1, max_size=30), st.floats(0, 70), st.integers(1, 9))
def test_ready_is_the_least_that_was_wanted_for_a_start_up(
    numbers: list[int], startup: float, began_with: int
) -> None:
    now = 2.0 * len(numbers)
    before = [each for n, each in enumerate(numbers) if 2.0 * n <= now - startup]
    later = numbers[len(before) :]
    expected = min([before[-1] if before else began_with, *later])
    assert ready(wanted(*numbers), now, startup, began_with) == expected


def test_a_backlog_that_goes_by_itself_is_worth_nothing() -> None:
    assert keep.to_drain(2.0, 10.0, ready_seconds=180.0, horizon=60.0, late_second=60.0) == 0


def test_the_number_that_drains_is_the_cheapest() -> None:
    busy, left, horizon, late_second = 4.0, 90.0, 60.0, 100.0

    def cost(more: float) -> float:
        return late_second * left / more + more * horizon

    replicas = keep.to_drain(busy, left, busy * horizon, horizon, late_second)
    best = min(range(1, 100), key=cost)
    assert abs(replicas - busy - best) <= 1


def test_those_that_were_missing_share_the_worth() -> None:
    worth, overload = keep.late((), None, ready=2, needed=5, cost=90.0)
    assert [each.credit for each in worth] == [0, 0, 30, 30, 30]
    assert overload == Overload(2, 5, 30.0)


def test_an_overload_is_as_large_as_it_ever_was() -> None:
    worth, overload = keep.late((), None, ready=2, needed=5, cost=90.0)
    worth, overload = keep.late(worth, overload, ready=4, needed=4, cost=30.0)
    assert overload == Overload(2, 5, 40.0)
    assert worth[4] == Worth(40.0, 40.0)


def test_a_replica_that_the_demand_needs_pays_nothing() -> None:
    worth = (Worth(10, 10), Worth(10, 10), Worth(10, 10))
    assert [each.credit for each in keep.account(worth, 4.0, 2)] == [10, 10, 6]


def test_an_account_holds_no_more_than_one_return_cost_at_most() -> None:
    worth = keep.account((Worth(500, 90),), 2.0, 0)
    assert worth[0].credit == 88


def test_an_empty_account_forgets() -> None:
    assert keep.account((Worth(1, 90),), 2.0, 0) == (Worth(),)


def test_to_start_takes_more_worth_than_to_keep() -> None:
    worth = (Worth(), Worth(), Worth(59, 90))
    assert keep.kept(worth, present=3, startup_seconds=60) == 3
    assert keep.kept(worth, present=2, startup_seconds=60) == 0
    assert keep.kept((*worth, Worth(61, 90)), present=2, startup_seconds=60) == 4


@pytest.mark.parametrize("percentile", [90.0, 95.0, 99.0])
def test_a_gap_costs_at_most_twice_what_it_would_with_knowledge_of_its_length(
    percentile: float,
) -> None:
    late_second, startup = 2 / (1 - percentile / 100), 60.0
    worth, _ = keep.late((), None, ready=1, needed=2, cost=late_second * startup)
    credit = worth[1].credit
    for gap in (10.0, 100.0, credit, 10 * credit):
        ours = min(gap, credit) + (credit if gap > credit else 0)
        known = min(gap, credit)
        assert ours <= 2 * known
        assert math.isclose(credit, late_second * startup)
