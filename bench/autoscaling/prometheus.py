"""What Prometheus would have of the service: scrapes at an interval, late, and some of them lost.

The queries are those that rivals make, over counters of the whole service (a counter of a pod that
is removed is not missing here, which is kinder than life).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from bench.autoscaling.compiled import compiled
from bench.autoscaling.world import COMPUTED, QUEUED, Floats, Integers, World

# Columns of a scrape; the histogram's buckets follow.
AT, QUEUE_SECONDS, COMPUTE_SECONDS, FIRST_BUCKET = range(4)


@dataclass(frozen=True)
class Scraping:
    """How Prometheus sees: its ServiceMonitors' usual 15 s, a second until a sample can be read."""

    interval_seconds: int = 15
    delay_seconds: float = 1.0
    lost_share: float = 0.0


class Scrapes(NamedTuple):
    """The samples that were taken, oldest first."""

    interval: int
    phase: int  # the first is taken at this second
    delay: float
    lost: npt.NDArray[np.bool_]
    filled: Integers  # how many rows are
    rows: Floats
    edges: Floats


def open_scrapes(scraping: Scraping, world: World, duration_seconds: float, seed: int) -> Scrapes:
    """Return no samples yet, and the lot that says when they are taken and which ones are lost."""
    number = int(duration_seconds) // scraping.interval_seconds + 2
    dice = np.random.default_rng(seed)
    return Scrapes(
        scraping.interval_seconds,
        int(dice.integers(scraping.interval_seconds)),
        scraping.delay_seconds,
        dice.random(number) < scraping.lost_share,
        np.zeros(1, np.int64),
        np.zeros((number, FIRST_BUCKET + len(world.buckets))),
        world.edges,
    )


@compiled
def scrape(scrapes: Scrapes, world: World, second: int) -> None:
    """Take a sample if one is due at this second, unless it gets lost."""
    turn, rest = divmod(second, scrapes.interval)
    if rest != scrapes.phase or scrapes.lost[turn]:
        return
    row = scrapes.rows[scrapes.filled[0]]
    row[AT] = second
    row[QUEUE_SECONDS] = world.sums[QUEUED]
    row[COMPUTE_SECONDS] = world.sums[COMPUTED]
    row[FIRST_BUCKET:] = world.buckets
    scrapes.filled[0] += 1


@compiled
def _window(scrapes: Scrapes, now: float, seconds: float) -> tuple[int, int]:
    """Return the first and the last sample that a range selector of this length sees now."""
    last = scrapes.filled[0] - 1
    while last >= 0 and scrapes.rows[last, AT] > now - scrapes.delay:
        last -= 1
    first = last
    while first > 0 and scrapes.rows[first - 1, AT] > now - seconds:
        first -= 1
    return first, last


@compiled
def queue_per_compute(scrapes: Scrapes, now: float, seconds: float) -> float:
    """Return rate(queue)/rate(compute), the compute at least 1 us a second; NaN without data."""
    first, last = _window(scrapes, now, seconds)
    if last <= first or first < 0:
        return math.nan
    grown = scrapes.rows[last] - scrapes.rows[first]
    least = 1e-6 * grown[AT]
    return float(grown[QUEUE_SECONDS] / max(least, grown[COMPUTE_SECONDS]))


@compiled
def latency_quantile(scrapes: Scrapes, now: float, seconds: float, share: float) -> float:
    """Return histogram_quantile(share, rate(latency_bucket)) in seconds; NaN without requests."""
    first, last = _window(scrapes, now, seconds)
    if last <= first or first < 0:
        return math.nan
    counts = scrapes.rows[last, FIRST_BUCKET:] - scrapes.rows[first, FIRST_BUCKET:]
    rank, below, edges = share * counts.sum(), 0.0, scrapes.edges
    if rank == 0:
        return math.nan
    for bucket in range(len(edges)):
        if below + counts[bucket] >= rank:
            lower = edges[bucket - 1] if bucket > 0 else 0.0
            return float(lower + (edges[bucket] - lower) * (rank - below) / counts[bucket])
        below += counts[bucket]
    return float(edges[-1])
