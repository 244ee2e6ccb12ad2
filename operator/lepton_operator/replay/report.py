"""What a replay found, as a table for people and as JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from lepton_operator.autoscale.values import Spec
from lepton_operator.replay.arguments import CAVEAT
from lepton_operator.replay.fleets import AsItWas, Fleet
from lepton_operator.replay.recording import Recording
from lepton_operator.replay.replay import Step

_HEAD = ("time", "from", "to", "metric", "value", "target", "reason")


@dataclass(frozen=True, slots=True)
class Summary:
    """Seconds of GPUs: each replica counts from its creation until it is removed.

    None were replayed where the replicas are those that there were.
    """

    decisions: int
    held: int
    changes: int
    gpu_seconds_used: float
    gpu_seconds_replayed: float | None
    startup_seconds: float


def summary(
    recording: Recording, steps: Sequence[Step], fleet: Fleet, startup_seconds: float, gpus: int
) -> Summary:
    """Add up what the replicas took, each of so many GPUs."""
    unit = recording.step_seconds * gpus
    replayed = unit * sum(step.ready + step.starting for step in steps)
    return Summary(
        decisions=len(steps),
        held=sum(step.decision.held for step in steps),
        changes=len(list(shown(steps, every=False))),
        gpu_seconds_used=unit * sum(look.ready + look.starting for look in recording.looks),
        gpu_seconds_replayed=None if isinstance(fleet, AsItWas) else replayed,
        startup_seconds=startup_seconds,
    )


def shown(steps: Iterable[Step], *, every: bool) -> Iterator[Step]:
    """Yield the steps that something changes with; each of them, if that is wanted.

    Replicas as they were do not follow: what the law goes on wanting is told once.
    """
    before = None
    for step in steps:
        known = (step.decision.current, step.decision.replicas)
        if every or (step.is_change and known != before):
            yield step
        before = known if step.is_change else None


def text(recording: Recording, found: Summary, steps: Iterable[Step]) -> str:
    """Return a table of the steps, and what they come to."""
    rows = [_HEAD, *map(_cells, steps)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEAD) - 1)]
    lines = [
        "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[-1]])
        for row in rows
    ]
    title = f"{recording.namespace}/{recording.service}, {_span(recording)}"
    return "\n".join((title, *lines, _sentence(found), CAVEAT))


def _sentence(found: Summary) -> str:
    told = (
        f"Looks: {found.decisions}, {found.held} of them with nothing to decide by. Changes: "
        f"{found.changes}. A start-up takes {found.startup_seconds:.0f} s. "
        f"GPU seconds: {found.gpu_seconds_used:.0f} used"
    )
    if found.gpu_seconds_replayed is None:
        return f"{told}."
    more = found.gpu_seconds_replayed - found.gpu_seconds_used
    share = f" ({more / found.gpu_seconds_used:+.0%})" if found.gpu_seconds_used else ""
    return f"{told}, {found.gpu_seconds_replayed:.0f} by this law{share}."


def as_json(recording: Recording, spec: Spec, found: Summary, steps: Iterable[Step]) -> str:
    """Return the same for programs; times are seconds since the epoch."""
    told = {
        "namespace": recording.namespace,
        "service": recording.service,
        "spec": asdict(spec),
        "decisions": [_fields(step) for step in steps],
        "summary": asdict(found),
        "caveat": CAVEAT,
    }
    return json.dumps(told, indent=1)


def _cells(step: Step) -> tuple[str, ...]:
    decision = step.decision
    return (
        _moment(step.time),
        str(decision.current),
        str(decision.replicas),
        decision.metric,
        f"{decision.value:.4g}",
        f"{decision.target:.4g}",
        decision.reason,
    )


def _fields(step: Step) -> dict[str, Any]:
    decision = step.decision
    return {
        "time": step.time,
        "from": decision.current,
        "to": decision.replicas,
        "ready": step.ready,
        "starting": step.starting,
        "metric": decision.metric,
        "value": decision.value,
        "target": decision.target,
        "held": decision.held,
        "reason": decision.reason,
    }


def _span(recording: Recording) -> str:
    first, last = recording.looks[0].time, recording.looks[-1].time
    return f"{_moment(first)} to {_moment(last)}"


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
