"""What is known of a pod that has not ended well, and how its failure is told."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from lepton_operator import names, records
from lepton_operator.api.training import Budget, Cause
from lepton_operator.build import training as build
from lepton_operator.training.causes import TRAITS, Trait
from lepton_operator.training.situation import (
    Gang,
    Situation,
    has_ended,
    highest,
    training_container,
)
from lepton_operator.views import ContainerView, Loss, NodeView, PodView

SIGNAL_EXIT_CODE = 128  # what a shell adds to a signal's number
MAX_SIGNAL = 64
# Launchers miss each other after 10 s.
HEARD_WITHIN = timedelta(seconds=15)
# Rank 0 is asked each 30 s, and may be asked in vain once.
PROGRESS_HOLDS = timedelta(seconds=75)


@dataclass(frozen=True, slots=True)
class Failure:
    """How one pod of the gang failed. `absent`: nothing is left of it to see.

    `rank` is the global rank that failed first, `index` the pod's own; `step` the last that all
    its ranks had reached, be it only counted by torch; `furthest` the last that they reported
    themselves or saved; `matched` what the pod found in its own log; `began` when what is no end
    of a container came about.
    """

    cause: Cause
    message: str
    pod: str
    index: int
    node: str | None = None
    rank: int | None = None
    exit_code: int | None = None
    signal: int | None = None
    step: int | None = None
    resumed_from: int | None = None
    furthest: int | None = None
    last_error_line: str | None = None
    stacks: str | None = None
    finished: datetime | None = None
    began: datetime | None = None
    absent: bool = False
    matched: frozenset[str] = frozenset()

    @property
    def trait(self) -> Trait:
        return TRAITS[self.cause]

    @property
    def budget(self) -> Budget | None:
        """Return the budget that a restart after this counts against."""
        return self.trait.budget


@dataclass(frozen=True, slots=True)
class Suspect:
    """A pod of the open attempt that has not ended well."""

    situation: Situation
    gang: Gang
    index: int
    pod: PodView

    @property
    def only_rank(self) -> int | None:
        """Return the global rank, where a pod has but one."""
        return self.index if self._ranks_per_pod == 1 else None

    @property
    def _ranks_per_pod(self) -> int:
        return build.ranks_per_pod(self.situation.spec, self.gang.resolved)

    @property
    def where(self) -> str:
        return f"pod {self.pod.name}" + (f" on node {self.pod.node}" if self.pod.node else "")

    @property
    def node(self) -> NodeView | None:
        return self.situation.node(self.pod)

    @property
    def failed_container(self) -> ContainerView | None:
        """Return our container if it ended badly."""
        container = training_container(self.pod)
        ended = container is not None and container.state == "terminated"
        return container if container is not None and ended and container.exit_code else None

    @property
    def record(self) -> records.Record | None:
        """Return what the launcher left; None where that is nothing readable."""
        return _record_in(self.gang, self.pod)

    def said(self, sign: records.Sign) -> bool:
        """Tell whether the pod found this sign in its own log."""
        return self.record is not None and sign in self.record.matched

    @property
    def silent_until(self) -> datetime | None:
        """Return when its node, which does not answer, will have been silent for too long."""
        return silent_until(self.situation, self.pod)

    def failure(self, cause: Cause, message: str) -> Failure:
        """Return the failure of a pod that did not end by itself."""
        return Failure(
            cause=cause,
            message=message,
            pod=self.pod.name,
            index=self.index,
            node=self.pod.node,
            rank=self.only_rank,
        )

    def end(self, cause: Cause, container: ContainerView, why: str) -> Failure:
        """Return the failure of a pod whose container ended: who, how, and why."""
        record = self.record or records.Record(outcome="Failed")
        rank = record.rank if self._owns(record.rank) else self.only_rank
        number = _signal_of(container, record)
        who = f"Rank {rank}, {self.where}," if rank is not None else f"The {self.where}"
        return Failure(
            cause=cause,
            message=f"{who} {_how(container, number)}: {why}",
            pod=self.pod.name,
            index=self.index,
            node=self.pod.node,
            rank=rank,
            exit_code=container.exit_code,
            signal=number,
            step=record.step,
            resumed_from=record.resumed_from,
            furthest=record.furthest,
            last_error_line=record.message or None,
            stacks=record.stacks,
            finished=container.finished,
            matched=frozenset(record.matched),
        )

    def _owns(self, global_rank: int | None) -> bool:
        """Tell whether a global rank is one of this pod's."""
        return global_rank is not None and global_rank // self._ranks_per_pod == self.index


def record_of(pod: PodView) -> records.Record | None:
    container = training_container(pod)
    return records.parse(container.message) if container and container.message else None


_OF_ITS_ATTEMPT = dict.fromkeys(
    ("step", "resumed_from", "furthest", "restarts", "stacks", "silent_node")
)


