from __future__ import annotations

from functools import reduce

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lepton_operator.autoscale.demand import arrivals_at, coming, envelope, most_within, peaks
from lepton_operator.autoscale.values import Moment

NONE: tuple[Moment, ...] = ()


def moments_of(rates: list[float]) -> tuple[Moment, ...]:
    arrivals, moments = 0.0, [Moment(0.0, 0.0, 0.0, 1)]
    for number, rate in enumerate(rates, start=1):
        arrivals += 2 * rate
        moments.append(Moment(2.0 * number, arrivals, rate, 1))
    return tuple(moments)


def test_a_jump_is_seen_in_the_first_sample() -> None:
    moments = moments_of([20.0] * 30)
    rate = envelope(moments, 62.0, moments[-1].arrivals + 200, 60.0)
    assert rate == pytest.approx((200 - 200**0.5) / 2)


def test_a_sample_that_is_only_noise_is_not() -> None:
    moments = moments_of([20.0] * 30)
    one_deviation_more = 40 + 40**0.5
    rate = envelope(moments, 62.0, moments[-1].arrivals + one_deviation_more, 60.0)
    assert rate < 20.5


def test_without_requests_the_rate_is_zero() -> None:
    assert envelope(moments_of([0.0] * 10), 22.0, 0.0, 60.0) == 0
    assert envelope((), 0.0, 5.0, 60.0) == 0


def test_only_what_is_recent_counts() -> None:
    moments = moments_of([50.0] * 10 + [10.0] * 30)
    highest = reduce(peaks, moments, NONE)
    assert most_within(highest, 81.0 - 70) == 50
    assert most_within(highest, 81.0 - 40) == 10
    assert most_within(highest, 82.0) == 0


@given(st.lists(st.floats(0, 100), min_size=1, max_size=40), st.floats(0, 80))
def test_what_is_kept_of_peaks_tells_the_most_since_any_time(
    rates: list[float], since: float
) -> None:
    moments = moments_of(rates)
    found = most_within(reduce(peaks, moments, NONE), since)
    assert found == max((each.rate for each in moments if each.time >= since), default=0.0)


def test_growth_goes_on_for_as_long_as_it_lasted() -> None:
    moments = moments_of([10 + 0.5 * n for n in range(60)])
    rate = coming(moments, 60.0).rate
    # It is at 39.5 now and grows by 0.25 a second.
    assert rate == pytest.approx(39.5 + 0.25 * 60, rel=0.1)


@pytest.mark.parametrize("at", [10, 20, 30, 40, 50])
def test_a_step_is_no_growth_wherever_it_lies(at: int) -> None:
    moments = moments_of([10.0] * at + [40.0] * (70 - at))
    assert coming(moments, 60.0).rate <= 40


@pytest.mark.parametrize("period", [8, 14, 15, 20, 30])
@pytest.mark.parametrize("phase", range(0, 30, 3))
def test_what_goes_up_and_down_within_a_start_up_is_no_growth(period: int, phase: int) -> None:
    high = [(n + phase) % period < period / 2 for n in range(90)]
    found = coming(moments_of([40.0 if each else 5.0 for each in high]), 60.0)
    assert found.rate <= 1.2 * 40


def test_a_steady_fall_is_seen_and_a_steady_rate_is_neither() -> None:
    assert coming(moments_of([200 - 2.0 * n for n in range(90)]), 60.0).falling
    steady = coming(moments_of([20.0] * 90), 60.0)
    assert steady.rate == 0
    assert not steady.falling


def test_nothing_is_foretold_before_enough_was_seen() -> None:
    assert coming(moments_of([10.0 + n for n in range(20)]), 60.0).rate == 0
    assert coming((), 60.0).rate == 0


def test_arrivals_between_moments_are_linear() -> None:
    moments = moments_of([10.0, 20.0])
    assert arrivals_at(moments, -1) == 0
    assert arrivals_at(moments, 1) == 10
    assert arrivals_at(moments, 3) == 40
    assert arrivals_at(moments, 9) == 60
