"""Which rank is slow: a law over each rank's own time, with no I/O and no clock.

Collectives make every rank's step equally long, so what is compared is the time outside of them:
the slow rank is the one that waits least. A rank tells the median of its last steps' own times and
that median's standard error. It is slow when it takes a quarter longer than the median of the
others, and that is no chance: more than 3.5 standard deviations, the bound of Iglewicz and Hoaglin
(How to Detect and Handle Outliers, ASQC 1993) for modified z-scores, where the deviation is the
larger of the medians' error and the ranks' own spread (1.4826 times the median absolute deviation).
It must hold for some steps, and is over when the rank is within a tenth of the others.
"""

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

_FACTOR = 1.25
_FACTOR_WHILE_NAMED = 1.1
_DEVIATIONS = 3.5
_SMALLEST_DEVIATION = 0.02  # of the median: closer than that nothing is measured
_HELD_STEPS = 10
_NORMAL = 1.4826  # from a median absolute deviation to a standard one
_MEDIAN_ERROR = 1.2533  # of a median to that of a mean, both of normal values

_STEPS = 40
_SAMPLED_STEPS = 20
_FEWEST = 10
_TOLD_STEPS = 4  # a median costs a rank some microseconds


class OwnTime(NamedTuple):
    """The time of a rank's step outside collectives, and the standard error of that."""

    rank: int
    node: int
    seconds: float
    error_seconds: float


class Slow(NamedTuple):
    """A rank that holds up all, and how much longer than the others it takes."""

    rank: int
    node: int
    factor: float


class OwnTimes:
    """The own times of one rank's last steps. With `sampled`, each stands for several steps."""

    def __init__(self, *, sampled: bool = False) -> None:
        self._times: deque[float] = deque(maxlen=_SAMPLED_STEPS if sampled else _STEPS)

    def add(self, seconds: float) -> None:
        """Take in one step."""
        self._times.append(max(0.0, seconds))

    def summary(self) -> tuple[float, float] | None:
        """The median and its standard error; None before there are enough."""
        if len(self._times) < _FEWEST:
            return None
        middle = median(self._times)
        spread = _NORMAL * median([abs(each - middle) for each in self._times])
        # Of few values the spread is a guess too.
        count = len(self._times)
        return middle, _MEDIAN_ERROR * spread / math.sqrt(count) * (1 + _FEWEST / count)


class Stopwatch:
    """Takes the own times of one rank's steps: what a step took, less its waits in collectives."""

    def __init__(self) -> None:
        self._times = OwnTimes()
        self._began = 0.0
        self._phase_changes = -1
        self._waited = 0.0
        self._sample: float | None = None
        self._is_sampled = False
        self._laps = 0

    def wait(self, seconds: float, steps: int) -> None:
        """Add a wait of the present step. One that stands for several steps is a sample of them."""
        if steps == 1:
            self._waited += seconds
            return
        if not self._is_sampled:
            self._is_sampled, self._times = True, OwnTimes(sampled=True)
        self._sample = seconds / steps

    def lap(self, now: float, steps: int, phase_changes: int) -> tuple[float, float] | None:
        """End so many steps; their own time and its error, if there is something new to tell."""
        seconds, waited, sample = now - self._began, self._waited, self._sample
        is_plain = self._began > 0 and phase_changes == self._phase_changes
        self._began, self._waited, self._sample = now, 0.0, None
        self._phase_changes = phase_changes
        if not is_plain or (self._is_sampled and sample is None):
            return None
        self._times.add((seconds - waited) / steps - (sample or 0.0))
        self._laps += 1
        if not self._is_sampled and self._laps % _TOLD_STEPS:
            return None
        return self._times.summary()


class SlowWatch:
    """Names the slow rank of a gang while there is one."""

    def __init__(self) -> None:
        self.named: Slow | None = None
        self._doubt_since = 0
        self._doubted: int | None = None

    def observe(self, times: Sequence[OwnTime], step: int) -> Slow | None:
        """Judge what all ranks tell at this step; who is slow now, if anybody."""
        found = self._found(times)
        rank = found.rank if found else None
        if rank == (self.named.rank if self.named else None):
            self.named = found
            self._doubt_since, self._doubted = step, rank
        elif rank != self._doubted or step < self._doubt_since:
            self._doubt_since, self._doubted = step, rank
        elif step - self._doubt_since >= _HELD_STEPS:
            self.named = found
        return self.named

    def _found(self, times: Sequence[OwnTime]) -> Slow | None:
        if self.named is not None:
            known = [each for each in times if each.rank == self.named.rank]
            still = known and _compared(known[0], times, _FACTOR_WHILE_NAMED)
            if still:
                return still
        slowest = max(times, key=lambda each: each.seconds, default=None)
        return _compared(slowest, times, _FACTOR) if slowest else None


def _compared(one: OwnTime, times: Sequence[OwnTime], factor: float) -> Slow | None:
    others = [each for each in times if each.rank != one.rank]
    if not others:
        return None
    usual = median([each.seconds for each in others])
    deviation = max(
        one.error_seconds,
        median([each.error_seconds for each in others]),
        _NORMAL * median([abs(each.seconds - usual) for each in others]),
        _SMALLEST_DEVIATION * usual,
    )
    longer = one.seconds - usual
    if usual <= 0 or one.seconds <= factor * usual or longer <= _DEVIATIONS * deviation:
        return None
    return Slow(one.rank, one.node, one.seconds / usual)


def median(values: Sequence[float] | deque[float]) -> float:
    """The middle of some values; of an even number, the mean of the two."""
    ordered = sorted(values)
    half = len(ordered) // 2
    return ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2
