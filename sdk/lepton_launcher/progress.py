"""How far the ranks of this pod are, as exchange/progress.json tells it to the sidecar."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple

from lepton_launcher.ledger import Ledger
from lepton_launcher.slow import OwnTime, SlowWatch

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from lepton_launcher.ledger import Ending
    from lepton_launcher.saves import Saves
    from lepton_launcher.sightings import Sighting
    from lepton_launcher.slow import Slow

_POINTS = 60
_POINT_SECONDS = 0.5
_DIGITS = 6


class _Point(NamedTuple):
    step: int
    step_at: float
    is_reported: bool


class Pace:
    """The recent time of a rank's step."""

    def __init__(self) -> None:
        self._points: deque[_Point] = deque(maxlen=_POINTS)

    def add(self, sighting: Sighting) -> None:
        """Take in where the rank stands; points lie half a second apart or further."""
        standing = sighting.standing
        if not standing.step_at:
            return
        point = _Point(standing.step, sighting.step_at, standing.is_reported)
        last = self._points[-1] if self._points else point
        # A counted step is the process's own: the one reported after it may be any number.
        if point.step < last.step or point.is_reported != last.is_reported:
            self._points.clear()
        if not self._points or point.step_at - self._points[-1].step_at >= _POINT_SECONDS:
            self._points.append(point)

    @property
    def step_seconds(self) -> float | None:
        """The mean over the last points; None before two steps."""
        steps = self._steps()
        return (self._points[-1].step_at - self._points[0].step_at) / steps if steps else None

    def _steps(self) -> int:
        return self._points[-1].step - self._points[0].step if self._points else 0


class Before(NamedTuple):
    """What is told of the generations of this attempt that ended."""

    told: Sequence[dict[str, Any]] = ()
    spent: Mapping[str, Any] = {}


