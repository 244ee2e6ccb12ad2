"""Loads that no law was made on: kinds of demand whose every figure is drawn.

A law that is tuned to the shipped traces shows here. The number of a workload decides its kind and,
as a seed, its figures: levels over a factor of 16, time scales from 20 s to 20 minutes, both even
in the logarithm, because nothing is known of their scale.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from bench.autoscaling.arrivals import HOUR, Trace, of_rate
from bench.autoscaling.world import Floats

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
