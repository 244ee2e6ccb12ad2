"""Adds up what the pods of a service counted, across the ends and starts of pods."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from statistics import fmean
from typing import NamedTuple

from lepton_operator.autoscale.values import Computed, grown
from lepton_operator.signals.counts import Counts, DoorCounts, TritonCounts

_NOTHING = TritonCounts(0.0, 0.0, 0.0)
# What a door counted while others went on for so long without it is no demand of now.
_FORGOTTEN_SECONDS = 10.0
# Two sources date one moment differently: a rate over less would be one of that difference.
_LEAST_SECONDS = 0.5
_SET_BACK_SECONDS = 300.0  # Prometheus tells no older samples: what is older was dated anew


class Totals(NamedTuple):
    """Of a service, since it was first looked at; each only grows, but for what is of a moment.

    Requests and batches, seconds, and `at` in seconds since the epoch: the time that the sums are
    of, between the doors' newest samples. `in_flight` is of these: waiting and worked on, at all
    doors.
    """

    at: float
    arrivals: float = 0.0
    in_flight: float = 0.0
    rejected: float = 0.0
    completions: float = 0.0
    latency_seconds: float = 0.0
    computed: Computed = Computed(0.0, 0.0, 0.0)
    tells_compute: bool = False  # whether the last look was told of Tritons


class _Counted(NamedTuple):
    """What a door counted between two looks; `answers` are of those that it let through."""

    arrivals: float
    rejected: float
    answers: float
    seconds: float


@dataclass(slots=True)
class Meter:
    """Of one service. A door that is seen for the first time begins with what it counted before.

    That is too little by what a new door counted before its first sample, and never too much: what
    a door counted while nobody looked may be of days ago. So does a Triton, but for the first ones:
    these count with all that they computed, since nothing else tells how long a request takes. A
    sample that is no newer than the one before is that one: two sources may tell the same counts,
    one of them later.
    """

    doors: Mapping[str, DoorCounts] = field(default_factory=dict)  # the newest of each
    tritons: Mapping[str, TritonCounts] = field(default_factory=dict)
    totals: Totals | None = None
    rates: dict[str, float | None] = field(default_factory=dict)  # of each door, requests a second

    def add(
        self,
        counts: Counts,
        doors: Collection[str] = (),
        tritons: Collection[str] | None = None,
    ) -> Totals | None:
        """Take in new counts; return what they come to, None while no door tells anything.

        Of `doors`, which may have requests, those that tell nothing stay as they were for a while;
        of `tritons`, which are there, for as long. None: nobody knows who is there.
        """
        if not counts.doors:
            return None
        known, newest = self._newest(counts.doors, doors)
        counted = {pod: _since(known[pod], each) for pod, each in newest.items()}
        executed = self._executed(counts.tritons, tritons)
        at = self._at(newest, known, counted)
        self.doors = {**known, **newest}
        self.totals = _added(
            self.totals or Totals(at), at, newest.values(), counted.values(), executed
        )
        return self.totals

    def _newest(
        self, told: Mapping[str, DoorCounts], there: Collection[str]
    ) -> tuple[dict[str, DoorCounts], dict[str, DoorCounts]]:
        """Return what was known of doors, and what is known now."""
        oldest = self.totals.at - _FORGOTTEN_SECONDS if self.totals is not None else 0.0
        known = {pod: each for pod, each in self.doors.items() if each.at > oldest}
        newest = {pod: each for pod, each in known.items() if pod in there}
        for pod, each in told.items():
            newest[pod] = _newer(known.setdefault(pod, each), each)
        return known, newest

    def _executed(
        self, told: Mapping[str, TritonCounts], there: Collection[str] | None
    ) -> list[TritonCounts]:
        """Return what each Triton did since it told of it last: after a restart, all of it."""
        before, is_first = self.tritons, self.totals is None or not any(self.totals.computed)
        silent = {pod: each for pod, each in before.items() if there is None or pod in there}
        self.tritons = {**silent, **told}
        return [
            TritonCounts(*map(grown, before.get(pod, _NOTHING if is_first else each), each))
            for pod, each in told.items()
        ]

    def _at(
        self,
        newest: Mapping[str, DoorCounts],
        known: Mapping[str, DoorCounts],
        counted: Mapping[str, _Counted],
    ) -> float:
        """Return the time that the sums are of.

        Doors are read at different moments. Where one has a newer sample and another has none, what
        came to the one is no demand of the time between their newest samples: it passes as fast as
        so many come to all doors together. Before that is known, they are taken for alike.
        """
        gone_on = {pod: newest[pod].at - known[pod].at for pod in newest}
        times = [each.at for each in newest.values()]
        if self.totals is None:
            self.rates = dict.fromkeys(newest)
            return fmean(times)
        self.rates = {
            pod: counted[pod].arrivals / seconds if seconds > 0 else self.rates.get(pod, 0.0)
            for pod, seconds in gone_on.items()
        }
        rates = [each for each in self.rates.values() if each is not None]
        came = sum(each.arrivals for each in counted.values())
        alike = len(rates) < len(self.rates) or not any(rates)
        time = self.totals.at + (fmean(gone_on.values()) if alike else came / sum(rates))
        # A clock that was set back is followed.
        return (
            max(times) if _set_back(time, max(times)) else sorted((min(times), time, max(times)))[1]
        )


def _newer(before: DoorCounts, after: DoorCounts) -> DoorCounts:
    later = after.at - before.at >= _LEAST_SECONDS
    return after if later or _set_back(before.at, after.at) else before


def _set_back(before: float, after: float) -> bool:
    """Whether a time is so long before another that the clock was set back in between."""
    return before - after > _SET_BACK_SECONDS


def _since(before: DoorCounts, after: DoorCounts) -> _Counted:
    """Return what a door counted in between: after a restart, all that it counted since."""
    if after.arrivals < before.arrivals:
        before = DoorCounts(before.at, 0.0, 0.0, answers=0.0, milliseconds=0.0)
    came = after.arrivals - before.arrivals
    rejected = grown(before.rejected, after.rejected)
    if None in (before.answers, before.milliseconds, after.answers, after.milliseconds):
        # Little's law: requests took together what was open, times the time that it was.
        answers = came + before.active - after.active
        seconds = (before.active + after.active) / 2 * (after.at - before.at)
    else:
        answers = grown(before.answers or 0.0, after.answers or 0.0)
        seconds = grown(before.milliseconds or 0.0, after.milliseconds or 0.0) / 1e3
    return _Counted(came, rejected, max(0.0, answers - rejected), seconds)


def _added(
    totals: Totals,
    at: float,
    doors: Iterable[DoorCounts],
    counted: Collection[_Counted],
    tritons: list[TritonCounts],
) -> Totals:
    return Totals(
        at=at,
        in_flight=sum(each.active for each in doors),
        arrivals=totals.arrivals + sum(each.arrivals for each in counted),
        rejected=totals.rejected + sum(each.rejected for each in counted),
        completions=totals.completions + sum(each.answers for each in counted),
        latency_seconds=totals.latency_seconds + sum(each.seconds for each in counted),
        computed=_summed(totals.computed, tritons),
        tells_compute=bool(tritons),
    )


def _summed(before: Computed, tritons: Iterable[TritonCounts]) -> Computed:
    requests, seconds, batches, hits = before
    for each in tritons:
        requests += each.requests
        seconds += each.compute_microseconds / 1e6
        batches += each.executions
        hits += each.hits
    return Computed(requests, seconds, batches, hits)
