"""Whatever the samples are, the law answers, within bounds, and the same to the same."""

from __future__ import annotations

import math
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from lepton_operator.autoscale.law import decide
from lepton_operator.autoscale.values import (
    Computed,
    Decision,
    History,
    Samples,
    ScalingRules,
    Spec,
)
from tests.unit.autoscale.driving import Drive

figures = st.one_of(
    st.floats(0, 1e6), st.floats(), st.sampled_from([math.nan, math.inf, -math.inf, -1.0, 0.0])
)
any_samples = st.none() | st.builds(
    Samples,
    time=st.one_of(st.floats(0, 1e4), figures),
    arrivals=figures,
    in_flight=figures,
    completions=figures,
    latency_seconds=figures,
    ready=st.integers(-3, 50),
    starting_ages=st.lists(figures, max_size=3).map(tuple),
    startups_seconds=st.lists(figures, max_size=3).map(tuple),
    computed=st.none() | st.builds(Computed, figures, figures, figures, figures),
    desired=st.none() | st.integers(-2, 80),
)
specs = st.builds(
    lambda target, percentile, least, more, window, batch: Spec(
        target_seconds=target,
        percentile=percentile,
        min_replicas=least,
        max_replicas=least + more,
        down=ScalingRules(stabilization_window_seconds=window),
        max_batch=batch,
    ),
    target=st.floats(0.001, 100),
    percentile=st.floats(1, 99.99),
    least=st.integers(1, 20),
    more=st.integers(0, 50),
    window=st.none() | st.integers(0, 600),
    batch=st.integers(1, 64),
)


@settings(max_examples=200, deadline=None)
@given(spec=specs, stream=st.lists(any_samples, max_size=12), current=st.integers(0, 80))
def test_any_stream_of_samples_is_answered_within_the_bounds(
    spec: Spec, stream: list[Samples | None], current: int
) -> None:
    history, now = History(), 0.0
    for samples in stream:
        if samples is not None and math.isfinite(samples.time):
            now = samples.time
        decision = decide(spec, samples, history, now, current=current)
        assert decision == decide(spec, samples, history, now, current=current)
        assert spec.min_replicas <= decision.replicas <= spec.max_replicas
        assert decision.reason.endswith(".")
        history = decision.history


rates = st.lists(st.tuples(st.floats(0, 150), st.integers(1, 60)), min_size=1, max_size=8)


def follow(drive: Drive, parts: list[tuple[float, int]]) -> list[Decision]:
    return [drive.step(rate) for rate, turns in parts for _ in range(turns)]


@settings(max_examples=60, deadline=None)
@given(parts=rates, startup=st.sampled_from([10.0, 60.0, 300.0]))
def test_within_the_first_start_up_nothing_goes(
    parts: list[tuple[float, int]], startup: float
) -> None:
    drive = Drive(ready=4, startup_seconds=startup)
    seen = follow(drive, parts)
    early = [each for turn, each in enumerate(seen) if turn * 2 < startup]
    assert all(each.replicas >= each.current for each in early)


@settings(max_examples=60, deadline=None)
@given(parts=rates, at=st.integers(0, 200), poison=st.sampled_from([math.nan, math.inf, -1.0]))
def test_a_poisoned_sample_leaves_no_trace(
    parts: list[tuple[float, int]], at: int, poison: float
) -> None:
    drive, clean = Drive(), Drive()
    for turn, rate in enumerate(rate for rate, turns in parts for _ in range(turns)):
        if turn == at and drive.history.last is not None:
            bad = replace(drive.history.last, time=drive.time + 1, in_flight=poison)
            assert drive.feed(bad).held
        assert drive.step(rate) == clean.step(rate)


@settings(max_examples=60, deadline=None)
@given(parts=rates)
def test_what_is_remembered_is_bounded(parts: list[tuple[float, int]]) -> None:
    drive = Drive(startup_seconds=60.0)
    follow(drive, parts)
    assert len(drive.history.moments) <= 60
    assert len(drive.history.worth) <= drive.spec.max_replicas
    assert not drive.history.advice
    assert not drive.history.changes


@settings(max_examples=20, deadline=None)
@given(parts=rates)
def test_whatever_was_kept_is_let_go_when_it_no_longer_pays(parts: list[tuple[float, int]]) -> None:
    drive = Drive(startup_seconds=20.0)
    follow(drive, parts)
    drive.last(3 * 20.0, 0.0)  # those who waited at the end are late still, and cost
    dearest = max((each.most for each in drive.history.worth), default=0.0)
    if drive.history.service.weight == 0:
        return  # not a single request: nothing is known, and it holds
    assert drive.last(dearest + 3 * 20.0, 0.0).replicas == drive.spec.min_replicas
