"""The rate of requests: now, at its most within a start-up, and where it goes.

A short window sees a jump at once and is noisy; a long one is neither. So the rate is the highest
of the means over windows of 1, 2, 4, ... samples up to a start-up, each less its own standard
error, which for n requests of a Poisson process is sqrt(n).
"""

from __future__ import annotations

import math
from bisect import bisect_left
from itertools import combinations, pairwise
from operator import attrgetter
from statistics import median
from typing import NamedTuple

from lepton_operator.autoscale.values import Moment

# Five changes between blocks of a fourth of the horizon: a step makes two of them at most, so their
# median is not moved by one, wherever it lies.
_BLOCKS, _CHANGES = 4, 5
# Standard errors: noise alone looks like this once in 740 times.
_CERTAIN = 3

_time = attrgetter("time")


class Coming(NamedTuple):
    """The demand that a steady change leads to."""

    rate: float  # requests a second at the horizon, if it grows; else 0
    falling: bool


def newest_rate(moments: tuple[Moment, ...], time: float, arrivals: float) -> float:
    """Return the mean rate since the last moment."""
    if not moments:
        return 0.0
    return (arrivals - moments[-1].arrivals) / (time - moments[-1].time)


def certain_rate(moments: tuple[Moment, ...], time: float, arrivals: float) -> float:
    """Return the lower bound of the rate since the last moment."""
    if not moments:
        return 0.0
    return _certain(arrivals - moments[-1].arrivals, time - moments[-1].time)


def _certain(count: float, seconds: float) -> float:
    return (count - math.sqrt(count)) / seconds if count > 1 else 0.0


def envelope(
    moments: tuple[Moment, ...], time: float, arrivals: float, longest_seconds: float
) -> float:
    """Return the highest lower bound of the rate over windows of all scales."""
    highest, back = 0.0, 1
    while back <= len(moments):
        moment = moments[-back]
        seconds, count = time - moment.time, arrivals - moment.arrivals
        if back > 1 and seconds > longest_seconds:
            break
        highest = max(highest, _certain(count, seconds))
        back *= 2
    return highest


def peaks(before: tuple[Moment, ...], moment: Moment) -> tuple[Moment, ...]:
    """Return the moments whose rate no later one reached, up to a new moment.

    The highest rate since any time is then that of the first of them since it.
    """
    kept = len(before)
    while kept and before[kept - 1].rate <= moment.rate:
        kept -= 1
    return (*before[:kept], moment)


def most_within(peaks: tuple[Moment, ...], since: float) -> float:
    """Return the highest rate since a time."""
    place = bisect_left(peaks, since, key=_time)
    return peaks[place].rate if place < len(peaks) else 0.0


def coming(moments: tuple[Moment, ...], horizon_seconds: float) -> Coming:
    """Return where a steady change leads: what lasted for a horizon goes on for another one.

    Of what has lasted for a time, half lasts for as long again (Lindy's law, the scale-free prior).
    The change is that between blocks of a fourth of the horizon (`_steady_change`), times the share
    of it that noise does not explain: its square over that plus its error's square. The noise is
    that of counting, or how far the blocks lie from the line, whichever is more.
    """
    block = horizon_seconds / _BLOCKS
    end = moments[-1].time if moments else 0.0
    if not moments or moments[0].time > end - block * (_CHANGES + 1):
        return Coming(0.0, falling=False)
    counts = [arrivals_at(moments, end - block * back) for back in range(_CHANGES + 2)]
    rates = [(late - early) / block for late, early in pairwise(counts)]
    change = _steady_change(rates)
    noise = max(max(rates[0], 1 / block) / block, _scatter(rates, change))
    # A change has the noise of two blocks; a median of n has pi/2 of the variance of their mean.
    error = math.sqrt(math.pi / _CHANGES * noise)
    sure = change**2 / (change**2 + error**2)
    # The newest block's mean is half a block old.
    rate = rates[0] + (_BLOCKS + 0.5) * change * sure
    return Coming(rate if change > 0 else 0.0, falling=change < -_CERTAIN * error)


def _steady_change(rates: list[float]) -> float:
    """Return by how much each block is above the one before it, the newest being the first.

    A step moves few of the changes between neighbours, and not their median; a demand that goes up
    and down moves few of the slopes between all pairs, and not theirs (Theil and Sen's estimator).
    The smaller of both is a change that is neither; there is none where they differ in sign.
    """
    neighbours = median(late - early for late, early in pairwise(rates))
    slopes = [
        (late - early) / (older - newer)
        for (newer, late), (older, early) in combinations(enumerate(rates), 2)
    ]
    overall = median(slopes)
    return min(neighbours, overall, key=abs) if neighbours * overall > 0 else 0.0


def _scatter(rates: list[float], change: float) -> float:
    """Return the variance of blocks about the line; two degrees of freedom are the line's."""
    levels = [rate + back * change for back, rate in enumerate(rates)]
    middle = median(levels)
    return sum((level - middle) ** 2 for level in levels) / (len(rates) - 2)


def arrivals_at(moments: tuple[Moment, ...], time: float) -> float:
    """Return the cumulative arrivals at a time, linear between moments."""
    place = bisect_left(moments, time, key=_time)
    if place == 0:
        return moments[0].arrivals
    if place == len(moments):
        return moments[-1].arrivals
    before, after = moments[place - 1], moments[place]
    part = (time - before.time) / (after.time - before.time)
    return before.arrivals + part * (after.arrivals - before.arrivals)


def since(moments: tuple[Moment, ...], time: float) -> tuple[Moment, ...]:
    """Return the moments since a time."""
    return moments[bisect_left(moments, time, key=_time) :]