class Progress:
    """What is told about one generation of ranks, from what was seen of them."""

    def __init__(
        self,
        attempt: int,
        generation: int,
        now: float,
        before: Before = Before(),  # noqa: B008 - frozen
        *,
        saves: Saves | None = None,
        ledger: Ledger | None = None,
        node: int = 0,
    ) -> None:
        self._attempt = attempt
        self._generation = generation
        self._before = before
        self._saves = saves
        self._paces: dict[int, Pace] = {}
        self._ledger = ledger or Ledger(now)
        self._ledger.begin(now)
        self._node = node
        self._own: list[OwnTime] = []
        self._slow: Slow | None = None
        self._slow_watch = SlowWatch()
        self.step: int | None = None
        """The last step that the slowest rank is known to have done."""
        self.resumed_from: int | None = None
        """The step of the checkpoint that the ranks began with."""
        self.left_at: int | None = None
        """The step that the ranks saved before they left, as they were asked to."""
        self.collectives = 0
        """How many the rank that is furthest behind has finished."""
        self.furthest = -1
        """The last step that the script reported itself, or saved; -1 without one.

        Steps that were counted say nothing: they begin with 1 again whenever a process does.
        """

    @property
    def step_seconds(self) -> float:
        """The mean of the recent steps of this pod's first rank; 0: not known."""
        first = min(self._paces, default=None)
        return (self._paces[first].step_seconds or 0.0) if first is not None else 0.0

    def take_in(self, sightings: Sequence[Sighting], now: float) -> None:
        """Learn from one look at the ranks."""
        for sighting in sightings:
            self._paces.setdefault(sighting.rank, Pace()).add(sighting)
        # Step 0 is where every run begins: whoever reports it has done none.
        stepping = [each.standing for each in sightings if each.standing.step > 0]
        # A script may report from rank 0 only; what is counted elsewhere is another number then.
        reported = [each.step for each in stepping if each.is_reported]
        known = reported or [each.step for each in stepping]
        self.step = min(known, default=self.step)
        saved = [each.standing.checkpoint_step for each in sightings]
        made = [step for step in saved if step > 0]
        self.furthest = max(self.furthest, min(reported, default=-1), min(made, default=-1))
        counts = [each.standing.collectives for each in sightings]
        self.collectives = min(counts, default=self.collectives)
        left = [each.standing.checkpoint_step for each in sightings if each.standing.has_left]
        self.left_at = max(left, default=self.left_at)
        resumed = [each.standing.resumed_step for each in sightings]
        if resumed and min(resumed) >= 0:
            self.resumed_from = min(resumed)
        first = min(sightings, key=lambda each: each.rank, default=None)
        if self._saves is not None and self.furthest >= 0:
            self._saves.stop()
        if first is not None:
            self._ledger.see(first.standing, now)
        self._own = [
            OwnTime(
                each.rank, self._node, each.standing.own_seconds, each.standing.own_error_seconds
            )
            for each in sightings
            if each.standing.own_seconds > 0
        ]

    @property
    def slowest(self) -> OwnTime | None:
        """The rank of this pod with the longest own time."""
        return max(self._own, key=lambda each: each.seconds, default=None)

    def compare(self, elsewhere: Sequence[OwnTime]) -> None:
        """Look for a slow rank among those of this pod and the slowest of each other."""
        self._slow = self._slow_watch.observe([*self._own, *elsewhere], self.step or 0)

    def end(self, ending: Ending, now: float) -> None:
        """Book the time that is left, now that the ranks have ended."""
        self._ledger.end(now, ending, self.furthest)

    def document(self, sightings: Sequence[Sighting], now: float) -> dict[str, Any]:
        """The content of progress.json; what nobody knows is left out."""
        first = min(sightings, key=lambda each: each.rank)
        pace = self._paces[first.rank]
        furthest = max(self.furthest, self._before.spent.get("furthest", -1))
        saves = self._saves if furthest < 0 else None
        saved_at = saves.saved_at if saves else None
        facts = {
            "attempt": self._attempt,
            "generation": self._generation,
            "phase": first.standing.phase,
            "step": self.step,
            "totalSteps": first.standing.total_steps or None,
            "stepSeconds": _rounded(pace.step_seconds),
            "metrics": dict(first.standing.metrics) or None,
            "learningRate": first.standing.learning_rate,
            "samples": first.standing.samples or None,
            "checkpoint": _checkpoint(first, now) or _saved(saved_at, now),
            "resumedFrom": self.resumed_from,
            "furthest": furthest if furthest >= 0 else None,
            "saved": True if saves and saves.is_further else None,
            "ranks": [self._rank(each, now) for each in sightings],
            "slow": _slow_facts(self._slow),
            "restarts": list(self._before.told) or None,
            "countedRestarts": self._before.spent.get("restarts"),
            "ledger": self._ledger.seconds(),
            "earlier": [each._asdict() for each in self._ledger.earlier] or None,
        }
        return _known(facts)

    def _rank(self, sighting: Sighting, now: float) -> dict[str, Any]:
        facts = {
            "rank": sighting.rank,
            "step": sighting.standing.step or None,
            "silentSeconds": _ago(sighting.step_at, now) if sighting.step_at else None,
            "ownSeconds": _rounded(sighting.standing.own_seconds or None),
        }
        return _known(facts)


def without_ages(document: dict[str, Any]) -> dict[str, Any]:
    """The document without what changes by the mere passing of time."""
    ranks = [{**each, "silentSeconds": None} for each in document.get("ranks", [])]
    saved = document.get("checkpoint")
    ageless = {"ranks": ranks, "checkpoint": saved and {**saved, "ageSeconds": None}}
    return {**document, **ageless}


def _checkpoint(sighting: Sighting, now: float) -> dict[str, Any] | None:
    standing = sighting.standing
    if standing.checkpoint_step < 0:
        return None
    return {
        "step": standing.checkpoint_step,
        "ageSeconds": _ago(standing.checkpoint_at / 1e9, now),
        "seconds": round(standing.checkpoint_seconds, _DIGITS),
    }


def _saved(saved_at: float | None, now: float) -> dict[str, Any] | None:
    """A checkpoint of a script's own, of which only its age is known."""
    return None if saved_at is None else {"ageSeconds": _ago(saved_at, now)}


def _ago(moment: float, now: float) -> float:
    """Seconds; a rank may write while it is looked at, and so after `now`."""
    return round(max(0.0, now - moment), 1)


def _slow_facts(slow: Slow | None) -> dict[str, Any] | None:
    return slow and {**slow._asdict(), "factor": round(slow.factor, 2)}


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, _DIGITS)


def _known(facts: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in facts.items() if value is not None}
