"""What is known of one service between two looks, and what its status is told of it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal, NamedTuple

from lepton_operator.api.autoscaling import KEPT_DECISIONS, AutoscalingStatus, ScalingDecision
from lepton_operator.api.inference import InferenceService
from lepton_operator.autoscale.law import decide
from lepton_operator.autoscale.values import Decision, History, Samples, Spec
from lepton_operator.conditions import Extra, cut, extras, find
from lepton_operator.errors import ApiError, Transient
from lepton_operator.scaling.replicas import Replicas
from lepton_operator.scaling.saying import ACTIVE, ASKED, BY_HAND, FLEETING, ScalingReason
from lepton_operator.scaling.sources import longer
from lepton_operator.signals.meter import Meter
from lepton_operator.views import ScalingView

SETTLED_SECONDS = 30.0
"""What may pass by itself is said only once it has lasted for so long: what comes and goes with the
demand, or with a scrape that was missed, writes no status."""

FIRST_WAIT_SECONDS = 2.0
"""Before a number that was refused is asked for again."""

Source = Literal["Prometheus", "Doors"]
_Words = tuple[str, str] | None
_SIGNIFICANT = 4  # figures of a value


class _Other(NamedTuple):
    """What was found in the place of what a condition says, and since when."""

    words: _Words
    since: float


@dataclass(slots=True)
class Account:
    """`view` is what plans read; `_other` what was found in its place, by condition."""

    decisions: tuple[ScalingDecision, ...] = ()
    meter: Meter = field(default_factory=Meter)
    history: History = field(default_factory=History)
    replicas: Replicas | None = None
    known: frozenset[str] | None = None  # UIDs of pods whose start the law knows
    last: Decision | None = None
    source: Source | None = None
    asked: tuple[InferenceService, Spec] | None = None
    view: ScalingView | None = None
    writing: asyncio.Task[None] | None = None
    refused: str = ""  # why the last write was
    writes_again_at: float = 0.0  # seconds of the monotonic clock
    _wait_seconds: float = 0.0
    _generation: int = 0  # of the object that `view` speaks of
    _other: dict[str, _Other] = field(default_factory=dict)

    @property
    def has_learned(self) -> bool:
        """Whether it is known how long a request takes."""
        return self.history.service.weight > 0

    def decide(self, spec: Spec, samples: Samples | None, now: float, current: int) -> Decision:
        """Return the law's decision; the one before while there are no newer samples.

        Prometheus may scrape more seldom than is looked. `current` is spec.replicas: what somebody
        else set meanwhile stays until there are newer samples.
        """
        newest = self.history.last
        if self.last is not None and samples is not None and newest is not None:
            is_fresh = now - samples.time <= spec.stale_after_seconds
            is_ours = current in (self.last.current, self.last.replicas)
            if samples.time == newest.time and is_fresh and is_ours:
                return self.last
        self.last = decide(spec, samples, self.history, now, current=current)
        self.history = self.last.history
        was_used = samples is not None and self.history.last is samples
        if self.replicas is not None and was_used:
            self.known = self.replicas.known
        return self.last

    def was_refused(self, error: ApiError, now: float) -> None:
        """Take in that a number could not be set; who refuses is asked ever less often."""
        after = error.retry_after_seconds if isinstance(error, Transient) else None
        self._wait_seconds = max(longer(self._wait_seconds, FIRST_WAIT_SECONDS), after or 0.0)
        self.refused, self.writes_again_at = error.message, now + self._wait_seconds

    def is_not_refused(self) -> None:
        """Take in that the number is as it is wanted."""
        self.refused, self.writes_again_at, self._wait_seconds = "", 0.0, 0.0

    def tell(self, conditions: Iterable[Extra], generation: int, now: float) -> bool:
        """Take in what is to be said; return whether that is news for the status.

        Each condition for itself: what comes and goes in one holds up no other. Of the same reasons
        it is where a person changed the object: sentences have its figures.
        """
        found = {each.type: each for each in conditions}
        said = {each.type: each for each in self.view.conditions} if self.view is not None else {}
        kinds = sorted(found.keys() | said.keys())
        other = {kind for kind in kinds if _words(found.get(kind)) != _words(said.get(kind))}
        self._other = {kind: self._seen(kind, _words(found.get(kind)), now) for kind in other}
        news = {
            kind
            for kind in other
            if _is_news(found.get(kind), said.get(kind), now - self._other[kind].since)
        }
        if not news and (self.view is None or generation == self._generation):
            return False
        chosen = (said.get(kind) if kind in other - news else found.get(kind) for kind in kinds)
        view, before = ScalingView(self._status(), tuple(filter(None, chosen))), self.view
        self.view, self._generation = view, generation
        return view != before

    def _seen(self, kind: str, words: _Words, now: float) -> _Other:
        """Return what is found in the place of what was said, and since when that is so."""
        before = self._other.get(kind)
        return before if before is not None and before.words == words else _Other(words, now)

    def decided(self, decision: Decision, now: float) -> None:
        """Take in that a decision was acted on."""
        self.decisions = (_recorded(decision, now), *self.decisions)[:KEPT_DECISIONS]
        conditions = self.view.conditions if self.view is not None else ()
        self.view = ScalingView(self._status(), conditions)

    def _status(self) -> AutoscalingStatus:
        return AutoscalingStatus(source=self.source, decisions=self.decisions)


def _is_news(found: Extra | None, said: Extra | None, seconds: float) -> bool:
    """Whether what was found for so long is said in the place of what was said before."""
    reasons = {each.reason for each in (found, said) if each is not None}
    if reasons & BY_HAND:
        return True
    # Nobody has asked anything since a start: what was said of asking still holds.
    if found and said and found.reason == ScalingReason.NO_REQUESTS_YET and said.reason in ASKED:
        return False
    return not reasons & FLEETING or seconds >= SETTLED_SECONDS


def _words(condition: Extra | None) -> _Words:
    """Return what a condition says, but for figures that come and go with what may pass."""
    if condition is None:
        return None
    return condition.reason, "" if condition.reason in FLEETING else condition.message


def begun(service: InferenceService) -> Account:
    """Return an account that goes on with what the status tells."""
    told = service.status.autoscaling or AutoscalingStatus()
    said = tuple(extras(service.status.conditions))
    is_told = find(service.status.conditions, ACTIVE)
    return Account(
        decisions=told.decisions,
        source=told.source,
        view=ScalingView(told, said) if is_told is not None else None,
        _generation=is_told.observed_generation or 0 if is_told is not None else 0,
    )


def _recorded(decision: Decision, now: float) -> ScalingDecision:
    return ScalingDecision(
        time=datetime.fromtimestamp(now, UTC).replace(microsecond=0),
        from_replicas=decision.current,
        to=decision.replicas,
        metric=decision.metric,
        value=_short(decision.value),
        target=_short(decision.target),
        reason=cut(decision.reason),
    )


def _short(figure: float) -> float:
    return float(f"{figure:.{_SIGNIFICANT}g}")
