"""What a run comes to, beside what was predicted; a predicted figure is the median over seeds."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from bench.autoscaling.run import Outcome
from bench.autoscaling.world import Floats
from bench.autoscaling_real.recording import (
    SERVICE_SECONDS,
    Bounds,
    Phase,
    Pod,
    Recording,
    Usage,
)

Figures = dict[str, float | None]
_NO_ANSWER = float("inf")


@dataclass(frozen=True)
class Run:
    """A run, measured or predicted: each request, and replicas as steps (seconds, number)."""

    at: Floats  # of each request
    latency: Floats  # seconds; infinite if it failed
    wanted: Sequence[tuple[float, float]]
    created: Sequence[float]  # when pods were made
    ready: Sequence[tuple[float, float]]  # that have requests
    gpu_seconds: float


def measured(recording: Recording) -> Run:
    latency = [_NO_ANSWER if each.error else each.seconds for each in recording.requests]
    return Run(
        at=np.array([each.at for each in recording.requests]),
        latency=np.array(latency),
        wanted=[(each.at, each.wanted) for each in recording.replicas],
        created=sorted(each.created for each in recording.pods),
        ready=[(each.at, each.pods) for each in recording.at_doors],
        gpu_seconds=_gpu_seconds(recording.pods, recording.duration_seconds),
    )


def predicted(recording: Recording, outcome: Outcome) -> Run:
    # What is decided at a second is in the simulator's record of the next one.
    wanted = [(max(0.0, at - 1), number) for at, number in _steps(outcome.desired)]
    return Run(
        at=np.array([each.at for each in recording.requests]),
        latency=np.nan_to_num(outcome.latency, nan=_NO_ANSWER),
        wanted=wanted,
        created=[at for (_, before), (at, after) in pairwise(wanted) if after > before],
        ready=_steps(outcome.ready),
        gpu_seconds=outcome.gpu_seconds,
    )


def _steps(numbers: Iterable[int]) -> list[tuple[float, float]]:
    """Return when a number changed, of one for each second."""
    found: list[tuple[float, float]] = []
    for second, number in enumerate(numbers):
        if not found or found[-1][1] != number:
            found.append((float(second), float(number)))
    return found


def _gpu_seconds(pods: Iterable[Pod], end: float) -> float:
    """Return what pods took within the run, from their creation until they were gone."""
    spans = ((max(0.0, each.created), min(end, each.gone or end)) for each in pods)
    return sum(max(0.0, last - first) for first, last in spans)


def windows(run: Run, seconds: float, percentile: float) -> tuple[Floats, Floats]:
    """Return the middle of each window, and this percentile of the requests that came in it."""
    edges = np.arange(0.0, run.at[-1], seconds)
    found = [_percentile(_within(run, edge, edge + seconds), percentile) for edge in edges]
    return edges + seconds / 2, np.array(found)


def _within(run: Run, begin: float, end: float) -> Floats:
    return run.latency[(run.at >= begin) & (run.at < end)]


def _percentile(latency: Floats, percentile: float) -> float:
    if len(latency) == 0:
        return float("nan")
    return float(np.percentile(latency, percentile, method="higher"))


def summary(recording: Recording, real: Run, foretold: Sequence[Run]) -> dict[str, Any]:
    """Return all figures of a run."""
    due = sum(each.rate * each.seconds for each in recording.phases)
    usage, startups = recording.usage, sorted(recording.startups_seconds)
    return {
        "requests": len(recording.requests),
        "requests_due": round(due),
        "failed": sum(bool(each.error) for each in recording.requests),
        "startup_seconds": [round(each, 1) for each in startups],
        "gpu_seconds": round(real.gpu_seconds),
        "gpu_seconds_predicted": round(statistics.median(each.gpu_seconds for each in foretold)),
        "scalings": _scalings(real),
        "scalings_predicted": statistics.median(map(_scalings, foretold)),
        "k6_cores": round(statistics.mean(each.k6_cores for each in usage), 2),
        "operator_cores": round(recording.operator_cores, 3),
        "free_percent": round(100 * statistics.mean(each.free for each in usage)),
        "free_percent_least_10s": round(100 * _least_free(usage)),
        "phases": table(recording, real, foretold),
        "reactions": reactions(recording, real, foretold),
    }


def _scalings(run: Run) -> int:
    return sum(before != after for (_, before), (_, after) in pairwise(run.wanted))


def _least_free(usage: Sequence[Usage], seconds: int = 10) -> float:
    """Return the share of the machine that was free in the busiest so many seconds."""
    shares = [each.free for each in usage]
    spans = range(max(1, len(shares) - seconds + 1))
    return min(statistics.mean(shares[first : first + seconds]) for first in spans)


def table(recording: Recording, real: Run, foretold: Sequence[Run]) -> list[dict[str, Any]]:
    """Return a row a phase, and one for the whole run."""
    rows = []
    spans = [*_spans(recording.phases), (Phase("all", 0.0, 0.0), 0.0, recording.duration_seconds)]
    for phase, begin, end in spans:
        row: dict[str, Any] = {"phase": phase.name, "rate": phase.rate or None}
        for name, figure in _FIGURES.items():
            row[name] = _short(figure(real, begin, end, recording.asked))
            others = [figure(each, begin, end, recording.asked) for each in foretold]
            row[f"{name}_predicted"] = _short(float(np.median(others)))
        rows.append(row)
    return rows


def _spans(phases: Iterable[Phase]) -> Iterator[tuple[Phase, float, float]]:
    begin = 0.0
    for phase in phases:
        yield phase, begin, begin + phase.seconds
        begin += phase.seconds


Figure = Callable[[Run, float, float, Bounds], float]
_FIGURES: Mapping[str, Figure] = {
    "p95_ms": lambda run, begin, end, _: 1e3 * _percentile(_within(run, begin, end), 95),
    "p99_ms": lambda run, begin, end, _: 1e3 * _percentile(_within(run, begin, end), 99),
    "over_target_percent": lambda run, begin, end, asked: (
        100 * float(np.mean(_within(run, begin, end) > asked.target_seconds))
    ),
    "replicas": lambda run, begin, end, _: _mean(run.ready, begin, end),
}


def _mean(steps: Sequence[tuple[float, float]], begin: float, end: float) -> float:
    """Return the mean over a time of what changes by steps."""
    total = 0.0
    for (at, number), (until, _) in pairwise([*steps, (end, 0.0)]):
        total += number * max(0.0, min(until, end) - max(at, begin))
    return total / (end - begin)


def reactions(recording: Recording, real: Run, foretold: Sequence[Run]) -> list[dict[str, Any]]:
    """Return for each step up how long it took until what, in seconds."""
    rows = []
    for (before, _, _), (phase, begin, end) in pairwise(_spans(recording.phases)):
        if phase.rate <= before.rate:
            continue
        row: dict[str, Any] = {"phase": phase.name}
        others = [_reaction(each, begin, end, phase) for each in foretold]
        for name, seconds in _reaction(real, begin, end, phase).items():
            row[f"{name}_s"] = _short(seconds)
            known = [found for each in others if (found := each[name]) is not None]
            row[f"{name}_s_predicted"] = _short(float(np.median(known)) if known else None)
        rows.append(row)
    return rows


def _reaction(run: Run, begin: float, end: float, phase: Phase) -> Figures:
    """Return when /scale was written, a pod was made, one had requests, and there were enough.

    Enough are as many as together answer more requests than come.
    """
    enough = phase.rate * SERVICE_SECONDS
    return {
        "scaled": _risen(run.wanted, begin, end),
        "created": next((at - begin for at in run.created if begin < at < end), None),
        "ready": _risen(run.ready, begin, end),
        "enough": next(
            (max(0.0, at - begin) for at, number in run.ready if number > enough and at > begin),
            None,
        ),
    }


def _risen(steps: Sequence[tuple[float, float]], begin: float, end: float) -> float | None:
    """Return how long after the beginning the number rose."""
    for (_, before), (at, after) in pairwise(steps):
        if begin < at < end and after > before:
            return at - begin
    return None


def _short(figure: float | None) -> float | None:
    if figure is None or not np.isfinite(figure):
        return None
    return round(figure, 1 if abs(figure) < 100 else 0)
