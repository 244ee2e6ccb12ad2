"""Loads that no law was made on: kinds of demand whose every figure is drawn.

A law that is tuned to the shipped traces shows here. The number of a workload decides its kind and,
as a seed, its figures: levels over a factor of 16, time scales from 20 s to 20 minutes, both even
in the logarithm, because nothing is known of their scale.

`python -m bench.autoscaling.validation --workloads 32` runs our law and the others' defaults over
them and writes the table of docs/autoscaling-benchmark.md.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import sys
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from bench.autoscaling import bars
from bench.autoscaling.arrivals import HOUR, Trace, of_rate
from bench.autoscaling.reference import ours
from bench.autoscaling.report import PAGE, replaced
from bench.autoscaling.rivals import RIVALS
from bench.autoscaling.run import Case, run_rival
from bench.autoscaling.suite import STARTUPS_SECONDS
from bench.autoscaling.table import Row, bounds, means, row, said
from bench.autoscaling.world import Floats, Setting

Dice = np.random.Generator

_SECONDS = np.arange(HOUR)
_SHORTEST, _LONGEST = 20.0, 1200.0
_LOWEST, _HIGHEST = 4.0, 64.0


def workload(number: int) -> Trace:
    """Return the workload of this number: an hour of one of the kinds."""
    kind = KINDS[number % len(KINDS)]
    rate = np.maximum(0.05, kind(np.random.default_rng([number, 1])))
    return of_rate(f"{kind.__name__}-{number}", rate, number)


def steps(dice: Dice) -> Floats:
    """Levels, each for an exponential time."""
    return _held(dice, _scale(dice), lambda: _level(dice))


def ramps(dice: Dice) -> Floats:
    """Straight lines between levels."""
    ends = np.concatenate([[0.0], np.cumsum(dice.exponential(2 * _scale(dice), 500) + 30)])
    levels = [_level(dice) for _ in ends]
    line: Floats = np.interp(_SECONDS, ends, levels)
    return line


def spikes(dice: Dice) -> Floats:
    """A level, and now and then a multiple of it for a while."""
    rate = np.full(len(_SECONDS), _level(dice) / 3)
    apart, times = dice.uniform(200, 1500), dice.uniform(2, 8)
    begin = dice.exponential(apart)
    while begin < HOUR:
        length = _between(dice, 15, 240)
        rate[int(begin) : int(begin + length)] = rate[0] * times
        begin += length + dice.exponential(apart)
    return rate


def on_off(dice: Dice) -> Floats:
    """One level or nearly nothing, each for an exponential time of its own mean."""
    on, off, level = _scale(dice), _scale(dice), _level(dice)
    ends = np.cumsum(dice.exponential(np.tile([on, off], 1000)) + 5)
    return np.where(np.searchsorted(ends, _SECONDS) % 2 == 0, level, level / 40)


def diurnal(dice: Dice) -> Floats:
    """A smooth sum of waves, with the noise of each minute upon it."""
    phase = dice.uniform(0, 2 * math.pi, 3)
    parts = dice.dirichlet([4.0, 2.0, 1.0])
    shape = sum(
        part * np.sin(2 * math.pi * turns * _SECONDS / HOUR + begin)
        for part, turns, begin in zip(parts, (1, 2, 4), phase, strict=True)
    )
    spread = dice.uniform(0.02, 0.3) ** 2
    noise = dice.gamma(1 / spread, spread, len(_SECONDS) // 60)
    depth = dice.uniform(0.4, 0.95)
    rate: Floats = _level(dice) * (1 + depth * shape) * np.repeat(noise, 60)
    return rate


def wave(dice: Dice) -> Floats:
    """A sine of a period from five minutes to an hour."""
    period, depth = _between(dice, 300, HOUR), dice.uniform(0.3, 0.95)
    begin = dice.uniform(0, 2 * math.pi)
    return _level(dice) * (1 + depth * np.sin(2 * math.pi * _SECONDS / period + begin))


def bursty(dice: Dice) -> Floats:
    """A doubly stochastic process: the logarithm of the rate is an Ornstein-Uhlenbeck process."""
    memory = math.exp(-1 / _between(dice, 10, 300))
    deviation, value = dice.uniform(0.2, 0.9), 0.0
    logarithm = np.empty(len(_SECONDS))
    for second, noise in enumerate(dice.standard_normal(len(_SECONDS))):
        value = memory * value + math.sqrt(1 - memory**2) * deviation * noise
        logarithm[second] = value
    return _level(dice) * np.exp(logarithm - deviation**2 / 2)


def crowds(dice: Dice) -> Floats:
    """Sources that come and stay for a Pareto time: bursts on every time scale."""
    length = _between(dice, 5, 120)
    mean, size = _level(dice), dice.uniform(0.5, 5.0)
    came = dice.uniform(-HOUR, HOUR, dice.poisson(2 * HOUR * mean / (size * 3 * length)))
    stays = length * (1 + dice.pareto(1.5, len(came)))
    begins = np.searchsorted(np.sort(came), _SECONDS, side="right")
    ends = np.searchsorted(np.sort(came + stays), _SECONDS, side="right")
    return size * (begins - ends).astype(np.float64)


KINDS: tuple[Callable[[Dice], Floats], ...] = (
    steps, ramps, spikes, on_off, diurnal, wave, bursty, crowds,
)  # fmt: skip


def _held(dice: Dice, mean_seconds: float, draw: Callable[[], float]) -> Floats:
    ends = np.cumsum(dice.exponential(mean_seconds, 1000) + 10)
    levels = np.array([draw() for _ in range(1001)])
    held: Floats = levels[np.searchsorted(ends, _SECONDS)]
    return held


def _between(dice: Dice, low: float, high: float) -> float:
    return math.exp(dice.uniform(math.log(low), math.log(high)))


def _scale(dice: Dice) -> float:
    return _between(dice, _SHORTEST, _LONGEST)


def _level(dice: Dice) -> float:
    return _between(dice, _LOWEST, _HIGHEST)


# Our law asked for other percentiles, for its loss at the cost of each of the others.
_PERCENTILES = (10.0, 50.0, 80.0, 99.0)


def rows(case: Case) -> Iterator[Row]:
    """Run our law, the others at their defaults, and the bounds."""
    yield ours(case)
    for percentile in _PERCENTILES:
        yield dataclasses.replace(ours(case, percentile), default=False)
    for rival in RIVALS.values():
        outcome = run_rival(rival, rival.default, case)
        yield row(rival.name, said(rival, rival.default), True, outcome)
    yield from bounds(case)


def table(workloads: int, startups_seconds: Sequence[float] = STARTUPS_SECONDS) -> Iterator[str]:
    """Yield for each start-up time what each law lost, and ours of that at most and equal cost."""
    yield "| start-up, s | law | over the target, % | cost | ours, share | for as much, share |"
    yield "|---|---|---|---|---|---|"
    for startup in startups_seconds:
        setting = Setting(startup_seconds=startup)
        cases = [Case(workload(n), setting, seed=n) for n in range(workloads)]
        yield from _lines(startup, means([list(rows(case)) for case in cases]))


def _lines(startup_seconds: float, found: Sequence[Row]) -> Iterator[str]:
    mine, curve = bars.ours(found), bars.of_policy(found, "lepton")
    begin = f"| {startup_seconds:g} |"
    yield f"{begin} **lepton** | {mine.violations_percent:.2f} | {mine.cost:.2f} | | |"
    fixed = [each for each in bars.of_policy(found, "static-N") if not each.default]
    equal = bars.loss_at(fixed, mine.cost)
    of_static = mine.violations_percent / equal
    yield f"{begin} static of our cost | {equal:.2f} | {mine.cost:.2f} | {of_static:.2f} | |"
    for each in found:
        if each.default and each.policy in {*RIVALS, "clairvoyant"}:
            lost = each.violations_percent
            share = f"{mine.violations_percent / lost:.2f}" if mine.cost <= each.cost else "dearer"
            as_much = bars.loss_at(curve, each.cost) / lost
            told = f"{as_much:.2f}" if math.isfinite(as_much) else "never as cheap"
            yield f"{begin} {each.policy} | {lost:.2f} | {each.cost:.2f} | {share} | {told} |"


def main() -> int:
    parser = argparse.ArgumentParser(prog="bench.autoscaling.validation", description=__doc__)
    parser.add_argument("--workloads", type=int, default=32)
    lines = list(table(parser.parse_args().workloads))
    print("\n".join(lines))
    PAGE.write_text(replaced(PAGE.read_text(), "drawn", lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
