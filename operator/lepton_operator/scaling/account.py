"""What is known of one service between two looks, and what its status is told of it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal

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
_Said = frozenset[tuple[str, str]]
_SIGNIFICANT = 4  # figures of a value


@dataclass(slots=True)
class Account:
    """`view` is what plans read; `_other` what was found in its place, since when."""

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
    _other: _Said = frozenset()
    _since: float = 0.0

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

        Of the same reasons it is where a person changed the object: sentences have its figures.
        """
        view = ScalingView(self._status(), tuple(conditions))
        found, said = _said(view), _said(self.view)
        changed = {reason for reason, _ in found ^ said}
        if self.view is not None and not changed:
            self._other = frozenset()
            return self._refresh(view, generation)
        if found != self._other:
            self._other, self._since = found, now
        settled = now - self._since >= SETTLED_SECONDS
        if not changed & BY_HAND and (
            _is_quiet(found, said) or (changed & FLEETING and not settled)
        ):
            return False
        self.view, self._other, self._generation = view, frozenset(), generation
        return True

    def _refresh(self, view: ScalingView, generation: int) -> bool:
        if generation == self._generation:
            return False
        changed = self.view != view
        self.view, self._generation = view, generation
        return changed

    def decided(self, decision: Decision, now: float) -> None:
        """Take in that a decision was acted on."""
        self.decisions = (_recorded(decision, now), *self.decisions)[:KEPT_DECISIONS]
        conditions = self.view.conditions if self.view is not None else ()
        self.view = ScalingView(self._status(), conditions)

    def _status(self) -> AutoscalingStatus:
        return AutoscalingStatus(source=self.source, decisions=self.decisions)


def _is_quiet(found: _Said, said: _Said) -> bool:
    """Whether nobody has asked anything since a start: what was said of asking still holds."""
    new, old = ({reason for reason, _ in each} for each in (found, said))
    return ScalingReason.NO_REQUESTS_YET in new and bool(old & ASKED)


def _said(view: ScalingView | None) -> _Said:
    """Return what is said, but for figures that come and go with what may pass."""
    conditions = view.conditions if view is not None else ()
    return frozenset(
        (each.reason, "" if each.reason in FLEETING else each.message) for each in conditions
    )


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
