"""Attempts: one start of the whole gang each. How they are opened, placed and recorded."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

from lepton_operator import names
from lepton_operator.api.training import Attempt, Budget, Cause, Restarts
from lepton_operator.build import training as build
from lepton_operator.conditions import MAX_MESSAGE, cut
from lepton_operator.plan import Create, Event, Patch, Plan
from lepton_operator.training import avoidance, evidence, keeping, ledger, waiting
from lepton_operator.training.evidence import Failure
from lepton_operator.training.situation import Gang, Situation, has_ended, training_container
from lepton_operator.training.status import refused, written
from lepton_operator.views import PodView


def closed(
    situation: Situation, gang: Gang, outcome: Literal["Succeeded", "Failed", "Suspended"]
) -> Attempt:
    """Return the open attempt as it is recorded when it ends."""
    steps, launchers = evidence.steps(gang), evidence.in_place(gang)
    running = evidence.running_since(gang)
    ended: dict[str, Any] = {
        "outcome": outcome,
        "end_time": situation.now,
        "generation": situation.job.metadata.generation,
        "running_time": running,
        "ledger": ledger.closed(situation, gang, outcome, running),
        "step": steps.reached,
        "resumed_from": steps.resumed_from,
        "furthest_step": steps.furthest,
        "saved": launchers.saved or None,
        "restarts": launchers.restarts or None,
        "resolved": gang.resolved.text(),
    }
    return gang.attempt.model_copy(update=ended)


def closed_failed(
    situation: Situation, gang: Gang, failure: Failure, budget: Budget | None, rule: int | None
) -> Attempt:
    """Return it with the failure that it is closed for."""
    line = failure.last_error_line
    step = failure.step if failure.trait.may_repeat else _reached(situation, gang, failure)
    failed: dict[str, Any] = {
        "budget": budget,
        "rule": rule,
        "reason": failure.cause.value,
        "message": cut(failure.message),
        "exit_code": failure.exit_code,
        "signal": failure.signal,
        "node": failure.node,
        "rank": failure.rank,
        "step": step,
        "resumed_from": failure.resumed_from,
        "last_error_line": cut(line, MAX_MESSAGE) if line else None,
        "stacks": failure.stacks,
        "failed_time": failure.finished or failure.began,
    }
    return closed(situation, gang, "Failed").model_copy(update=failed)


def _reached(situation: Situation, gang: Gang, failure: Failure) -> int | None:
    """Return the step that a lost pod's gang had come to, as it was told last.

    Of a failure that may come again it would not be exact enough to tell it from another one.
    """
    if failure.step is not None:
        return failure.step
    told = situation.view.told
    newest = (told.progress if told else None, situation.status.progress)
    of_this = (each for each in newest if each is not None and each.attempt == gang.number)
    return next((each.step for each in of_this), None)


def counters(situation: Situation, gang: Gang, *, knows_progress: bool = False) -> Restarts:
    """Return the counters, with what the launchers have spent of the user's budgets.

    Never more than there was: what a pod says is a user's text.
    """
    old, limits = situation.status.restarts or Restarts(), situation.spec.failure_policy
    spent = evidence.in_place(gang).restarts
    more = {"user": old.user + min(spent, max(0, limits.max_restarts - old.user))}
    if knows_progress:
        left = max(0, limits.max_restarts_without_progress - old.without_progress)
        more["without_progress"] = old.without_progress + min(spent, left)
    return old.model_copy(update=more)


def recorded(situation: Situation, attempt: Attempt) -> list[Attempt]:
    """Return the attempts with this one as the last."""
    others = [each for each in situation.status.attempts if each.number != attempt.number]
    return [*(_superseded(situation, each) for each in others), attempt]


def _superseded(situation: Situation, attempt: Attempt) -> Attempt:
    """Close an attempt that still counts as open though a later one has pods: it lost its end."""
    if attempt.outcome != "Running":
        return attempt
    message = "A later attempt was found; how this one ended is not known."
    lost = {
        "outcome": "Failed",
        "end_time": situation.now,
        "reason": Cause.POD_LOST,
        "message": message,
        "ledger": ledger.superseded(situation, attempt),
    }
    return attempt.model_copy(update=lost)


def open_next(situation: Situation) -> Plan | None:
    """Make the pods of the next attempt, with the defaults of today; some keep their place."""
    if situation.gang is not None:
        return None
    previous = situation.previous
    number = previous.number + 1 if previous else 1
    attempt = Attempt(number=number, start_time=situation.now)
    kept = keeping.kept(situation)
    gang = Gang(
        attempt,
        recorded=False,
        pods={rank: each.pod for rank, each in kept.items()},
        resolved=keeping.resolved(situation) if kept else keeping.resolved_today(situation),
    )
    # Pods of the attempt before must be gone in truth, not only in what was seen.
    return _opening(situation, gang, relist=previous is not None)


def complete_opening(situation: Situation) -> Plan | None:
    """Make the pods of an attempt that are still missing, and record it."""
    gang = situation.gang
    if gang is None or gang.recorded:
        return None
    return _opening(situation, gang, relist=False)


def _opening(situation: Situation, gang: Gang, *, relist: bool) -> Plan:
    """Make pods first; the status tells of an attempt only when all its pods were made."""
    because = f"start attempt {gang.number} on {_pods_of(situation, gang)}"
    create = tuple(
        Create(
            build.pod(
                situation.job,
                gang.resolved,
                gang.number,
                rank,
                avoided=avoidance.of_pod(situation, rank),
            )
        )
        for rank in situation.ranks
        if rank not in gang.pods
    )
    if situation.view.refusals:
        status = written(situation, refused(situation))
        return Plan(because=because, create=create, status=status, relist=relist)
    opened = {"resolved": gang.resolved.text(), "kept": len(_kept(situation, gang)) or None}
    attempt = gang.attempt.model_copy(update=opened)
    return Plan(
        because=because + _after(situation.previous),
        create=create,
        status=written(
            situation, waiting.verdict(situation), attempts=recorded(situation, attempt)
        ),
        events=(_started(situation, gang),),
        relist=relist,
    )


def _kept(situation: Situation, gang: Gang) -> list[int]:
    """Return the ranks whose pods were made for an earlier attempt."""
    return [rank for rank, pod in gang.pods.items() if _is_kept(situation, gang, pod)]


def _is_kept(situation: Situation, gang: Gang, pod: PodView) -> bool:
    made = names.parse_training_pod(situation.job.metadata.name, pod.name)
    return made is not None and made[0] < gang.number


def _pods_of(situation: Situation, gang: Gang) -> str:
    count, kept = situation.spec.num_nodes, len(_kept(situation, gang))
    stay = f", of which {kept} {'keeps' if kept == 1 else 'keep'} their place" if kept else ""
    return waiting.pods_of(count) + stay


def _after(previous: Attempt | None) -> str:
    if previous is None:
        return ""
    if previous.reason == Cause.SAVED and previous.outcome == "Failed":
        return f" after attempt {previous.number}. {previous.message}"
    if previous.outcome == "Failed":
        return f": attempt {previous.number} failed. {previous.message}"
    return ": the job was resumed"


def _started(situation: Situation, gang: Gang) -> Event:
    previous = situation.previous
    again = previous is not None and previous.outcome == "Failed"
    message = f"Attempt {gang.number} starts on {_pods_of(situation, gang)}{_after(previous)}"
    return Event("Normal", "Restarted" if again else "AttemptStarted", message)


def image(situation: Situation, gang: Gang) -> Iterator[Patch]:
    """Tell rank 0's sidecar, for the model's lineage, which image its script really runs in."""
    pod = gang.pods.get(0)
    container = training_container(pod) if pod else None
    if pod is None or container is None or situation.spec.output is None or has_ended(pod):
        return
    told = container.image_id[: build.MAX_LINEAGE_TEXT]
    if told and pod.annotations.get(names.IMAGE_ID) != told:
        yield Patch(pod.reference, {"metadata": {"annotations": {names.IMAGE_ID: told}}})


def placements(situation: Situation, gang: Gang) -> Iterator[Patch]:
    """Tell every pod of a gang where rank 0 is, once it has an address.

    Those that keep their place are told of the attempt before that: their launchers wait for it.
    """
    job, nodes, first = situation.job, situation.spec.num_nodes, gang.pods.get(0)
    if nodes == 1 or first is None:
        return
    for rank, pod in gang.pods.items():
        if has_ended(pod) or pod.gone:
            continue
        if _is_kept(situation, gang, pod):
            before = pod.annotations.get(names.ATTEMPT)
            told = build.placement_of_kept(job, gang.number, rank, first.ip, before)
            marks = {"labels": {names.ATTEMPT: str(gang.number)}}
        elif first.ip is not None:
            told = build.placement(job.metadata, nodes, gang.number, rank, first.ip)
            marks = {}
        else:
            continue
        if pod.annotations.get(names.ATTEMPT) != told:
            yield Patch(
                pod.reference, {"metadata": {"annotations": {names.ATTEMPT: told}, **marks}}
            )
