"""Why an attempt failed: how each pod ended or vanished, and which of several ends is the cause.

The outcome is read from our container's status. A pod that is gone, or is being deleted though its
record still stands open, was lost: we never delete a pod of an open attempt.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import IntEnum, StrEnum
from typing import Literal

from lepton_operator import records
from lepton_operator.build import training as build
from lepton_operator.training.situation import (
    Gang,
    Situation,
    ended_well,
    has_ended,
    training_container,
)
from lepton_operator.views import ContainerView, PodView

OUT_OF_MEMORY = "OOMKilled"
STORE_EXIT_CODE = 3  # of agent commands: NoStore or StoreUnavailable
# Reasons of a container whose command was never run; the runtime's own words are its message.
_NOT_STARTED = frozenset({"StartError", "ContainerCannotRun"})
SIGNAL_EXIT_CODE = 128  # what a shell adds to a signal's number
MAX_SIGNAL = 64

Budget = Literal["User", "Infrastructure"]


class Cause(StrEnum):
    """Every reason of a failed attempt."""

    USER_ERROR = "UserError"
    OUT_OF_MEMORY = "OutOfMemory"
    NO_MODEL = "NoModel"
    INVALID_MODEL = "InvalidModel"
    NO_RECORD = "NoRecord"
    POD_LOST = "PodLost"
    EVICTED = "Evicted"
    NODE_NOT_READY = "NodeNotReady"
    PREPARATION_FAILED = "PreparationFailed"
    NO_STORE = "NoStore"
    STORE_UNAVAILABLE = "StoreUnavailable"


# Starting again would give the same.
FINAL = frozenset({Cause.NO_MODEL, Cause.INVALID_MODEL})
STORE = frozenset({Cause.NO_STORE, Cause.STORE_UNAVAILABLE})
_USER = FINAL | {Cause.USER_ERROR, Cause.OUT_OF_MEMORY, Cause.NO_RECORD}

_RECORDED_CAUSES = {
    records.Reason.NO_MODEL: Cause.NO_MODEL,
    records.Reason.INVALID_MODEL: Cause.INVALID_MODEL,
}


class _Weight(IntEnum):
    """Which of several failures seen at once is the cause: the lowest weight, then the earliest.

    Ranks whose peer was lost end by themselves, with broken connections; so a loss outranks them.
    A result that rank 0 has left and that is no model stays one, whatever happens to its peers.
    """

    RESULT = 0
    LOSS = 1
    PREPARATION = 2
    END = 3


@dataclass(frozen=True, slots=True)
class Failure:
    """How one pod of the gang failed. `absent`: nothing is left of it to see."""

    cause: Cause
    message: str
    pod: str
    node: str | None = None
    rank: int | None = None
    exit_code: int | None = None
    signal: int | None = None
    last_error_line: str | None = None
    finished: datetime | None = None
    absent: bool = False

    @property
    def budget(self) -> Budget | None:
        """Return the budget that a restart after this counts against."""
        if self.cause in STORE:
            return None
        return "User" if self.cause in _USER else "Infrastructure"

    @property
    def weight(self) -> _Weight:
        if self.cause in FINAL:
            return _Weight.RESULT
        if self.cause in STORE or self.cause is Cause.PREPARATION_FAILED:
            return _Weight.PREPARATION
        return _Weight.END if self.cause in _USER else _Weight.LOSS


@dataclass(frozen=True, slots=True)
class _Suspect:
    """A pod of the open attempt that has not ended well."""

    situation: Situation
    gang: Gang
    rank: int
    pod: PodView

    @property
    def only_rank(self) -> int | None:
        """Return the global rank, where a pod has but one."""
        return self.rank if self._ranks_per_pod == 1 else None

    @property
    def _ranks_per_pod(self) -> int:
        return build.ranks_per_pod(self.situation.spec, self.gang.resolved)

    @property
    def where(self) -> str:
        return f"pod {self.pod.name}" + (f" on node {self.pod.node}" if self.pod.node else "")

    def owns(self, global_rank: int | None) -> bool:
        """Tell whether a global rank is one of this pod's."""
        return global_rank is not None and global_rank // self._ranks_per_pod == self.rank

    def failure(
        self,
        cause: Cause,
        message: str,
        *,
        rank: int | None = None,
        exit_code: int | None = None,
        number: int | None = None,
        last_error_line: str | None = None,
        finished: datetime | None = None,
    ) -> Failure:
        return Failure(
            cause=cause,
            message=message,
            pod=self.pod.name,
            node=self.pod.node,
            rank=self.only_rank if rank is None else rank,
            exit_code=exit_code,
            signal=number,
            last_error_line=last_error_line or None,
            finished=finished,
        )


