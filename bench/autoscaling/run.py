"""A run: a law over a trace, from the same beginning, under the same bounds, to one `Outcome`.

    python:  outcome = run(policy, 2.0, case)      # the operator's own law, or any Python function
    numba:   outcome = run_rival(rival, tuning, case)

A policy is `policy(observation, state) -> (desired, state)`; state is None at first. It is asked
every `interval_seconds` and sees the door and the pods as they are at that moment.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from bench.autoscaling import world as w
from bench.autoscaling.arrivals import Trace
from bench.autoscaling.compiled import compiled
from bench.autoscaling.prometheus import Scrapes, Scraping, open_scrapes, scrape
from bench.autoscaling.queueing import Goal, replicas_for
from bench.autoscaling.rivals import KPA, Rival, Seen, Tuning, decide, kpa_memory
from bench.autoscaling.world import Integers, Load, Physics, Setting, World

# Every law starts with this many times the offered load, ready, and has twice the static peak.
_INITIAL, _MOST = 1.3, 2
_PEAK_WINDOW_SECONDS = 60


@dataclass(frozen=True)
class Case:
    """A trace with all that is the same for every law; `seed` draws services and start-ups."""

    trace: Trace
    setting: Setting = field(default_factory=Setting)
    scraping: Scraping = field(default_factory=Scraping)
    seed: int = 0

    @property
    def goal(self) -> Goal:
        setting = self.setting
        return Goal(
            setting.target_seconds,
            setting.percentile,
            setting.service_seconds,
            setting.service_cv**2,
            setting.balancing != "random",
        )

    @property
    def offered(self) -> float:
        """Return the mean number of busy replicas that the trace needs."""
        busy = len(self.trace.arrivals) * self.setting.service_seconds
        return busy / self.trace.duration_seconds

    @property
    def initial(self) -> int:
        return max(1, math.ceil(_INITIAL * self.offered))

    @cached_property
    def static_peak(self) -> int:
        """Return how many replicas hold the goal at the busiest minute's rate, and all along.

        The formula's number for that minute, and more where the simulated violations from
        beginning to end are still more than the percentile allows.
        """
        times = self.trace.arrivals
        window = min(_PEAK_WINDOW_SECONDS, self.trace.duration_seconds)
        counts = np.searchsorted(times, times + window) - np.arange(len(times))
        replicas = replicas_for(float(counts.max()) / window, self.goal)
        allowed, found = 100 - self.setting.percentile, math.inf
        lost = run_static(replicas, self).violations_percent
        while allowed < lost < found:  # more do not help where service alone takes too long
            replicas += max(1, replicas // 8)
            found, lost = lost, run_static(replicas, self).violations_percent
        return replicas

    @property
    def most(self) -> int:
        return max(self.initial, _MOST * self.static_peak)

    def load(self) -> Load:
        return w.draw(self.trace.arrivals, self.setting, self.seed)


@dataclass(frozen=True)
class Outcome:
    """What a run cost and what it lost."""

    requests: int
    violations: int  # over the target, rejected, or unfinished
    gpu_seconds: float
    scalings: int
    cost: float  # gpu_seconds / (duration x max(1, offered load))
    desired: Integers  # at each second
    ready: Integers
    in_flight: w.Floats  # the mean over each second
    latency: w.Floats  # of each request; NaN unfinished, infinite rejected

    @property
    def violations_percent(self) -> float:
        return 100 * self.violations / self.requests


@dataclass(frozen=True)
class Observation:
    """What the door and the pods show at a moment; counters run from the beginning."""

    now: float
    arrivals: int  # rejected ones included
    in_flight: int  # executing or waiting
    rejected: int
    completions: int
    latency_seconds: float  # sum over completions
    compute_seconds: float  # Triton's, sum over completions (a batch's time for each of its own)
    batches: int
    ready: int
    starting_ages: tuple[float, ...]  # seconds since each pod that is not ready was created
    startups_seconds: tuple[float, ...]  # of pods that became ready since the last observation
    desired: int  # spec.replicas
    least: int
    most: int
    within_target: int  # completions


Policy = Callable[[Observation, Any], tuple[int, Any]]


def hold(seen: Observation, state: None) -> tuple[int, None]:
    """Leave the number of replicas as it is."""
    return seen.desired, state


def run(policy: Policy, interval_seconds: float, case: Case) -> Outcome:
    """Run a Python policy."""
    load, physics, series = case.load(), case.setting.physics, _Series(case)
    world = w.open_world(load, case.initial, case.most, physics.target)
    state, seconds = None, _seconds(case)
    second, started = 0, 0
    for now in _ticks(interval_seconds, case.trace.duration_seconds):
        while second + 1 <= now:
            second += 1
            w.advance(world, load, physics, float(second))
            series.record(world, second)
        w.advance(world, load, physics, now)
        seen = _observe(world, case, now, started)
        started = int(world.counts[w.STARTED])
        desired, state = policy(seen, state)
        w.scale(world, load, min(max(int(desired), 1), case.most))
    while second < seconds:
        second += 1
        w.advance(world, load, physics, float(second))
        series.record(world, second)
    return _close(world, load, case, series.desired, series.ready, series.in_flight)


def _ticks(interval_seconds: float, duration_seconds: float) -> Iterator[float]:
    count = math.ceil(duration_seconds / interval_seconds)
    return (turn * interval_seconds for turn in range(count))


def _seconds(case: Case) -> int:
    """Return how many whole seconds a run has: no law decides after the last."""
    return math.floor(case.trace.duration_seconds)


class _Series:
    """What is kept of each second of a run, for plots."""

    def __init__(self, case: Case) -> None:
        count = _seconds(case) + 1
        self.desired = np.full(count, case.initial, np.int64)
        self.ready = np.full(count, case.initial, np.int64)
        self.in_flight = np.zeros(count)
        self._integral = 0.0

    def record(self, world: World, second: int) -> None:
        self.desired[second] = world.counts[w.DESIRED]
        self.ready[second] = w.ready_count(world)
        integral = float(world.sums[w.IN_FLIGHT_SECONDS])
        self.in_flight[second], self._integral = integral - self._integral, integral


def _observe(world: World, case: Case, now: float, started: int) -> Observation:
    counts, sums = world.counts, world.sums
    starting = world.phase[: counts[w.HIGH]] == w.STARTING
    ages = now - world.created_at[: counts[w.HIGH]][starting]
    since = range(started, int(counts[w.STARTED]))
    return Observation(
        now=now,
        arrivals=int(counts[w.NEXT]),
        in_flight=int(counts[w.IN_FLIGHT]),
        rejected=int(counts[w.REJECTED]),
        completions=int(counts[w.COMPLETED]),
        latency_seconds=float(sums[w.LATENCY]),
        compute_seconds=float(sums[w.COMPUTED]),
        batches=int(counts[w.BATCHES]),
        ready=w.ready_count(world),
        starting_ages=tuple(float(age) for age in ages),
        startups_seconds=tuple(float(world.started[n % len(world.started)]) for n in since),
        desired=int(counts[w.DESIRED]),
        least=1,
        most=case.most,
        within_target=int(counts[w.COMPLETED] - counts[w.LATE]),
    )


def run_plan(plan: Integers, case: Case, startup: w.Floats | None = None) -> Outcome:
    """Run a plan that was made beforehand: how many replicas at each second, from the first on.

    It begins with the plan's own first number, ready. `startup` are other start-ups than drawn.
    """
    load, physics, series = case.load(), case.setting.physics, _Series(case)
    if startup is not None:
        load = load._replace(startup=startup)
    world = w.open_world(load, int(plan[0]), int(plan.max()), physics.target)
    _follow(plan, world, load, physics, series.desired, series.ready, series.in_flight)
    return _close(world, load, case, series.desired, series.ready, series.in_flight)


def run_static(replicas: int, case: Case) -> Outcome:
    """Run so many replicas from beginning to end."""
    return run_plan(np.full(_seconds(case) + 1, replicas, np.int64), case)


@compiled
def _follow(  # noqa: PLR0917
    plan: Integers,
    world: World,
    load: Load,
    physics: Physics,
    desired: Integers,
    ready: Integers,
    in_flight: w.Floats,
) -> None:
    integral = 0.0
    for second in range(len(ready)):
        w.advance(world, load, physics, float(second))
        w.scale(world, load, plan[second])
        desired[second], ready[second] = plan[second], w.ready_count(world)
        in_flight[second] = world.sums[w.IN_FLIGHT_SECONDS] - integral
        integral = world.sums[w.IN_FLIGHT_SECONDS]


def run_rival(rival: Rival, tuning: Tuning, case: Case) -> Outcome:
    """Run one of the others' laws with one tuning of it."""
    load, physics = case.load(), case.setting.physics
    world = w.open_world(load, case.initial, case.most, physics.target)
    scrapes = open_scrapes(case.scraping, world, case.trace.duration_seconds, case.seed)
    count = _seconds(case) + 1
    seen = Seen(
        0,
        np.zeros(count),
        np.zeros(count),
        np.full(count, case.initial, np.int64),
        np.full(count, case.initial, np.int64),
        np.full(count, -1, np.int64),
    )
    memory = kpa_memory(case.initial) if rival.law == KPA else (0.0, 0.0)
    # No loop is in step with a trace: when it turns first is drawn, too.
    interval = rival.interval_seconds
    phase = int(np.random.default_rng(case.seed).integers(interval))
    _drive(
        rival.law, interval, phase, tuning, case.goal, case.most, memory,
        world, load, physics, scrapes, seen,
    )  # fmt: skip
    return _close(world, load, case, seen.desired, seen.ready, seen.in_flight)


