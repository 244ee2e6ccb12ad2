"""What was counted of a service, as numbers of one moment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

MOST = 2.0**53
"""Beyond it a float does not count one by one: nobody has counted so far."""


class Service(NamedTuple):
    """An InferenceService, as metrics name it."""

    namespace: str
    name: str


class DoorCounts(NamedTuple):
    """What one door counted of a service since it started, `at` seconds since the epoch.

    `arrivals` are requests, those that it `rejected` included, counted as they begin; `active`
    those that it holds now, whether they wait or are worked on. `answers`, rejections included,
    took `milliseconds` together: these two are some seconds older than the others, and of one
    moment (Envoy's histograms); a door that is asked itself does not tell them.
    """

    at: float
    arrivals: float
    active: float
    rejected: float = 0.0
    answers: float | None = None
    milliseconds: float | None = None


class TritonCounts(NamedTuple):
    """What one Triton computed since it started: requests, batches, and microseconds of them all.

    Each request of a batch counts the whole time of its batch, and all of it only once it is done.
    What its response cache answered was not computed: those are its `hits`.
    """

    requests: float
    executions: float
    compute_microseconds: float
    hits: float = 0.0


@dataclass(frozen=True, slots=True)
class Counts:
    """Of one service, by the pod that counted."""

    doors: Mapping[str, DoorCounts] = field(default_factory=dict)
    tritons: Mapping[str, TritonCounts] = field(default_factory=dict)
