"""Request traces: the two that were recorded, the kinds that are generated, and a user's file.

A trace is a sorted array of arrival times in seconds from its beginning.
"""

from __future__ import annotations

import csv
import datetime as dt
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench.autoscaling.world import Floats

RECORDED = Path(__file__).parent / "traces"
HOUR = 3600.0
# Requests a second: the recorded traces are repeated up to this mean, and the generated ones lie
# about it, so that a service of 100 ms needs a handful of replicas.
MEAN_RATE = 20.0
_SPREAD_SECONDS = 10.0


@dataclass(frozen=True)
class Trace:
    """When requests come; `rate`, for each second, is known of those that were generated."""

    name: str
    arrivals: Floats
    duration_seconds: float
    rate: Floats | None = None


def load(path: Path) -> Trace:
    """Read one arrival time in seconds a line; raise ValueError with the line that is none."""
    times = []
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        if not line.strip():
            continue
        try:
            times.append(float(line.split(",")[0]))
        except ValueError:
            if number > 1:  # the first may be a header
                raise ValueError(
                    f"{path}:{number}: {line!r} is no arrival time in seconds"
                ) from None
    return recorded(path.stem, np.array(times))


def recorded(name: str, times: Floats) -> Trace:
    """Make a trace of times: sorted, and from the first on if they are of a calendar's clock."""
    if not np.isfinite(times).all() or len(times) == 0:
        raise ValueError(f"{name}: a trace needs at least one arrival time, and finite ones")
    times = np.sort(times)
    if times[0] < 0 or times[0] > times[-1] - times[0]:
        times = times - times[0]
    return Trace(name, times, max(1.0, float(times[-1])))


def azure_code(seed: int) -> Trace:
    """Requests of a code completion service in an hour of 2023: very bursty."""
    with (RECORDED / "AzureLLMInferenceTrace_code.csv").open() as file:
        stamps = [row["TIMESTAMP"] for row in csv.DictReader(file)]
    times = [dt.datetime.fromisoformat(stamp[:26]).timestamp() for stamp in stamps]
    return _at_mean_rate("azure-code", np.array(times), seed)


def mooncake_conversation(seed: int) -> Trace:
    """Requests of a chat service in an hour of 2024; the clock of the record ticks every 3 s."""
    with (RECORDED / "mooncake_conversation_timestamps.csv").open() as file:
        times = [float(row["timestamp_milliseconds"]) / 1e3 for row in csv.DictReader(file)]
    return _at_mean_rate("mooncake-conversation", np.array(times), seed)


def _at_mean_rate(name: str, times: Floats, seed: int) -> Trace:
    """Repeat each request until the mean is MEAN_RATE, each time a little later, by lot.

    The copies stand for further users who follow the same minutes, not the same second.
    """
    dice = np.random.default_rng(seed)
    times = times - times[0]
    copies = MEAN_RATE * times[-1] / len(times)
    counts = math.floor(copies) + (dice.random(len(times)) < copies % 1)
    many = np.repeat(times, counts)
    return recorded(name, many + _SPREAD_SECONDS * dice.random(len(many)))


def of_rate(name: str, rate: Floats, seed: int) -> Trace:
    """Draw a Poisson process whose rate a second is given for each second."""
    dice = np.random.default_rng(seed)
    seconds = np.repeat(np.arange(len(rate)), dice.poisson(rate))
    times = np.sort(seconds + dice.random(len(seconds)))
    return Trace(name, times, float(len(rate)), rate)


def steps(seed: int) -> Trace:
    """Six levels of ten minutes each."""
    return of_rate("steps", np.repeat([10.0, 30.0, 15.0, 40.0, 5.0, 20.0], 600), seed)


def ramps(seed: int) -> Trace:
    """From 5 to 35 requests a second in 15 minutes and back, twice."""
    return of_rate("ramps", np.interp(_SECONDS % 1800, [0, 900, 1800], [5.0, 35.0, 5.0]), seed)


def spikes(seed: int) -> Trace:
    """12 requests a second, and six times in the hour five times as many for 30 to 180 s."""
    dice = np.random.default_rng(seed)
    rate = np.full(len(_SECONDS), 12.0)
    for begin, length in zip(dice.uniform(0, HOUR - 180, 6), dice.uniform(30, 180, 6), strict=True):
        rate[int(begin) : int(begin + length)] = 60.0
    return of_rate("spikes", rate, seed)


def diurnal(seed: int) -> Trace:
    """A day in an hour: a night, a morning's rise, two peaks, and noise of a minute's scale.

    The noise is a gamma variable of mean 1 and deviation 0.2 for each minute.
    """
    hours = [0, 5, 7, 10, 13, 16, 19, 21, 24]
    level = [6.0, 6.0, 12.0, 36.0, 26.0, 34.0, 28.0, 14.0, 6.0]
    noise = np.random.default_rng(seed).gamma(25.0, 1 / 25.0, len(_SECONDS) // 60)
    return of_rate("diurnal", np.interp(_SECONDS / 150, hours, level) * np.repeat(noise, 60), seed)


def on_off(seed: int) -> Trace:
    """40 requests a second or 1, each for an exponential time of four minutes in the mean."""
    dice = np.random.default_rng(seed)
    ends = np.cumsum(np.maximum(10.0, dice.exponential(240.0, 400)))
    on = np.searchsorted(ends, _SECONDS) % 2 == 0
    return of_rate("on-off", np.where(on, 40.0, 1.0), seed)


def wave(seed: int) -> Trace:
    """The sine of the bar: one hour from 25 requests a second up to 40, down to 10 and back."""
    return of_rate("wave", 25 + 15 * np.sin(2 * np.pi * _SECONDS / HOUR), seed)


_SECONDS = np.arange(HOUR)

# The whole suite. Each is drawn anew for each seed.
TRACES: Mapping[str, Callable[[int], Trace]] = {
    "azure-code": azure_code,
    "mooncake-conversation": mooncake_conversation,
    "steps": steps,
    "ramps": ramps,
    "spikes": spikes,
    "diurnal": diurnal,
    "on-off": on_off,
    "wave": wave,
}
