"""Adds up what the pods of a service counted, across the ends and starts of pods."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from typing import TypeVar

from lepton_operator.signals.counts import Counts, DoorCounts, TritonCounts

Counted = TypeVar("Counted", DoorCounts, TritonCounts)
_FORGOTTEN_SECONDS = 600.0  # a door that tells nothing for so long was another one
_OF_A_MOMENT = frozenset({"at", "active", "pending"})


@dataclass(frozen=True, slots=True)
class Totals:
    """Of a service, since it was first looked at; each only grows, but for what is of a moment.

    Requests and batches, seconds, and `at` in seconds since the epoch: when the oldest of the
    doors' newest samples was taken. `in_flight` is of that moment: waiting and worked on, at all
    doors.
    """

    at: float
    arrivals: float = 0.0
    in_flight: float = 0.0
    rejected: float = 0.0
    completions: float = 0.0
    latency_seconds: float = 0.0
    batches: float = 0.0
    batched_requests: float = 0.0
    queue_seconds: float = 0.0
    compute_seconds: float = 0.0


@dataclass(slots=True)
class Meter:
    """Of one service. A pod that is seen for the first time begins with what it counted before.

    That is too little by what a new door counted before its first sample, and never too much: what
    a door counted while nobody looked may be of days ago. A sample that is no newer than the one
    before is that one: two sources may tell the same counts, one of them later.
    """

    counts: Counts | None = None
    totals: Totals | None = None

    def add(self, counts: Counts) -> Totals | None:
        """Take in new counts; return what they come to, None while no door tells anything."""
        if not counts.doors:
            return None
        before = self.counts or counts
        newest = {
            pod: _newer(before.doors.get(pod, counted), counted)
            for pod, counted in counts.doors.items()
        }
        doors = [_since(before.doors.get(pod, each), each) for pod, each in newest.items()]
        tritons = [
            _since(before.tritons.get(pod, each), each) for pod, each in counts.tritons.items()
        ]
        self.counts = Counts({**_remembered(before, newest), **newest}, counts.tritons)
        self.totals = _added(self.totals, doors, tritons)
        return self.totals


def _newer(before: DoorCounts, after: DoorCounts) -> DoorCounts:
    return after if after.at > before.at else before


def _remembered(before: Counts, newest: dict[str, DoorCounts]) -> dict[str, DoorCounts]:
    """Return what is known of doors that missed this look."""
    at = max(each.at for each in newest.values())
    return {pod: each for pod, each in before.doors.items() if at - each.at < _FORGOTTEN_SECONDS}


def _since(before: Counted, after: Counted) -> Counted:
    """Return what was counted in between: after a restart, all that was counted since."""
    found = {}
    for each in fields(after):
        old, new = getattr(before, each.name), getattr(after, each.name)
        restarted = new < old
        found[each.name] = new if each.name in _OF_A_MOMENT or restarted else new - old
    return type(after)(**found)


def _added(
    totals: Totals | None, doors: Iterable[DoorCounts], tritons: Iterable[TritonCounts]
) -> Totals:
    known, triton = list(doors), list(tritons)
    at = min(each.at for each in known)
    sums = totals or Totals(at)
    return replace(
        sums,
        at=max(at, sums.at),
        in_flight=sum(each.active for each in known),
        arrivals=sums.arrivals + sum(each.arrivals for each in known),
        rejected=sums.rejected + sum(each.rejected for each in known),
        completions=sums.completions + sum(each.answers for each in known),
        latency_seconds=sums.latency_seconds + sum(each.milliseconds for each in known) / 1e3,
        batches=sums.batches + sum(each.executions for each in triton),
        batched_requests=sums.batched_requests + sum(each.requests for each in triton),
        queue_seconds=sums.queue_seconds + sum(each.queue_microseconds for each in triton) / 1e6,
        compute_seconds=sums.compute_seconds
        + sum(each.compute_microseconds for each in triton) / 1e6,
    )
