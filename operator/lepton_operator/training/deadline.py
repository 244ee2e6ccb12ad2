"""Deadlines: how long a job may be active, and how long it is kept after its end."""

from __future__ import annotations

from datetime import datetime, timedelta

from lepton_operator.conditions import find
from lepton_operator.plan import Delete, Event, Plan, Reference
from lepton_operator.training import attempts, output
from lepton_operator.training.situation import Situation
from lepton_operator.training.status import (
    COMPLETE,
    FAILED,
    Reason,
    active_since,
    end,
    failed,
    written,
)


def active_until(situation: Situation) -> datetime | None:
    """Return when the job will have been active for too long; suspensions do not count."""
    seconds, since = situation.spec.active_deadline_seconds, active_since(situation)
    if seconds is None or since is None or situation.spec.suspend or end(situation):
        return None
    return since + timedelta(seconds=seconds - (situation.status.active_seconds or 0))


def exceed(situation: Situation) -> Plan | None:
    """Fail a job that has been active for too long; its pods go in a later pass."""
    until = active_until(situation)
    if until is None or until > situation.now:
        return None
    seconds = situation.spec.active_deadline_seconds
    ended = failed(
        Reason.DEADLINE_EXCEEDED,
        f"The job was active for {seconds} s and has not ended (activeDeadlineSeconds).",
        "Give it more time or less to do",
    )
    gang = situation.gang
    attempt = attempts.closed(situation, gang, "Failed") if gang else None
    if attempt is not None:
        late = {"reason": Reason.DEADLINE_EXCEEDED.value, "message": ended.message}
        attempt = attempt.model_copy(update=late)
    return Plan(
        because=f"fail the job: it was active for {seconds} s",
        status=written(
            situation,
            ended.verdict,
            attempts=attempts.recorded(situation, attempt) if attempt else None,
            ended=ended,
        ),
        events=(Event("Warning", FAILED, ended.message),),
    )


def kept_until(situation: Situation) -> datetime | None:
    """Return when a job that ended is to be deleted, if ever.

    Never before its result is a version of its model, and so cannot be lost with it.
    """
    seconds = situation.spec.ttl_seconds_after_finished
    ends = (find(situation.status.conditions, kind) for kind in (COMPLETE, FAILED))
    ended = next((each for each in ends if each is not None and each.status == "True"), None)
    if seconds is None or ended is None or not output.is_listed(situation):
        return None
    return ended.last_transition_time + timedelta(seconds=seconds)


def expire(situation: Situation) -> Plan | None:
    """Delete a job whose time after its end has passed."""
    until = kept_until(situation)
    if until is None or until > situation.now:
        return None
    job = situation.job.metadata
    target = Reference(situation.job.kind, job.namespace, job.name, job.uid)
    seconds = situation.spec.ttl_seconds_after_finished
    return Plan(
        because=f"delete the job: it ended {seconds} s ago (ttlSecondsAfterFinished)",
        delete=(Delete(target),),
    )
