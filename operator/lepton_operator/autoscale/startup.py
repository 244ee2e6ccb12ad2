"""How long a replica of this service takes from its creation until it is ready: measured."""

from __future__ import annotations

import math

# The last hundred starts tell a 95th percentile with a standard error of two percentiles.
KEPT = 100
# Before this service's own pods have told: image, driver and a model of some gigabytes.
_UNKNOWN_SECONDS = 60.0
# What a pod waits beyond an hour it does not wait for its start, and no law looks so far ahead.
_LONGEST_SECONDS = 3600.0


def learn(known: tuple[float, ...], seconds: tuple[float, ...]) -> tuple[float, ...]:
    """Return the newest start-up times, with those of `seconds` that can be true."""
    good = tuple(each for each in seconds if math.isfinite(each) and each > 0)
    return (*known, *good)[-KEPT:] if good else known


def mean(known: tuple[float, ...], ages: tuple[float, ...]) -> float:
    """Return the mean in seconds; until one is known, at least the age of those on their way."""
    if known:
        return sum(known) / len(known)
    return min(max((_UNKNOWN_SECONDS, *ages)), _LONGEST_SECONDS)


def quantile(known: tuple[float, ...], otherwise: float, percentile: float) -> float:
    """Return the time within which this percent of the starts were done."""
    if not known:
        return otherwise
    return sorted(known)[math.ceil(percentile / 100 * len(known)) - 1]


def expected_ready_seconds(known: tuple[float, ...], age: float, horizon: float) -> float:
    """Return how much of the next `horizon` seconds a pod of this age is likely to be ready for.

    The mean over those starts that took longer than its age.
    """
    left = [took - age for took in known if took > age]
    if not known:
        left = [max(0.0, _UNKNOWN_SECONDS - age)]
    if not left:  # it takes longer than any did: nothing is known of when it comes
        return 0.0
    return sum(max(0.0, horizon - each) for each in left) / len(left)