def _record_in(gang: Gang, pod: PodView) -> records.Record | None:
    """Return what a pod left, without what it tells of an attempt that was closed before.

    One that keeps its place may end while it waits for this one: how it lost the other is no cause
    of that. Its record names an attempt where that is not the one that the pod was made for.
    """
    record = record_of(pod)
    if record is None or (record.attempt or names.made_for(pod.name)) == gang.number:
        return record
    told = {**_OF_ITS_ATTEMPT, "repeated": False, "saved": False, "matched": ()}
    if record.outcome == "Failed":
        told["reason"] = records.Reason.TERMINATED
    return record.model_copy(update=told)


@dataclass(frozen=True, slots=True)
class Steps:
    """How far a gang came, by what its pods say.

    Ranks run in step, so what one pod says holds for a peer that left no record.
    """

    reached: int | None
    resumed_from: int | None
    furthest: int | None


@dataclass(frozen=True, slots=True)
class InPlace:
    """What the launchers did about failures themselves: every pod tells of the whole gang.

    `repeated`: they left the last one to the operator because the same had come before. `saved`: a
    script that tells no steps completed a file in its checkpoint place.
    """

    restarts: int
    repeated: bool
    saved: bool


def in_place(gang: Gang) -> InPlace:
    """Return it by the records, and by what was told while the ranks ran."""
    found = list(_records(gang))
    return InPlace(
        restarts=highest((gang.attempt.restarts, *(each.restarts for each in found))) or 0,
        repeated=any(each.repeated for each in found),
        saved=bool(gang.attempt.saved) or any(each.saved for each in found),
    )


def steps(gang: Gang) -> Steps:
    found, told = list(_records(gang)), gang.attempt
    resumed_from = highest(each.resumed_from for each in found)
    return Steps(
        reached=highest(each.step for each in found),
        resumed_from=told.resumed_from if resumed_from is None else resumed_from,
        furthest=highest((told.furthest_step, *(each.furthest for each in found))),
    )


def left(gang: Gang) -> records.Record | None:
    """Return what a pod says whose ranks saved and left, as they were asked to."""
    return next((each for each in _records(gang) if each.reason is records.Reason.SAVED), None)


def running_since(gang: Gang) -> datetime | None:
    """Return when the last of the pods that are left started its ranks; None if one never did.

    By what the pods say, not by what a pass happened to see: an attempt may be short. One that
    was kept may have started them before it.
    """
    containers = [training_container(pod) for pod in gang.pods.values()]
    started = [each.started if each is not None else None for each in containers]
    known = [each for each in started if each is not None]
    whole = known and len(known) == len(started)
    return max(*known, gang.attempt.start_time) if whole else None


def _records(gang: Gang) -> Iterator[records.Record]:
    for pod in gang.pods.values():
        record = _record_in(gang, pod)
        if record is not None:
            yield record


def silent_until(situation: Situation, pod: PodView) -> datetime | None:
    """Return when its node will have been silent for too long; later if its ranks go on."""
    node = situation.node(pod)
    if node is None or node.ready:
        return None
    since = node.ready_changed or situation.now
    patience = timedelta(seconds=situation.view.defaults.node_not_ready_seconds)
    return max(since + patience, _gone_on_until(situation, since) or since)


def _gone_on_until(situation: Situation, silent_since: datetime) -> datetime | None:
    """Return until when it may be taken that the ranks go on, though a kubelet says nothing.

    Rank 0 tells how far it is only while its launcher hears those of all others.
    """
    gang, told = situation.gang, situation.view.told
    if gang is None or loss_in(situation) is not None:
        return None
    both = (told.progress if told else None, situation.status.progress)
    times = [each.time for each in both if each is not None and each.attempt == gang.number]
    known = [each for each in times if each >= silent_since + HEARD_WITHIN]
    return max(known) + PROGRESS_HOLDS if known else None


def loss_in(situation: Situation) -> Loss | None:
    """Return whom the launchers of the open attempt lost, if they did, and it has not ended."""
    gang, told = situation.gang, situation.view.told
    if gang is None or told is None or told.loss is None:
        return None
    pod = gang.pods.get(told.loss.node_rank)
    is_ours = told.progress.attempt == gang.number and pod is not None and not has_ended(pod)
    return told.loss if is_ours else None


def _signal_of(container: ContainerView, record: records.Record) -> int | None:
    if container.signal or record.signal:
        return container.signal or record.signal
    number = (container.exit_code or 0) - SIGNAL_EXIT_CODE
    return number if 0 < number <= MAX_SIGNAL else None


def _how(container: ContainerView, number: int | None) -> str:
    if number is None:
        return f"exited {container.exit_code}"
    return f"was ended by {signal_name(number)}"


def signal_name(number: int) -> str:
    """Return e.g. SIGKILL, or the bare number where it has no name."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