@compiled
def _drive(  # noqa: PLR0917
    law: int,
    interval: int,
    phase: int,
    tuning: Tuning,
    goal: Goal,
    most: int,
    memory: tuple[float, float],
    world: World,
    load: Load,
    physics: Physics,
    scrapes: Scrapes,
    series: Seen,
) -> None:
    """Step through a run second by second, and ask the law at its own interval."""
    integral = 0.0
    series.advice[0] = series.desired[0]
    for second in range(1, len(series.ready)):
        came = world.counts[w.NEXT]
        w.advance(world, load, physics, float(second))
        series.in_flight[second] = world.sums[w.IN_FLIGHT_SECONDS] - integral
        integral = world.sums[w.IN_FLIGHT_SECONDS]
        series.arrivals[second] = world.counts[w.NEXT] - came
        series.ready[second] = w.ready_count(world)
        series.desired[second] = world.counts[w.DESIRED]
        scrape(scrapes, world, second)
        if second % interval == phase:
            seen = Seen(
                second,
                series.in_flight,
                series.arrivals,
                series.ready,
                series.desired,
                series.advice,
            )
            answer = decide(law, seen, scrapes, tuning, goal, memory)
            memory = answer.memory
            series.advice[second] = min(max(answer.advice, 1), most)
            w.scale(world, load, min(max(answer.desired, 1), most))


def _close(  # noqa: PLR0917
    world: World, load: Load, case: Case, desired: Integers, ready: Integers, in_flight: w.Floats
) -> Outcome:
    """End the run: what is unanswered a target after the last arrival is over it whatever comes."""
    physics, end = case.setting.physics, case.trace.duration_seconds
    w.advance(world, load, physics, end)
    paid = float(w.gpu_seconds(world, end))
    scalings = int(world.counts[w.SCALINGS])
    w.advance(world, load, physics, end + physics.target + 1e-6)
    requests = len(load.arrivals)
    met = int(world.counts[w.COMPLETED] - world.counts[w.LATE])
    return Outcome(
        requests=requests,
        violations=requests - met,
        gpu_seconds=paid,
        scalings=scalings,
        cost=paid / (end * max(1.0, case.offered)),
        desired=desired,
        ready=ready,
        in_flight=in_flight,
        latency=world.latency,
    )
