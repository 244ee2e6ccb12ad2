"""The laws of the others, as pure functions of what they see, with their own defaults.

Each was written from its source; the commits are in docs/autoscaling-benchmark.md. All see the
door's requests in flight (its mean over each second) and arrivals second by second, which is more
than some of them get in life; only `hpa-latency` and `hpa-queue` read Prometheus.

A law answers how many replicas it wants, what it would have said without looking back (recorded:
windows look at it), and two figures of its own memory.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from bench.autoscaling.compiled import compiled
from bench.autoscaling.prometheus import Scrapes, latency_quantile, queue_per_compute
from bench.autoscaling.queueing import Goal, replicas_for
from bench.autoscaling.world import Floats, Integers

HPA_IN_FLIGHT, HPA_LATENCY, HPA_QUEUE, KEDA, KPA, APA, RAY, QUEUEING = range(8)

# The grid's windows, in seconds: how long a law looks back before it scales down.
DOWN_WINDOWS = (0, 60, 300, 1000)


class Seen(NamedTuple):
    """What a law can see at a second: series by second, index 0 being the beginning."""

    second: int
    in_flight: Floats  # the mean over the second that ends there
    arrivals: Floats  # in that second
    ready: Integers
    desired: Integers  # spec.replicas, as it was before a decision at that second
    advice: Integers  # what the law would have said without its window; -1 where it was not asked


class Tuning(NamedTuple):
    """The two settings of a law that the grid turns."""

    target: float
    down_window: int  # seconds


class Answer(NamedTuple):
    desired: int
    advice: int
    memory: tuple[float, float]


@dataclass(frozen=True)
class Rival:
    """A law, how often it decides, its defaults, and twelve targets that it is tuned over."""

    name: str
    law: int
    interval_seconds: int
    default: Tuning
    targets: tuple[float, ...]
    unit: str

    @property
    def grid(self) -> list[Tuning]:
        """Return the default and 12 targets x 4 windows."""
        grid = [Tuning(target, window) for target in self.targets for window in DOWN_WINDOWS]
        return [self.default, *(each for each in grid if each != self.default)]


_IN_FLIGHT = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.3, 2.0, 4.0)
_OF_CAPACITY = (0.2, 0.25, 0.3, 0.35, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0)
_OF_TARGET = (0.25, 0.3, 0.35, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.2, 1.5)

RIVALS: Mapping[str, Rival] = {
    rival.name: rival
    for rival in (
        # Kubernetes defaults no target but CPU's, 80 % of what is requested; a replica of one
        # instance that is busy 80 % of the time has 0.8 requests in flight.
        Rival("hpa-in-flight", HPA_IN_FLIGHT, 15, Tuning(0.8, 300), _IN_FLIGHT, "a replica"),
        Rival("hpa-latency", HPA_LATENCY, 15, Tuning(1.0, 300), _OF_TARGET, "x the target"),
        # NVIDIA's example: queue over compute time, averageValue 1000m.
        Rival(
            "hpa-queue",
            HPA_QUEUE,
            15,
            Tuning(1.0, 300),
            (0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 0.7, 1.0, 1.5, 2.0, 4.0),
            "queue/compute",
        ),
        # The same 80 %, of the rate that a replica can serve.
        Rival("keda", KEDA, 15, Tuning(0.8, 300), _OF_CAPACITY, "of mu"),
        # 70 % of containerConcurrency, which is 1 for a model of one instance.
        Rival("kpa", KPA, 2, Tuning(0.7, 0), _IN_FLIGHT, "a replica"),
        Rival("apa", APA, 10, Tuning(0.8, 300), _IN_FLIGHT, "a replica"),
        # target_ongoing_requests 2, downscale_delay_s 600.
        Rival("ray", RAY, 1, Tuning(2.0, 600), _IN_FLIGHT, "a replica"),
        # No project's: the formulas of queueing.py over the last minute's rate times `target`, what
        # is in flight included.
        Rival(
            "queueing",
            QUEUEING,
            15,
            Tuning(1.0, 300),
            (0.8, 0.9, 1.0, 1.1, 1.2, 1.3, 1.4, 1.6, 1.8, 2.0, 2.5, 3.0),
            "x the rate",
        ),
    )
}


@compiled
def decide(  # noqa: PLR0917  (compiled functions take no keyword-only arguments)
    law: int, seen: Seen, scrapes: Scrapes, tuning: Tuning, goal: Goal, memory: tuple[float, float]
) -> Answer:
    """Ask a law by its number."""
    if law == KPA:
        return kpa(seen, tuning, memory)
    if law == APA:
        return apa(seen, tuning)
    if law == RAY:
        return ray(seen, tuning, memory)
    current, now = seen.desired[seen.second], float(seen.second)
    advice = current
    if law == HPA_IN_FLIGHT:
        advice = hpa_average_value(seen.in_flight[seen.second], tuning.target, current)
    elif law == KEDA:
        rate, capacity = _mean(seen.arrivals, seen.second, _RATE_WINDOW), 1 / goal.service_seconds
        advice = hpa_average_value(rate, tuning.target * capacity, current)
    elif law == HPA_LATENCY:
        value = latency_quantile(scrapes, now, _RATE_WINDOW, goal.percentile / 100)
        target = tuning.target * goal.target_seconds
        advice = hpa_value(value, target, current, seen.ready[seen.second])
    elif law == HPA_QUEUE:
        value = queue_per_compute(scrapes, now, _RATE_WINDOW)
        advice = hpa_pods(value, tuning.target, current, seen.ready[seen.second])
    else:
        # What is in flight is to be done within the window, too.
        rate = _mean(seen.arrivals, seen.second, _RATE_WINDOW)
        rate += seen.in_flight[seen.second] / _RATE_WINDOW
        advice = replicas_for(rate * tuning.target, goal)
    if law == QUEUEING:
        return Answer(_most_advised(seen, advice, tuning.down_window), advice, memory)
    return Answer(hpa_behaviour(seen, advice, tuning.down_window), advice, memory)


# PromQL's rate over a minute, the commonest window, in all laws that have a rate.
_RATE_WINDOW = 60


@compiled
def _mean(series: Floats, second: int, window: int) -> float:
    """Return the mean of the last `window` seconds, or of as many as there are."""
    first = max(1, second - window + 1)
    return float(np.mean(series[first : second + 1]))


@compiled
def _most_advised(seen: Seen, advice: int, window: int) -> int:
    most = int(advice)
    for second in range(max(0, seen.second - window + 1), seen.second):
        most = max(most, int(seen.advice[second]))
    return most


# Kubernetes, horizontal-pod-autoscaler-tolerance.
_TOLERANCE = 0.1


@compiled
def hpa_average_value(total: float, target: float, current: int) -> int:
    """HPA, External or Object metric with AverageValue: the total over the target."""
    if abs(1 - total / (target * current)) <= _TOLERANCE:
        return current
    return math.ceil(total / target)


@compiled
def hpa_value(value: float, target: float, current: int, ready: int) -> int:
    """HPA, Object metric with Value: ready replicas times value over target; hold without one."""
    if math.isnan(value) or abs(1 - value / target) <= _TOLERANCE:
        return current
    return math.ceil(value / target * ready)


@compiled
def hpa_pods(value: float, target: float, current: int, ready: int) -> int:
    """HPA, Pods metric: a pod that starts counts 0 on the way up and nothing on the way down."""
    if math.isnan(value):
        return current
    ratio = value / target
    if current > ready and ratio > 1:
        damped = ratio * ready / current
        if damped < 1 or abs(1 - damped) <= _TOLERANCE:
            return current
        return max(current, math.ceil(damped * current))
    if abs(1 - ratio) <= _TOLERANCE:
        return current
    return math.ceil(ratio * ready)


@compiled
def hpa_behaviour(seen: Seen, advice: int, down_window: int) -> int:
    """HPA's default behaviour: up at once by 4 pods or 100 % in 15 s; down to the window's most."""
    current = seen.desired[seen.second]
    stable = min(max(current, advice), _most_advised(seen, advice, down_window))
    return int(min(stable, max(current + 4, 2 * current)))


# Knative's config-autoscaler: stable window 60 s, a tenth of it for panic, threshold 200 %,
# rates 1000 up and 2 down.
_STABLE, _PANIC, _PANIC_THRESHOLD = 60, 6, 2.0
_UP_RATE, _DOWN_RATE = 1000.0, 2.0


@compiled
def kpa(seen: Seen, tuning: Tuning, memory: tuple[float, float]) -> Answer:
    """Knative's: two means of the requests in flight; in panic it never scales down.

    Its memory: when it panicked last (0 is never; it starts in panic with more than one replica),
    and the most that it has wanted since.
    """
    panicked_at, most = memory
    now, ready = float(seen.second), float(max(1, seen.ready[seen.second]))
    stable = math.ceil(_mean(seen.in_flight, seen.second, _STABLE) / tuning.target)
    panic = math.ceil(_mean(seen.in_flight, seen.second, _PANIC) / tuning.target)
    least, limit = math.floor(ready / _DOWN_RATE), math.ceil(_UP_RATE * ready)
    desired = min(max(stable, least), limit)
    if panic / ready >= _PANIC_THRESHOLD:
        panicked_at = now
    elif panicked_at > 0 and panicked_at + _STABLE < now:
        panicked_at, most = 0.0, 0.0
    if panicked_at > 0:
        most = max(most, float(max(desired, min(max(panic, least), limit))))
        desired = int(most)
    return Answer(_most_advised(seen, desired, tuning.down_window), desired, (panicked_at, most))


@compiled
def kpa_memory(ready: int) -> tuple[float, float]:
    """Return KPA's memory at its start: in panic where more than one replica is ready."""
    return (1e-9, float(ready)) if ready > 1 else (0.0, 0.0)


