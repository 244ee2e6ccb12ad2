"""The rate of requests: now, at its most within a start-up, and where it goes.

A short window sees a jump at once and is noisy; a long one is neither. So the rate is the highest
of the means over windows of 1, 2, 4, ... samples up to a start-up, each less its own standard
error, which for n requests of a Poisson process is sqrt(n).
"""

from __future__ import annotations

import math
from bisect import bisect_left
from itertools import pairwise
from statistics import median

from lepton_operator.autoscale.values import Moment

# Four changes between five blocks: their median is not moved by one step, wherever it lies.
_BLOCKS = 4


def newest_rate(moments: tuple[Moment, ...], time: float, arrivals: float) -> float:
    """Return the mean rate since the last moment."""
    if not moments:
        return 0.0
    return (arrivals - moments[-1].arrivals) / (time - moments[-1].time)


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
        highest = max(highest, (count - math.sqrt(count)) / seconds)
        back *= 2
    return highest


def most_within(moments: tuple[Moment, ...], since: float) -> float:
    """Return the highest rate since a time."""
    return max((moment.rate for moment in _since(moments, since)), default=0.0)


def trend(moments: tuple[Moment, ...], horizon_seconds: float) -> float:
    """Return the rate at the horizon if what grew for so long goes on growing for as long.

    Of what has lasted for a time, half lasts for as long again (Lindy's law, the scale-free prior).
    The growth is the median change between blocks of a fourth of the horizon, less what the
    noise of counting explains: times its square over that plus its own error's.
    """
    if not moments or len(moments) < 2 * (_BLOCKS + 1):
        return 0.0
    block = horizon_seconds / _BLOCKS
    end = moments[-1].time
    if moments[0].time > end - block * (_BLOCKS + 1):
        return 0.0
    counts = [arrivals_at(moments, end - block * back) for back in range(_BLOCKS + 2)]
    rates = [(late - early) / block for late, early in pairwise(counts)]
    change = median(late - early for late, early in pairwise(rates))
    if change <= 0:
        return 0.0
    # The variance of a median of n is pi/2 that of their mean.
    error = math.pi / 2 * 2 * max(rates[0], 1 / block) / block / _BLOCKS
    # The newest block's mean is half a block old.
    return rates[0] + (_BLOCKS + 0.5) * change * change**2 / (change**2 + error)


def arrivals_at(moments: tuple[Moment, ...], time: float) -> float:
    """Return the cumulative arrivals at a time, linear between moments."""
    place = bisect_left(moments, time, key=lambda moment: moment.time)
    if place == 0:
        return moments[0].arrivals
    if place == len(moments):
        return moments[-1].arrivals
    before, after = moments[place - 1], moments[place]
    part = (time - before.time) / (after.time - before.time)
    return before.arrivals + part * (after.arrivals - before.arrivals)


def _since(moments: tuple[Moment, ...], time: float) -> tuple[Moment, ...]:
    return moments[bisect_left(moments, time, key=lambda moment: moment.time) :]
