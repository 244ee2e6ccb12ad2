"""What the autoscaling issue asks of our law, computed from tables of rows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from bench.autoscaling.table import Row

# Our loss at no more cost, as a share of theirs at their defaults, and of the best tuned one's.
SHARE_OF_DEFAULT = {
    "kpa": 0.5,
    "ray": 0.5,
    "hpa-in-flight": 0.85,
    "hpa-latency": 0.85,
    "hpa-queue": 0.85,
    "keda": 0.85,
    "apa": 0.85,
}
SHARE_OF_TUNED = 0.9
# On the wave, at the 99th percentile: what may be over the target, and GPU seconds by the oracle's.
WAVE_VIOLATIONS_PERCENT, WAVE_GPU = 1.0, 1.25
# A rival at its defaults that is better in both by more than this on a trace is a defeat.
_BETTER = 0.05

BOUNDS = ("static-N", "clairvoyant", "oracle")


@dataclass(frozen=True)
class Verdict:
    """One bar: what it compares, how it came out, and whether it holds."""

    bar: str
    found: str
    holds: bool


def ours(rows: Iterable[Row]) -> Row:
    """Return our law's row at its one setting."""
    (row,) = (each for each in rows if each.policy == "lepton" and each.default)
    return row


def against_defaults(rows: Sequence[Row], curve: Sequence[Row]) -> Iterator[Verdict]:
    """Compare with each rival as it is shipped.

    A rival that costs less than our one setting is compared at its own cost: with our law's curve,
    which is the same law asked for other percentiles.
    """
    mine = ours(rows)
    for rival, share in SHARE_OF_DEFAULT.items():
        (theirs,) = (each for each in rows if each.policy == rival and each.default)
        dearer = mine.cost > theirs.cost
        loss = loss_at(curve, theirs.cost) if dearer else mine.violations_percent
        where = "our curve at its cost" if dearer else f"our cost {mine.cost:.2f}"
        yield Verdict(
            f"{rival} at its defaults: loss <= {share:g} of its own at no more cost",
            f"it {theirs.violations_percent:.2f} % at {theirs.cost:.2f}; {where}: {loss:.2f} %",
            loss <= share * theirs.violations_percent,
        )


def best_tuned(rows: Iterable[Row], cost: float) -> Row | None:
    """Return the rival's setting that loses least at no more than this cost, if there is one."""
    settings = [r for r in rows if r.policy not in {"lepton", *BOUNDS} and r.cost <= cost]
    return min(settings, key=lambda each: each.violations_percent, default=None)


def against_tuned(rows: Sequence[Row]) -> Verdict:
    """Compare with the best of all rivals' settings that cost no more than ours."""
    mine = ours(rows)
    theirs = best_tuned(rows, mine.cost)
    bar = f"the best tuned rival at no more cost: loss <= {SHARE_OF_TUNED:g} of its own"
    if theirs is None:
        return Verdict(bar, f"none costs as little as ours, {mine.cost:.2f}", True)
    return Verdict(
        bar,
        f"{theirs.policy} ({theirs.setting}) {theirs.violations_percent:.2f} % at "
        f"{theirs.cost:.2f}; ours {mine.violations_percent:.2f} % at {mine.cost:.2f}",
        mine.violations_percent <= SHARE_OF_TUNED * theirs.violations_percent,
    )


def loss_at(rows: Iterable[Row], cost: float) -> float:
    """Return the least loss that a mixture of these settings reaches at a cost, in percent.

    Between two settings it is interpolated; below the cheapest one it is that one's.
    """
    points = sorted((each.cost, each.violations_percent) for each in rows)
    costs = [point[0] for point in points]
    least = np.minimum.accumulate([point[1] for point in points])
    return float(np.interp(cost, costs, least))


def of_policy(rows: Iterable[Row], policy: str) -> list[Row]:
    return [each for each in rows if each.policy == policy]


def against_static(rows: Sequence[Row]) -> Verdict:
    """Compare with one multiple of the offered load on every trace, of our mean cost.

    The static peak is left out: it is another multiple on each, chosen by one who knows the peak.
    """
    mine = ours(rows)
    fixed = [each for each in of_policy(rows, "static-N") if not each.default]
    loss = loss_at(fixed, mine.cost)
    return Verdict(
        "static of equal cost: never more loss",
        f"static {loss:.2f} %, ours {mine.violations_percent:.2f} % at {mine.cost:.2f}",
        mine.violations_percent <= loss,
    )


def gap_closed(rows: Sequence[Row]) -> float:
    """Return our share of the way from the best tuned rival to the clairvoyant, at our cost."""
    mine = ours(rows)
    theirs = best_tuned(rows, mine.cost)
    known = loss_at(of_policy(rows, "clairvoyant"), mine.cost)
    if theirs is None or theirs.violations_percent <= known:
        return float("nan")
    way = theirs.violations_percent - known
    return (theirs.violations_percent - mine.violations_percent) / way


def better_on(trace: str, rows: Sequence[Row]) -> Iterator[Verdict]:
    """Name each rival that at its defaults is better in both by more than a twentieth."""
    mine = ours(rows)
    for theirs in rows:
        if theirs.policy not in SHARE_OF_DEFAULT or not theirs.default:
            continue
        cheaper = theirs.cost < (1 - _BETTER) * mine.cost
        safer = theirs.violations_percent < (1 - _BETTER) * mine.violations_percent
        if cheaper and safer:
            yield Verdict(
                f"{trace}: no rival at its defaults is better in both by more than 5 %",
                f"{theirs.policy} {theirs.violations_percent:.2f} % at {theirs.cost:.2f}; "
                f"ours {mine.violations_percent:.2f} % at {mine.cost:.2f}",
                False,
            )


def on_the_wave(mine: Row, known: Row) -> Verdict:
    """Compare with the oracle on the wave, at the 99th percentile."""
    share = mine.gpu_seconds / known.gpu_seconds
    return Verdict(
        "the wave at p99: at most 1 % over the target for at most 1.25 of the oracle's GPU seconds",
        f"{mine.violations_percent:.2f} % for {share:.2f}",
        mine.violations_percent <= WAVE_VIOLATIONS_PERCENT and share <= WAVE_GPU,
    )