# AIBrix: samples every 10 s, a mean over a minute, rates 2 and 2, tolerances 0.1 and 0.1.
_APA_INTERVAL, _APA_WINDOW, _APA_RATE = 10, 60, 2.0


@compiled
def apa(seen: Seen, tuning: Tuning) -> Answer:
    """AIBrix's: replicas times the mean in flight a pod over the target, at most twice or half.

    Its window on the way down takes the least of the last recommendations, as its code does
    (stabilizeRecommendation), not the most.
    """
    current = seen.desired[seen.second]
    value = _apa_value(seen)
    advice = _apa_advice(value / tuning.target, current)
    advice = _apa_guard(advice, value, tuning.target, current, seen.ready[seen.second])
    desired = advice
    if advice < current:
        for second in range(max(0, seen.second - tuning.down_window + 1), seen.second):
            if seen.advice[second] >= 0:
                desired = min(desired, seen.advice[second])
    return Answer(desired, advice, (0.0, 0.0))


@compiled
def _apa_value(seen: Seen) -> float:
    total, count = 0.0, 0
    for second in range(seen.second, max(0, seen.second - _APA_WINDOW), -_APA_INTERVAL):
        total += seen.in_flight[second] / max(1, seen.ready[second])
        count += 1
    return total / count


@compiled
def _apa_advice(ratio: float, current: int) -> int:
    if ratio > 1 + _TOLERANCE:
        return int(min(math.ceil(current * ratio), math.ceil(_APA_RATE * current)))
    if ratio < 1 - _TOLERANCE:
        return int(max(math.ceil(current * ratio), math.floor(current / _APA_RATE)))
    return current