def cause(situation: Situation) -> Failure | None:
    """Return the failure that the open attempt is closed for, if it failed."""
    if situation.gang is None:
        return None
    found = _failures(situation, situation.gang)
    return min(found, key=lambda each: (each.weight, each.finished or situation.now), default=None)


def silence_due(situation: Situation) -> datetime | None:
    """Return when the next silent node of the open attempt will have been silent too long."""
    pods = situation.gang.pods.values() if situation.gang else ()
    ends = (_silent_until(situation, pod) for pod in pods if not has_ended(pod))
    return min((each for each in ends if each is not None), default=None)


def _failures(situation: Situation, gang: Gang) -> Iterator[Failure]:
    for rank in situation.ranks:
        pod = gang.pods.get(rank)
        if pod is None:
            if gang.recorded and not situation.view.refusals:
                yield _absent(situation, gang, rank)
            continue
        suspect = _Suspect(situation, gang, rank, pod)
        found = (rule(suspect) for rule in RULES)
        failure = next((each for each in found if each is not None), None)
        if failure is not None:
            yield failure


def _absent(situation: Situation, gang: Gang, rank: int) -> Failure:
    name = build.pod_name(situation.job, gang.number, rank)
    message = f"Pod {name} is gone, and left nothing to tell why."
    return Failure(Cause.POD_LOST, message, pod=name, absent=True)


def _left_no_record(suspect: _Suspect) -> Failure | None:
    """Rank 0 ended well, but says nothing of the version that its result became."""
    awaited = suspect.situation.spec.output is not None and suspect.rank == 0
    if not awaited or not ended_well(suspect.pod) or _record_of(suspect).model is not None:
        return None
    message = (
        f"The {suspect.where} exited 0 but left no readable record of its model version, which "
        "is looked for in the store when the next attempt starts."
    )
    return suspect.failure(Cause.NO_RECORD, message, exit_code=0)


def _was_evicted(suspect: _Suspect) -> Failure | None:
    pod = suspect.pod
    if ended_well(pod) or not (pod.deleted_by_eviction or pod.reason == "Evicted"):
        return None
    why = f": {pod.message}" if pod.message else ""
    return suspect.failure(Cause.EVICTED, f"The {suspect.where} was evicted or preempted{why}.")


def _was_lost(suspect: _Suspect) -> Failure | None:
    pod = suspect.pod
    if ended_well(pod) or not (pod.gone or pod.deleting):
        return None
    how = "is gone" if pod.gone else "is being deleted"
    return suspect.failure(
        Cause.POD_LOST, f"The {suspect.where} {how}, and not because its ranks failed."
    )


def _was_given_up(suspect: _Suspect) -> Failure | None:
    """The kubelet, or the node's shutdown, ended the pod, and says so in the pod's own reason."""
    pod = suspect.pod
    if pod.phase != "Failed" or not pod.reason:
        return None
    said = pod.message or pod.reason
    return suspect.failure(Cause.POD_LOST, f"The {suspect.where} was ended by its node: {said}")


def _was_not_prepared(suspect: _Suspect) -> Failure | None:
    container = suspect.pod.container(build.PREPARE)
    if container is None or container.state != "terminated" or not container.exit_code:
        return None
    record = records.parse(container.message)
    said = record.message if record else ""
    if container.exit_code == STORE_EXIT_CODE:
        unavailable = record is not None and record.reason is records.Reason.STORE_UNAVAILABLE
        cause = Cause.STORE_UNAVAILABLE if unavailable else Cause.NO_STORE
        return suspect.failure(cause, said or _no_store(suspect.situation))
    return suspect.failure(
        Cause.PREPARATION_FAILED,
        f"The init container of {suspect.where} exited {container.exit_code}: "
        f"{said or 'it left no message'}",
        exit_code=container.exit_code,
    )


