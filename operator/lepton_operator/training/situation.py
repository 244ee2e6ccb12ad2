"""What a view means for a TrainingJob: which attempt is open, and which pods are whose."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from lepton_operator import names
from lepton_operator.api.training import (
    Attempt,
    RankRestart,
    TrainingJob,
    TrainingJobSpec,
    TrainingJobStatus,
)
from lepton_operator.build import training as build
from lepton_operator.diagnosis import Asked, gpus_asked
from lepton_operator.views import ContainerView, NodeView, PodView, TrainingView


@dataclass(frozen=True, slots=True)
class Member:
    """A pod of a gang: its rank, and the attempt that it was told of last."""

    attempt: int
    rank: int
    pod: PodView


@dataclass(frozen=True, slots=True)
class Gang:
    """The open attempt. `pods` holds tombstones too, by rank; a rank may have none.

    Pods of earlier attempts that keep their place are in it before they are told.

    `recorded` is False for an attempt whose pods were made but which no status tells of yet.
    """

    attempt: Attempt
    recorded: bool
    pods: Mapping[int, PodView]
    resolved: build.Resolved

    @property
    def number(self) -> int:
        return self.attempt.number


@dataclass(frozen=True, slots=True)
class Situation:
    """A view, sorted. `others` are the pods that still exist of attempts that are closed."""

    view: TrainingView
    now: datetime
    gang: Gang | None
    others: tuple[Member, ...]
    nodes: Mapping[str, NodeView]

    @property
    def job(self) -> TrainingJob:
        return self.view.job

    @property
    def spec(self) -> TrainingJobSpec:
        return self.job.spec

    @property
    def status(self) -> TrainingJobStatus:
        return self.job.status

    @property
    def last(self) -> Attempt | None:
        """Return the newest attempt that the status tells of."""
        return self.status.attempts[-1] if self.status.attempts else None

    @property
    def previous(self) -> Attempt | None:
        """Return the newest attempt that the status tells of beside the open one."""
        number = self.gang.number if self.gang else None
        closed = [each for each in self.status.attempts if each.number != number]
        return closed[-1] if closed else None

    @property
    def ranks(self) -> range:
        """Return the node ranks: one for each pod."""
        return range(self.spec.num_nodes)

    def node(self, pod: PodView) -> NodeView | None:
        """Return the pod's node; None if it has none, or nodes are not watched."""
        return self.nodes.get(pod.node) if pod.node else None

    def asked(self, resolved: build.Resolved) -> Asked:
        """Return what each pod asks for, beside the nodes there are."""
        gpus = gpus_asked(build.resources(self.spec, resolved), resolved.gpu_resource)
        return Asked(gpus, resolved.gpu_resource, self.view.nodes)


def understand(view: TrainingView, now: datetime) -> Situation:
    """Sort a view: the open attempt with its pods, and what is left of others."""
    members = _members(view)
    attempt = _open_attempt(view.job.status, members)
    ours = _members_of(attempt, members, view.job.spec) if attempt else []
    taken = {each.pod.uid for each in ours}
    others = tuple(each for each in members if each.pod.uid not in taken and not each.pod.gone)
    gang = _gang(view, attempt, ours) if attempt else None
    return Situation(view, now, gang, others, {each.name: each for each in view.nodes or ()})


def _members(view: TrainingView) -> list[Member]:
    uid, name = view.job.metadata.uid, view.job.metadata.name
    ours = [pod for pod in view.pods if pod.owner_uid == uid]
    found = [(pod, names.parse_training_pod(name, pod.name)) for pod in ours]
    return sorted(
        (_member(*numbers, pod) for pod, numbers in found if numbers),
        key=lambda member: (member.attempt, member.rank, not member.pod.gone),
    )


def _member(made_for: int, rank: int, pod: PodView) -> Member:
    told = build.followed_attempt(pod.annotations.get(names.ATTEMPT), rank)
    return Member(max(made_for, told or made_for), rank, pod)


