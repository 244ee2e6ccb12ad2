"""A closed attempt's pods may still tell what its time went into: their last words come late."""

from __future__ import annotations

from lepton_operator.plan import Plan
from lepton_operator.training import ledger, suspension
from lepton_operator.training.situation import Situation
from lepton_operator.training.status import end, written


def settle(situation: Situation) -> Plan | None:
    """Complete the ledger of the attempt that was closed last."""
    last = situation.last
    if situation.gang is not None or last is None or last.outcome == "Running":
        return None
    found = ledger.settled(situation, last)
    if found is None or suspension.is_untold(situation):
        return None
    every = [*situation.status.attempts[:-1], last.model_copy(update={"ledger": found})]
    ended = end(situation)
    verdict = ended.verdict if ended else suspension.verdict(situation)
    return Plan(
        because=f"complete the ledger of attempt {last.number}",
        status=written(situation, verdict, attempts=every),
    )
