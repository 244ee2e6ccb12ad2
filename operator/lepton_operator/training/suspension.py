"""Suspending: recorded first, then the pods go; a resume opens a new attempt."""

from __future__ import annotations

from lepton_operator.conditions import is_true
from lepton_operator.plan import Event, Plan
from lepton_operator.training import attempts, waiting
from lepton_operator.training.situation import Situation
from lepton_operator.training.status import SUSPENDED, Reason, reconciling, settled, written

_ENDING = reconciling(Reason.SUSPENDED, "The job is suspended: its pods are being ended.")
_AT_REST = settled(
    Reason.SUSPENDED, "The job is suspended and holds nothing: set suspend to false to go on."
)


def suspend(situation: Situation) -> Plan | None:
    """End the open attempt without counting it, and start none."""
    if not situation.spec.suspend:
        return None
    gang = situation.gang
    ended = attempts.closed(situation, gang, "Suspended") if gang else None
    holds = _holds(situation)
    verdict = _ENDING if holds else _AT_REST
    status = written(
        situation,
        verdict,
        attempts=attempts.recorded(situation, ended) if ended else None,
    )
    left = [] if gang else [each for each in situation.others if not each.pod.deleting]
    new = not is_true(situation.status.conditions, SUSPENDED)
    told = [f"delete {waiting.describe(left)}"] if left else []
    said = ["say that the job is suspended"] if status else []
    return Plan(
        because=", ".join([*told, *said]),
        delete=waiting.deletes(left),
        status=status,
        events=(Event("Normal", SUSPENDED, verdict.message),) if new else (),
        due=waiting.given_up_at(situation) if holds and not gang else None,
    )


def _holds(situation: Situation) -> bool:
    """Tell whether pods of the job still hold their GPUs."""
    open_ones = situation.gang.pods.values() if situation.gang else ()
    return any(not pod.gone for pod in open_ones) or bool(waiting.still_leaving(situation))
