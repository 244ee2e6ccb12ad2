"""What is known of one service between two looks, and what its status is told of it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal

from lepton_operator.api.autoscaling import KEPT_DECISIONS, AutoscalingStatus, ScalingDecision
from lepton_operator.api.inference import InferenceService
from lepton_operator.autoscale.law import decide
from lepton_operator.autoscale.values import Decision, History, Samples, Spec
from lepton_operator.conditions import Extra, cut
from lepton_operator.scaling.replicas import Replicas
from lepton_operator.scaling.saying import FLEETING
from lepton_operator.signals.meter import Meter
from lepton_operator.views import ScalingView

SETTLED_SECONDS = 30.0
"""What may pass by itself is said only once it has lasted for so long: what comes and goes with the
demand, or with a scrape that was missed, writes no status."""

Source = Literal["Prometheus", "Doors"]
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
    _other: frozenset[str] = frozenset()
    _since: float = 0.0

    def decide(self, spec: Spec, samples: Samples | None, now: float, current: int) -> Decision:
        """Return the law's decision; the one before while there are no newer samples.

        Prometheus may scrape more seldom than is looked. `current` is spec.replicas.
        """
        newest = self.history.last
        if self.last is not None and samples is not None and newest is not None:
            is_fresh = now - samples.time <= spec.stale_after_seconds
            if samples.time == newest.time and is_fresh:
                return self.last
        self.last = decide(spec, samples, self.history, now, current=current)
        self.history = self.last.history
        if self.replicas is not None:
            self.known = self.replicas.known
        return self.last

    def tell(self, conditions: Iterable[Extra], now: float) -> bool:
        """Take in what is to be said; return whether that is news for the status."""
        view = ScalingView(self._status(), tuple(conditions))
        found, said = _said(view), _said(self.view)
        if self.view is not None and found == said:
            self._other = frozenset()
            return False
        if found != self._other:
            self._other, self._since = found, now
        if (found - said) & FLEETING and now - self._since < SETTLED_SECONDS:
            return False
        self.view, self._other = view, frozenset()
        return True

    def decided(self, decision: Decision, now: float) -> None:
        """Take in that a decision was acted on."""
        self.decisions = (_recorded(decision, now), *self.decisions)[:KEPT_DECISIONS]
        conditions = self.view.conditions if self.view is not None else ()
        self.view = ScalingView(self._status(), conditions)

    def _status(self) -> AutoscalingStatus:
        return AutoscalingStatus(source=self.source, decisions=self.decisions)


def _said(view: ScalingView | None) -> frozenset[str]:
    """Return what is said, but for figures that come and go with what may pass."""
    conditions = view.conditions if view is not None else ()
    return frozenset(
        each.reason if each.reason in FLEETING else each.message for each in conditions
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
