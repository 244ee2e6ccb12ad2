"""Suspending: all ranks save and leave; that is recorded, then the pods go. A resume goes on."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from lepton_operator import names
from lepton_operator.api.training import Attempt, Cause
from lepton_operator.build import training as build
from lepton_operator.conditions import Verdict, cut, is_true
from lepton_operator.plan import Event, Patch, Plan
from lepton_operator.training import attempts, evidence, reminders, waiting
from lepton_operator.training.situation import Gang, Situation, runs
from lepton_operator.training.status import SUSPENDED, Reason, reconciling, settled, written
from lepton_operator.views import PodView

SLACK_SECONDS = 30  # until the word has come from the annotation into the pod's file, at last
_GRACE_SECONDS = 30  # of pods of which no default is known

_SUSPENDING = reconciling(
    Reason.SUSPENDING,
    "The job is being suspended: its ranks were asked to save at one step and to leave. Pods that "
    "do not end within their grace period are ended.",
)
_ENDING = reconciling(Reason.SUSPENDED, "The job is suspended: its pods are being ended.")


def suspend(situation: Situation) -> Plan | None:
    """Have the open attempt leave, close it without counting it, and start none.

    What was asked to leave does, even if the job is to go on meanwhile.
    """
    gang = situation.gang
    if not (situation.spec.suspend or (gang is not None and _was_asked(gang))):
        return None
    awaited = _awaited(situation, gang) if gang else []
    if gang is not None and awaited:
        return _ask(situation, gang, awaited)
    return _end(situation, gang)


def _was_asked(gang: Gang) -> bool:
    """By the pods too: an operator may have died before the status said so."""
    return gang.attempt.leave_time is not None or any(map(_is_asked, gang.pods.values()))


def _is_asked(pod: PodView) -> bool:
    found = pod.annotations.get(names.ATTEMPT, "")
    # Of thousands of pods most were not: their annotations need no reading.
    return '"leave"' in found and build.leave_word(found) == found


def _ask(situation: Situation, gang: Gang, awaited: Sequence[PodView]) -> Plan:
    """Phase one: the pods are asked, and waited for."""
    asked_at = gang.attempt.leave_time or situation.now
    attempt = gang.attempt.model_copy(
        update={"leave_time": asked_at, "resolved": gang.resolved.text()}
    )
    patches = tuple(each for pod in awaited if (each := _request(pod)) is not None)
    again = tuple(reminders.reminders_to_leave(situation, gang, awaited, asked_at))
    status = written(situation, _SUSPENDING, attempts=attempts.recorded(situation, attempt))
    told = [f"ask {waiting.pods_of(len(patches))} to save and leave"] if patches else []
    told += ["have kubelets look again at that"] if again else []
    said = ["say that the job is being suspended"] if status else []
    is_new = gang.attempt.leave_time is None
    return Plan(
        because=", ".join([*told, *said]),
        patch=(*patches, *again),
        status=status,
        events=(Event("Normal", "Suspending", _SUSPENDING.message),) if is_new else (),
        due=_next_look(situation, gang, asked_at),
    )


def _next_look(situation: Situation, gang: Gang, asked_at: datetime) -> datetime:
    again = reminders.remind_to_leave_at(situation, asked_at)
    until = _awaited_until(situation, gang, asked_at)
    return again if again is not None and again > situation.now else until


def _awaited(situation: Situation, gang: Gang) -> list[PodView]:
    """Return the pods whose ranks may save; those that never began have nothing to save."""
    asked_at = gang.attempt.leave_time
    if asked_at is not None and _awaited_until(situation, gang, asked_at) <= situation.now:
        return []
    return [pod for pod in gang.pods.values() if _may_answer(situation, pod)]


def _may_answer(situation: Situation, pod: PodView) -> bool:
    node = situation.node(pod)
    is_silent = node is not None and not node.ready
    return runs(pod) and not (pod.gone or is_silent) and names.ATTEMPT in pod.annotations


def _awaited_until(situation: Situation, gang: Gang, asked_at: datetime) -> datetime:
    grace = build.grace_seconds(situation.spec, gang.resolved)
    patience = (_GRACE_SECONDS if grace is None else grace) + SLACK_SECONDS
    return asked_at.replace(microsecond=0) + timedelta(seconds=patience)


def _request(pod: PodView) -> Patch | None:
    found = pod.annotations[names.ATTEMPT]
    told = build.leave_word(found)
    if told is None or told == found:
        return None
    return Patch(pod.reference, {"metadata": {"annotations": {names.ATTEMPT: told}}})


def _end(situation: Situation, gang: Gang | None) -> Plan:
    """Phase two: the attempt is closed, and what is left of it goes in a later pass."""
    closed = _closed(situation, gang) if gang else None
    holds = _holds(situation)
    wanted = _verdict(situation, closed, holds=holds)
    status = written(
        situation,
        wanted,
        attempts=attempts.recorded(situation, closed) if closed else None,
        restarts=attempts.counters(situation, gang) if gang else None,
    )
    left = [] if gang else [each for each in situation.others if not each.pod.deleting]
    told = [f"delete {waiting.describe(left)}"] if left else []
    said = ["say that the job is suspended"] if status else []
    return Plan(
        because=", ".join([*told, *said]),
        delete=waiting.deletes(left),
        status=status,
        events=(Event("Normal", SUSPENDED, wanted.message),) if is_untold(situation) else (),
        due=waiting.given_up_at(situation) if holds and not gang else None,
    )


def _closed(situation: Situation, gang: Gang) -> Attempt:
    """Return the attempt as suspended, with what its ranks say if they saved."""
    closed, left = attempts.closed(situation, gang, "Suspended"), evidence.left(gang)
    if closed.leave_time is None and _was_asked(gang):
        closed = closed.model_copy(update={"leave_time": situation.now})
    if left is None:
        return closed
    return closed.model_copy(update={"reason": Cause.SAVED.value, "message": cut(left.message)})


def is_untold(situation: Situation) -> bool:
    """Tell whether no status says yet that the job is suspended."""
    return situation.spec.suspend and not is_true(situation.status.conditions, SUSPENDED)


def verdict(situation: Situation) -> Verdict:
    """Return the verdict while no attempt is open, be the job suspended or not."""
    return _verdict(situation, situation.last, holds=_holds(situation))


def _verdict(situation: Situation, closed: Attempt | None, *, holds: bool) -> Verdict:
    if not situation.spec.suspend:
        return waiting.verdict_after(situation, closed)
    return _ENDING if holds else _at_rest(situation.last)


def _at_rest(last: Attempt | None) -> Verdict:
    go_on = "set suspend to false to go on"
    has_saved = last is not None and last.outcome == "Suspended" and last.reason == Cause.SAVED
    if last is not None and has_saved and last.step is not None:
        go_on = f"its ranks saved at step {last.step}. Set suspend to false to go on from there"
    return settled(Reason.SUSPENDED, f"The job is suspended and holds nothing: {go_on}.")


def _holds(situation: Situation) -> bool:
    """Tell whether pods of the job still hold their GPUs."""
    open_ones = situation.gang.pods.values() if situation.gang else ()
    return any(not pod.gone for pod in open_ones) or bool(waiting.still_leaving(situation))