@compiled
def _apa_guard(advice: int, value: float, target: float, current: int, ready: int) -> int:
    """While pods start, AIBrix takes them at 0 on the way up and at the target on the way down."""
    ready = min(ready, current)
    if ready == current:
        return advice
    if advice > current:
        return min(advice, max(current, math.ceil(value * ready / target)))
    adjusted = value * ready + target * (current - ready)
    return max(advice, min(current, math.ceil(adjusted / target)))


# Ray Serve: look_back_period_s 30, metrics pushed every 10 s, upscale_delay_s 30.
_RAY_LOOK_BACK, _RAY_PUSH, _RAY_UP_DELAY = 30, 10, 30


@compiled
def ray(seen: Seen, tuning: Tuning, memory: tuple[float, float]) -> Answer:
    """Ray Serve's: ongoing requests over the target, once that has held for a delay.

    Its memory: for how many seconds it has wanted more (positive) or fewer (negative). Its loop of
    10 Hz is taken at 1 Hz: the delays are counted in its turns, which last as long.
    """
    current, held = seen.desired[seen.second], memory[0]
    pushed = max(1, seen.second - seen.second % _RAY_PUSH)
    wanted = max(1, math.ceil(_mean(seen.in_flight, pushed, _RAY_LOOK_BACK) / tuning.target))
    if wanted > current:
        held = max(held, 0.0) + 1
        if held >= _RAY_UP_DELAY:
            return Answer(wanted, wanted, (0.0, 0.0))
    elif wanted < current:
        held = min(held, 0.0) - 1
        if -held >= tuning.down_window:
            return Answer(wanted, wanted, (0.0, 0.0))
    else:
        held = 0.0
    return Answer(current, wanted, (held, 0.0))
