"""The time between two attempts: old pods are deleted and gone, and a delay has passed."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta

from lepton_operator.api.training import Attempt, Cause
from lepton_operator.build import training as build
from lepton_operator.conditions import Verdict, cut, sentence
from lepton_operator.plan import Delete, Plan
from lepton_operator.training import backoff, keeping
from lepton_operator.training.causes import STORE
from lepton_operator.training.situation import Member, Situation
from lepton_operator.training.status import MAX_CAUSE, Reason, reconciling, written
from lepton_operator.views import PodView

PLACING_SECONDS = 5  # a scheduler that takes longer is told of


def verdict(situation: Situation) -> Verdict:
    """Return the verdict while no attempt is open, or the pods of one are on their way."""
    return verdict_after(situation, situation.previous)


def verdict_after(situation: Situation, previous: Attempt | None) -> Verdict:
    """Return that verdict after this attempt. It holds until all pods of the next one run."""
    if previous is None or previous.outcome != "Failed":
        return _opening(situation, previous.number + 1 if previous else 1)
    said = cut(previous.message or "It left no message.", MAX_CAUSE)
    if previous.reason == Cause.SAVED:
        return reconciling(
            Reason.RESTARTING,
            f"Attempt {previous.number + 1} goes on after attempt {previous.number}. "
            f"{sentence(said)}",
        )
    if previous.reason in STORE:
        said = said.removesuffix(".").removesuffix("; it is tried again")
        return reconciling(Reason(previous.reason), f"{sentence(said)} It is tried again.")
    return reconciling(
        Reason.RESTARTING,
        f"Attempt {previous.number + 1} takes the place of attempt {previous.number}, which "
        f"failed. {sentence(said)}",
    )


def _opening(situation: Situation, number: int) -> Verdict:
    """Return the verdict about an attempt that nothing holds up.

    It stays the same until all pods run, unless one waits long for a node: each change is a write.
    """
    nodes = situation.spec.num_nodes
    if situation.gang is None and still_leaving(situation):
        return reconciling(
            Reason.SCHEDULING,
            f"Attempt {number} waits until the pods of the one before are gone.",
        )
    gang, at = situation.gang, placing_told_at(situation)
    is_open = gang is not None and gang.number >= number
    if is_open and at is not None and at <= situation.now:
        pods = "its pod has" if nodes == 1 else f"all {pods_of(nodes)} have"
        return reconciling(
            Reason.SCHEDULING,
            f"Attempt {number} waits for the scheduler: its containers start once {pods} a node.",
        )
    all_run = "its pod runs" if nodes == 1 else f"all {pods_of(nodes)} run"
    return reconciling(
        Reason.STARTING, f"Attempt {number} starts: the job is Ready as soon as {all_run}."
    )


def placing_told_at(situation: Situation) -> datetime | None:
    """Return when it is told that pods of the open attempt wait for nodes; None if none does."""
    gang = situation.gang
    if gang is None:
        return None
    if all(rank in gang.pods and gang.pods[rank].node is not None for rank in situation.ranks):
        return None
    opened = gang.attempt.start_time.replace(microsecond=0)
    return opened + timedelta(seconds=PLACING_SECONDS)


def clear(situation: Situation) -> Plan | None:
    """Delete what is left of attempts that are closed in the status, but for what is kept."""
    left = [each for each in leaving(situation) if not each.pod.deleting]
    if not left:
        return None
    return Plan(
        because=f"delete {describe(left)}",
        delete=deletes(left),
        status=written(situation, verdict(situation)),
    )


def leaving(situation: Situation) -> list[Member]:
    """Return the pods of closed attempts that do not keep their place."""
    kept = {each.pod.uid for each in keeping.kept(situation).values()}
    return [each for each in situation.others if each.pod.uid not in kept]


def deletes(members: Iterable[Member]) -> tuple[Delete, ...]:
    return tuple(Delete(each.pod.reference) for each in members)


def wait(situation: Situation) -> Plan | None:
    """Wait until the pods of closed attempts are gone, and until the delay has passed."""
    gang, leavers = situation.gang, still_leaving(situation)
    if gang is not None:
        # The operator ended while it opened this one, and a pod that was to be kept has died.
        leavers = [] if gang.recorded else [e for e in leavers if e.rank not in gang.pods]
    job = situation.job.metadata
    due = None if gang else backoff.opens_at(situation.status.attempts, job.uid, job.generation)
    if not leavers and (due is None or due <= situation.now):
        return None
    status = written(situation, verdict(situation))
    return Plan(
        because="wait until the next attempt may start" if status else "",
        status=status,
        due=given_up_at(situation) if leavers else due,
    )


def still_leaving(situation: Situation) -> list[Member]:
    """Return the pods of closed attempts that hold something, and will end."""
    return [each for each in leaving(situation) if not _is_given_up(situation, each.pod)]


def _is_given_up(situation: Situation, pod: PodView) -> bool:
    """Tell whether a pod need not be waited for: its end may never come, or does not matter.

    Without a kubelet it stays Terminating for ever; one that has finished holds no GPU, whatever
    finalizer keeps it.
    """
    if pod.finished:
        return True
    node = situation.node(pod)
    if node is not None:
        return not node.ready
    at = given_up_at(situation)
    return at is not None and at <= situation.now


def given_up_at(situation: Situation) -> datetime | None:
    """Return when a pod that still exists must be on a silent node, where nodes are not watched.

    A kubelet that answers ends a pod within its grace period.
    """
    last = situation.last
    if situation.view.nodes is not None or last is None or last.end_time is None:
        return None
    resolved = build.parse_resolved(last.resolved)
    grace = build.grace_seconds(situation.spec, resolved) if resolved else None
    patience = (grace or 0) + situation.view.defaults.node_not_ready_seconds
    return last.end_time + timedelta(seconds=patience)


def pods_of(count: int) -> str:
    return "1 pod" if count == 1 else f"{count} pods"


def describe(members: Iterable[Member]) -> str:
    """Return e.g. `2 pods of attempt 1`."""
    pods = list(members)
    numbers = ", ".join(str(each) for each in sorted({member.attempt for member in pods}))
    return f"{pods_of(len(pods))} of attempt {numbers}"
