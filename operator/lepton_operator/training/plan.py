"""What to do about a TrainingJob: rules in order; the first that has something to do decides."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime

from lepton_operator.plan import Plan
from lepton_operator.training import (
    attempts,
    deadline,
    ending,
    leaving,
    output,
    progress,
    restarts,
    settlement,
    suspension,
    waiting,
)
from lepton_operator.training.situation import Situation, understand
from lepton_operator.views import TrainingView

Rule = Callable[[Situation], Plan | None]


def _leave_to_the_garbage_collector(situation: Situation) -> Plan | None:
    return Plan() if situation.job.metadata.deletion_timestamp else None


RULES: tuple[Rule, ...] = (
    _leave_to_the_garbage_collector,
    settlement.settle,
    ending.stay_ended,  # Complete and Failed are final
    output.finish,  # a result is never thrown away, whatever else happened
    suspension.suspend,
    deadline.exceed,
    leaving.wait,
    restarts.close_failed,  # records; what it closed goes in a later pass
    waiting.clear,
    output.refuse,
    waiting.wait,
    attempts.open_next,
    attempts.complete_opening,
    progress.follow,
)


def plan(view: TrainingView, now: datetime) -> Plan:
    """Return what is to be done about a job now, and when to ask again."""
    situation = understand(view, now)
    decided = next(found for rule in RULES if (found := rule(situation)) is not None)
    until = deadline.active_until(situation)
    # A rule that goes before the deadline's may let it pass, and wait for something else.
    ahead = until if until is not None and until > now else None
    return replace(decided, due=_earliest(decided.due, ahead))


def _earliest(*moments: datetime | None) -> datetime | None:
    return min((each for each in moments if each is not None), default=None)