def _members_of(attempt: Attempt, members: Sequence[Member], spec: TrainingJobSpec) -> list[Member]:
    """Return the pods of an open attempt, and those that keep their place in it.

    These are what is left of earlier attempts: what was not to be kept was deleted before.
    """
    ours = [each for each in members if each.attempt == attempt.number]
    taken = {each.rank for each in ours}
    earlier = {
        each.rank: each
        for each in members
        if each.attempt < attempt.number and not (each.pod.gone or each.pod.deleting)
    }
    vacant = [each for rank, each in earlier.items() if rank not in taken]
    return [*ours, *(each for each in vacant if each.rank < spec.num_nodes)]


def _open_attempt(status: TrainingJobStatus, members: Sequence[Member]) -> Attempt | None:
    last = status.attempts[-1] if status.attempts else None
    newest = max((each.attempt for each in members), default=0)
    if last is not None and last.number >= newest:
        return last if last.outcome == "Running" else None
    if not newest:
        return None
    # Pods that no status tells of: the operator ended in between, or the status was wiped.
    created = min(each.pod.created for each in members if each.attempt == newest)
    return Attempt(number=newest, start_time=created)


def _gang(view: TrainingView, attempt: Attempt, members: Collection[Member]) -> Gang:
    pods = {each.rank: each.pod for each in members}  # of two with one name, the one that exists
    gang = Gang(
        attempt=attempt,
        recorded=any(each.number == attempt.number for each in view.job.status.attempts),
        pods=pods,
        resolved=_resolved(view, attempt, pods.values()),
    )
    return replace(gang, attempt=_with_told(view, gang))


def _with_told(view: TrainingView, gang: Gang) -> Attempt:
    """Return the open attempt with what its launchers did: a pod that is lost tells nothing more.

    Never less than the status has: the pod of rank 0 may be asked for the first time again.
    """
    attempt, told = gang.attempt, view.told
    if told is None or told.progress.attempt != attempt.number:
        return attempt
    found = told.in_place
    return attempt.model_copy(
        update={
            "restarts": max(attempt.restarts or 0, found.restarts) or None,
            "resumed_from": attempt.resumed_from
            if found.resumed_from is None
            else found.resumed_from,
            "furthest_step": highest((attempt.furthest_step, found.furthest)),
            "saved": attempt.saved or found.saved or None,
            "last_restarts": tuple(_placed(view, gang, each) for each in found.last)
            or attempt.last_restarts,
        }
    )


def _placed(view: TrainingView, gang: Gang, restart: RankRestart) -> RankRestart:
    """Return a restart with the node of the pod whose rank failed."""
    if restart.rank is None:
        return restart
    pod = gang.pods.get(restart.rank // build.ranks_per_pod(view.job.spec, gang.resolved))
    return restart.model_copy(update={"node": pod.node if pod else None})


def highest(numbers: Iterable[int | None]) -> int | None:
    """Return the largest of those that are known."""
    return max((each for each in numbers if each is not None), default=None)


def _resolved(view: TrainingView, attempt: Attempt, pods: Collection[PodView]) -> build.Resolved:
    oldest = sorted(pods, key=lambda pod: (pod.created, pod.name))
    recorded = [attempt.resolved, *(pod.annotations.get(names.RESOLVED) for pod in oldest)]
    found = (build.parse_resolved(text) for text in recorded)
    known = next((each for each in found if each is not None), None)
    return known or build.resolve(view.job.spec, view.defaults)


def training_container(pod: PodView) -> ContainerView | None:
    return pod.container(build.TRAIN)


def ended_well(pod: PodView) -> bool:
    """Judge by our container: the sidecar may still be leaving, and the phase be Running."""
    container = training_container(pod)
    if container is not None and container.state == "terminated":
        return container.exit_code == 0
    return pod.phase == "Succeeded"


def has_ended(pod: PodView) -> bool:
    container = training_container(pod)
    return pod.finished or (container is not None and container.state == "terminated")


def runs(pod: PodView) -> bool:
    """Tell whether the ranks run; a fake node's pod may say so by its phase alone."""
    container = training_container(pod)
    return pod.phase == "Running" and (container is None or container.state == "running")
