"""What was seen in a run, as it is kept in a file. Times are in seconds since the load began."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

SERVICE_SECONDS = 0.1
"""What images/sleeper waits for each request."""


class Phase(NamedTuple):
    """A time of one rate, in requests a second."""

    name: str
    rate: float
    seconds: float


class Request(NamedTuple):
    """A request that has ended; it failed if there is an error."""

    at: float
    seconds: float
    error: str


class Replicas(NamedTuple):
    """What the InferenceService said from this time on."""

    at: float
    wanted: int  # spec.replicas
    ready: int  # status.replicas.ready


class AtDoors(NamedTuple):
    """To how many pods every door sent requests from this time on."""

    at: float
    pods: int


class Usage(NamedTuple):
    """Since the one before: the share of the machine that was free, and the cores of k6."""

    at: float
    free: float
    k6_cores: float


@dataclass(slots=True)
class Pod:
    """When it was seen first, was Ready, had requests from every door, had none, and was gone."""

    name: str
    created: float
    ready: float | None = None
    taken: float | None = None
    left: float | None = None
    gone: float | None = None

    def since(self, began: float) -> Pod:
        """Return the same by another clock, which is 0 at this time."""
        later = (self.ready, self.taken, self.left, self.gone)
        times = (None if each is None else each - began for each in later)
        return Pod(self.name, self.created - began, *times)


@dataclass(frozen=True, slots=True)
class Bounds:
    """What the service asked for."""

    target_seconds: float
    percentile: float
    least: int
    most: int


@dataclass(frozen=True, slots=True)
class Recording:
    """A run."""

    asked: Bounds
    phases: Sequence[Phase]
    requests: Sequence[Request]
    replicas: Sequence[Replicas]
    at_doors: Sequence[AtDoors]
    pods: Sequence[Pod]
    decisions: Sequence[Mapping[str, Any]]  # as the status told them, `seen` seconds added
    conditions: Sequence[Mapping[str, Any]]  # each time when one said something new
    usage: Sequence[Usage]
    operator_cores: float

    @property
    def duration_seconds(self) -> float:
        return sum(each.seconds for each in self.phases)

    @property
    def startups_seconds(self) -> list[float]:
        """Return how long pods took from creation until every door sent them requests.

        In the order in which they were created; of those that were there before nothing is known.
        """
        since = self.at_doors[0].at
        pods = sorted(self.pods, key=lambda pod: pod.created)
        return [
            each.taken - each.created
            for each in pods
            if each.created > since and each.taken is not None
        ]

    def begins(self) -> dict[str, float]:
        """Return when each phase begins."""
        found, at = {}, 0.0
        for phase in self.phases:
            found[phase.name] = at
            at += phase.seconds
        return found


def save(recording: Recording, path: Path) -> None:
    path.write_text(json.dumps(dataclasses.asdict(recording)))


def load(path: Path) -> Recording:
    found = json.loads(path.read_text())
    rows: dict[str, Any] = {
        name: [made(*row) for row in found[name]]
        for name, made in (
            ("phases", Phase),
            ("requests", Request),
            ("replicas", Replicas),
            ("at_doors", AtDoors),
            ("usage", Usage),
        )
    }
    pods = [Pod(**each) for each in found["pods"]]
    return Recording(**{**found, **rows, "asked": Bounds(**found["asked"]), "pods": pods})


def at(series: Iterable[tuple[float, float]], moment: float) -> float:
    """Return the value that held at a moment: of the last pair that is not after it; else 0."""
    value = 0.0
    for time, each in series:
        if time > moment:
            break
        value = each
    return value