def _no_store(situation: Situation) -> str:
    return (
        f"There is no usable Secret lepton-store in namespace {situation.job.metadata.namespace}: "
        "ask who runs the platform for one, or leave out output."
    )


def _ended_badly(suspect: _Suspect) -> Failure | None:
    container = training_container(suspect.pod)
    if container is None or container.state != "terminated" or not container.exit_code:
        return None
    record = _record_of(suspect)
    claimed = record.rank if suspect.owns(record.rank) else None
    number = _signal_of(container, record)
    rank = suspect.only_rank if claimed is None else claimed
    who = f"Rank {rank}, {suspect.where}," if rank is not None else f"The {suspect.where}"
    return suspect.failure(
        _cause_of(suspect, container, record),
        f"{who} {_how(container, number)}: {_what(suspect, container, record)}",
        rank=claimed,
        exit_code=container.exit_code,
        number=number,
        last_error_line=record.message,
        finished=container.finished,
    )


def _ended_unexplained(suspect: _Suspect) -> Failure | None:
    if suspect.pod.phase != "Failed":
        return None
    return suspect.failure(
        Cause.POD_LOST, f"The {suspect.where} ended, and its container's status does not say how."
    )


def _node_is_silent(suspect: _Suspect) -> Failure | None:
    pod = suspect.pod
    until = None if has_ended(pod) else _silent_until(suspect.situation, pod)
    if until is None or until > suspect.situation.now:
        return None
    seconds = suspect.situation.view.defaults.node_not_ready_seconds
    return suspect.failure(
        Cause.NODE_NOT_READY,
        f"Node {pod.node} of pod {pod.name} has not been Ready for {seconds} s.",
    )


Rule = Callable[[_Suspect], Failure | None]

RULES: tuple[Rule, ...] = (
    _left_no_record,
    _was_evicted,
    _was_lost,
    _was_given_up,
    _was_not_prepared,
    _ended_badly,
    _ended_unexplained,
    _node_is_silent,
)


def _silent_until(situation: Situation, pod: PodView) -> datetime | None:
    node = situation.node(pod)
    if node is None or node.ready:
        return None
    patience = timedelta(seconds=situation.view.defaults.node_not_ready_seconds)
    return (node.ready_changed or situation.now) + patience


def _record_of(suspect: _Suspect) -> records.Record:
    """Return what the launcher left; where that is nothing readable, an empty record."""
    container = training_container(suspect.pod)
    found = records.parse(container.message) if container else None
    return found or records.Record(outcome="Failed")


def _cause_of(suspect: _Suspect, container: ContainerView, record: records.Record) -> Cause:
    if container.reason == OUT_OF_MEMORY:
        return Cause.OUT_OF_MEMORY
    # Only rank 0 of a job with an output can judge a model; its claim is a user's error at worst.
    if suspect.rank == 0 and suspect.situation.spec.output and record.reason:
        return _RECORDED_CAUSES.get(record.reason, Cause.USER_ERROR)
    return Cause.USER_ERROR


def _signal_of(container: ContainerView, record: records.Record) -> int | None:
    if container.signal or record.signal:
        return container.signal or record.signal
    number = (container.exit_code or 0) - SIGNAL_EXIT_CODE
    return number if 0 < number <= MAX_SIGNAL else None


def _how(container: ContainerView, number: int | None) -> str:
    if number is None:
        return f"exited {container.exit_code}"
    try:
        return f"was ended by {signal.Signals(number).name}"
    except ValueError:
        return f"was ended by signal {number}"


def _what(suspect: _Suspect, container: ContainerView, record: records.Record) -> str:
    if container.reason == OUT_OF_MEMORY:
        return "it used more memory than its limit; raise the memory in resourcesPerNode."
    if container.reason in _NOT_STARTED:
        return (
            f"its container could not be started: {container.message.removesuffix(': unknown')}. "
            "The image must have a python3 in its PATH, 3.9 or later, with torch"
        )
    return record.message or f"it left no message; see kubectl logs {suspect.pod.name}."
