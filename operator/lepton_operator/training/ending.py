"""After the end: no later change revives a job; what still runs is ended, and the rest is kept."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta

from lepton_operator.build import training as build
from lepton_operator.plan import Plan
from lepton_operator.training import deadline, waiting
from lepton_operator.training.situation import Member, Situation, has_ended
from lepton_operator.training.status import end, written


def stay_ended(situation: Situation) -> Plan | None:
    """Clean up after a job that is Complete or Failed, and delete the job itself in time."""
    ended = end(situation)
    if ended is None:
        return None
    expired = deadline.expire(situation)
    if expired is not None:
        return expired
    left = list(_superfluous(situation))
    status = written(situation, ended.verdict)
    told = [f"delete {waiting.describe(left)}: the job has ended"] if left else []
    said = [f"say {ended.reason}"] if status else []
    return Plan(
        because=", ".join([*told, *said]),
        delete=waiting.deletes(left),
        status=status,
        due=_due(situation),
    )


def _superfluous(situation: Situation) -> Iterator[Member]:
    """Yield the pods that nobody needs: finished ones of the last attempt are kept for their logs.

    Ranks beside a rank 0 that succeeded are given their own end.
    """
    last = situation.last.number if situation.last else 0
    patient = _is_patient(situation)
    for member in _remaining(situation):
        if member.pod.deleting:
            continue
        if member.attempt < last or not (has_ended(member.pod) or patient):
            yield member


def _remaining(situation: Situation) -> Iterator[Member]:
    """Yield the pods that exist; an attempt that the status still calls open has ended too."""
    yield from situation.others
    gang = situation.gang
    if gang is not None:
        pods = gang.pods.items()
        yield from (Member(gang.number, rank, pod) for rank, pod in pods if not pod.gone)


def _is_patient(situation: Situation) -> bool:
    until = _patience_ends(situation)
    return until is not None and until > situation.now


def _patience_ends(situation: Situation) -> datetime | None:
    last, completed = situation.last, situation.status.completion_time
    if completed is None:
        return None
    resolved = build.parse_resolved(last.resolved) if last else None
    grace = build.grace_seconds(situation.spec, resolved) if resolved else None
    return completed + timedelta(seconds=grace or 0)


def _due(situation: Situation) -> datetime | None:
    running = [each for each in _remaining(situation) if not has_ended(each.pod)]
    patience = _patience_ends(situation) if running and _is_patient(situation) else None
    dues = [each for each in (patience, deadline.kept_until(situation)) if each is not None]
    return min(dues, default=None)
