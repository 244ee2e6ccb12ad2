"""Small scenarios of the simulator that can be followed by hand."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.autoscaling import world as w
from bench.autoscaling.arrivals import Trace, of_rate, recorded
from bench.autoscaling.bounds import clairvoyant, oracle, ordered_ahead
from bench.autoscaling.queueing import replicas_for
from bench.autoscaling.run import Case, Observation, run, run_plan, run_static
from bench.autoscaling.world import Setting

SERVICE = 0.1


def loaded(times: list[float], setting: Setting, startup: float = 10.0) -> w.Load:
    load = w.draw(np.array(times), setting, seed=0)
    return load._replace(
        tie=np.zeros(len(times)), door=np.zeros(len(times), np.int64), startup=np.full(8, startup)
    )


def test_a_replica_serves_one_request_after_another() -> None:
    setting = Setting()
    load = loaded([0.0, 0.01, 0.02], setting)
    world = w.open_world(load, 1, 1, 0.5)
    w.advance(world, load, setting.physics, 1.0)
    assert world.latency == pytest.approx([0.1, 0.19, 0.28])
    assert world.sums[w.QUEUED] == pytest.approx(0.09 + 0.18)
    assert world.sums[w.COMPUTED] == pytest.approx(0.3)
    assert world.sums[w.IN_FLIGHT_SECONDS] == pytest.approx(0.1 + 0.19 + 0.28)


def test_a_batch_takes_what_waits_and_shares_its_fixed_part() -> None:
    setting = Setting(max_batch=4, batch_fixed=0.8)
    load = loaded([0.0, 0.01, 0.02, 0.03], setting)
    world = w.open_world(load, 1, 1, 0.5)
    w.advance(world, load, setting.physics, 1.0)
    three = SERVICE * (0.8 + 0.2 * 3)
    assert world.latency == pytest.approx([0.1, *(0.1 + three - t for t in (0.01, 0.02, 0.03))])
    assert world.counts[w.BATCHES] == 2
    assert world.sums[w.COMPUTED] == pytest.approx(0.1 + 3 * three)


def test_a_door_sees_only_its_own_requests() -> None:
    setting = Setting()
    load = loaded([0.0, 0.01], setting)._replace(door=np.array([0, 1]))
    world = w.open_world(load, 2, 2, 0.5)
    w.advance(world, load, setting.physics, 0.05)
    assert list(world.queued[:2]) == [2, 0]


def test_a_door_beyond_its_limits_rejects() -> None:
    setting = Setting()
    load = loaded([0.0] * (w.DOOR_LIMIT + 3), setting)
    world = w.open_world(load, 1, 1, 0.5)
    w.advance(world, load, setting.physics, 0.05)
    assert world.counts[w.REJECTED] == 3
    assert world.counts[w.IN_FLIGHT] == w.DOOR_LIMIT


def test_a_new_replica_gets_requests_once_it_has_started_and_is_paid_from_its_creation() -> None:
    setting = Setting()
    load = loaded([9.9, 9.9, 10.1, 10.1], setting)
    world = w.open_world(load, 1, 2, 0.5)
    w.scale(world, load, 2)
    w.advance(world, load, setting.physics, 9.95)
    assert list(world.queued[:2]) == [2, 0]
    w.advance(world, load, setting.physics, 10.15)
    assert (world.counts[w.STARTED], world.started[1]) == (2, pytest.approx(10.0))
    assert w.gpu_seconds(world, 10.15) == pytest.approx(2 * 10.15)


def test_one_that_starts_goes_before_a_ready_one_and_a_busy_one_drains() -> None:
    setting = Setting()
    load = loaded([20.0, 20.0], setting)
    world = w.open_world(load, 1, 3, 0.5)
    w.scale(world, load, 2)
    w.advance(world, load, setting.physics, 15.0)
    w.scale(world, load, 3)
    w.scale(world, load, 2)
    assert (w.ready_count(world), w.gpu_seconds(world, 15.0)) == (2, 30.0)
    w.advance(world, load, setting.physics, 20.05)
    w.scale(world, load, 1)
    assert w.ready_count(world) == 1
    w.advance(world, load, setting.physics, 21.0)
    assert world.counts[w.COMPLETED] == 2
    # The one that drained was paid until its request was answered at 20.1.
    assert w.gpu_seconds(world, 21.0) == pytest.approx(21.0 + 20.1)


def test_what_is_unfinished_a_target_after_the_end_is_a_violation() -> None:
    case = Case(recorded("burst", np.array([1.0] * 30 + [10.0] * 30)))
    outcome = run_static(1, case)
    # Five of each burst meet 500 ms; the sixth takes 600.
    assert (outcome.requests, outcome.violations) == (60, 50)
    assert np.isnan(outcome.latency).sum() == 25
    assert outcome.gpu_seconds == pytest.approx(10.0)


def test_every_law_begins_alike() -> None:
    case = Case(of_rate("flat", np.full(600, 30.0), seed=1))
    assert case.offered == pytest.approx(3.0, rel=0.05)
    assert (case.initial, case.static_peak) == (4, replicas_for(34.0, case.goal))
    assert case.most == 2 * case.static_peak


def test_a_policy_sees_counters_starts_and_bounds() -> None:
    seen: list[Observation] = []

    def one_more(observation: Observation, state: int | None) -> tuple[int, int]:
        seen.append(observation)
        return observation.ready + 1 if len(seen) == 1 else observation.desired, (state or 0) + 1

    case = Case(of_rate("flat", np.full(120, 10.0), seed=1), Setting(startup_seconds=5.0))
    outcome = run(one_more, 2.0, case)
    assert [each.now for each in seen[:3]] == [0.0, 2.0, 4.0]
    assert len(seen[0].startups_seconds) == case.initial
    assert seen[1].starting_ages == (2.0,)
    assert sum(len(each.startups_seconds) for each in seen[1:]) == 1
    assert all(before.arrivals <= after.arrivals for before, after in pairwise(seen))
    assert seen[-1].in_flight == seen[-1].arrivals - seen[-1].completions - seen[-1].rejected
    assert outcome.scalings == 1


def test_a_target_below_the_service_time_does_not_search_for_ever() -> None:
    case = Case(of_rate("flat", np.full(60, 10.0), seed=1), Setting(target_seconds=0.05))
    assert case.static_peak < 20
    assert run_static(case.static_peak, case).violations_percent == 100.0


def test_the_clairvoyant_orders_ahead_and_keeps_what_comes_back_soon() -> None:
    need = np.array([1] * 10 + [2] * 2 + [1] * 3 + [2] * 2 + [1] * 10 + [2] * 2)
    plan = ordered_ahead(need, 4)
    assert list(plan) == [1] * 6 + [2] * 11 + [1] * 6 + [2] * 6


def test_those_who_know_what_comes_lose_next_to_nothing_for_less_than_the_peak() -> None:
    rate = np.repeat([5.0, 40.0, 5.0], 600)
    case = Case(of_rate("step", rate, seed=2), Setting(startup_seconds=120.0))
    peak = run_static(case.static_peak, case)
    for outcome in (clairvoyant(1.0, case), oracle(case)):
        assert outcome.violations_percent < 1.5
        assert outcome.gpu_seconds < 0.7 * peak.gpu_seconds


def test_the_rate_of_a_recorded_trace_is_not_known() -> None:
    with pytest.raises(ValueError, match="nobody knows the rate"):
        oracle(Case(recorded("mine", np.array([1.0, 2.0]))))


@pytest.mark.parametrize("times", [[], [1.0, float("nan")], [float("inf")]])
def test_what_is_no_trace_is_refused(times: list[float]) -> None:
    with pytest.raises(ValueError, match="finite"):
        recorded("mine", np.array(times))


def test_a_trace_with_a_calendars_clock_begins_at_its_first_request() -> None:
    assert list(recorded("mine", np.array([1.7e9 + 5, 1.7e9])).arrivals) == [0.0, 5.0]
    assert list(recorded("mine", np.array([3.0, 5.0, 9.0])).arrivals) == [3.0, 5.0, 9.0]


@given(
    times=st.lists(st.floats(0, 60), min_size=1, max_size=200),
    plan=st.lists(st.integers(1, 6), min_size=61, max_size=61),
    balancing=st.sampled_from(sorted(w.BALANCINGS)),
    batch=st.sampled_from([1, 4]),
    seed=st.integers(0, 100),
)
@settings(max_examples=60, deadline=None)
def test_no_request_and_no_gpu_second_is_lost(
    times: list[float], plan: list[int], balancing: str, batch: int, seed: int
) -> None:
    setting = Setting(balancing=balancing, max_batch=batch, startup_seconds=3.0, service_cv=0.5)
    case = Case(Trace("any", np.sort(np.array(times)), 60.0), setting, seed=seed)
    outcome = run_plan(np.array(plan), case)
    answered = np.isfinite(outcome.latency)
    assert (outcome.latency[answered] > 0).all()
    assert outcome.requests == len(times)
    assert outcome.violations == outcome.requests - (outcome.latency <= 0.5 + 1e-9).sum()
    assert (outcome.ready >= 1).all()
    assert (outcome.ready <= outcome.desired).all()
    # Draining replicas come on top of those that were asked for.
    assert outcome.gpu_seconds >= sum(plan[:60]) - 1e-6
