"""What plans read: plain frozen values, made from API objects by `observe`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, NamedTuple

from lepton_operator import names
from lepton_operator.api.autoscaling import AutoscalingStatus
from lepton_operator.api.inference import InferenceService
from lepton_operator.api.model import LeptonModel
from lepton_operator.api.training import Progress, RankRestart, TrainingJob
from lepton_operator.conditions import Extra
from lepton_operator.plan import Reference
from lepton_operator.settings import Defaults, Settings


@dataclass(frozen=True, slots=True)
class ContainerView:
    """A container's status. `reason` and `message` are those of its present state."""

    name: str
    state: Literal["waiting", "running", "terminated"]
    ready: bool = False
    restarts: int = 0
    exit_code: int | None = None
    signal: int | None = None
    reason: str = ""
    message: str = ""
    image_id: str = ""
    started: datetime | None = None
    finished: datetime | None = None
    last_exit_code: int | None = None  # of the run before this one
    last_reason: str = ""
    last_message: str = ""
    last_finished: datetime | None = None


class Taint(NamedTuple):
    """A taint of a node that keeps pods away, or drives them out."""

    key: str
    value: str
    effect: str  # NoSchedule, NoExecute


class Toleration(NamedTuple):
    """What a pod puts up with; an empty key is every key, an empty effect every effect."""

    key: str
    operator: str
    value: str
    effect: str

    def covers(self, taint: Taint) -> bool:
        """Tell whether a pod with this toleration may be on a node with this taint."""
        if self.effect and self.effect != taint.effect:
            return False
        if self.operator == "Exists":
            return self.key in ("", taint.key)
        return self.key == taint.key and self.value == taint.value


class NodeFault(NamedTuple):
    """A condition of a node, other than Ready, by which somebody says that it is broken."""

    type: str  # e.g. XidError, or AcceleratedHardwareReady where that is False
    message: str
    since: datetime


class Fault(NamedTuple):
    """What a pod does with the requests that the doors send it, since when; `ejected`: the doors
    leave it out for a while each time, which they never do with more than half of the pods.
    """

    since: datetime
    what: str
    ejected: bool = False

    def joined(self, other: Fault | None) -> Fault:
        """Return what two doors say of one pod."""
        if other is None:
            return self
        first = min(self, other)
        return first._replace(ejected=self.ejected or other.ejected)


class Fetched(NamedTuple):
    """How far a serving pod is with its model."""

    done_bytes: int
    total_bytes: int


@dataclass(frozen=True, slots=True)
class PodView:
    """A pod. `gone`: its deletion was seen, and this is its last body, kept as a tombstone."""

    name: str
    namespace: str
    uid: str
    phase: str  # Pending, Running, Succeeded, Failed, Unknown
    created: datetime
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    owner_uid: str | None = None
    deleting: bool = False
    deleted_by_eviction: bool = False  # condition DisruptionTarget, or reason Evicted
    disruption: str = ""  # the reason of that condition, e.g. PreemptionByScheduler
    gone: bool = False
    leaves_by: datetime | None = None  # of one that was asked to leave: when it is killed
    node: str | None = None
    ip: str | None = None
    ready: bool = False
    ready_since: datetime | None = None
    unready_since: datetime | None = None
    scheduled: bool = False
    scheduled_since: datetime | None = None
    sandbox_since: datetime | None = None  # its volumes and its network are there
    unschedulable_message: str = ""  # the scheduler's own sentence
    reason: str = ""  # status.reason, e.g. Evicted
    message: str = ""
    containers: tuple[ContainerView, ...] = ()
    init_containers: tuple[ContainerView, ...] = ()
    tolerations: tuple[Toleration, ...] = ()
    # What a serving pod is said to do: by the doors, and by itself.
    fault: Fault | None = None
    fetched: Fetched | None = None

    @property
    def answers(self) -> bool:
        """Whether requests that are sent to it are served."""
        return self.ready and self.fault is None

    @property
    def reference(self) -> Reference:
        return Reference("Pod", self.namespace, self.name, self.uid)

    @property
    def finished(self) -> bool:
        return self.phase in ("Succeeded", "Failed")

    @property
    def stays_ready(self) -> bool:
        """Whether it is ready, and not about to go."""
        return self.ready and not (self.deleting or self.gone)

    def container(self, name: str) -> ContainerView | None:
        """Return the container or init container of this name."""
        every = (*self.containers, *self.init_containers)
        return next((each for each in every if each.name == name), None)


class ServicePort(NamedTuple):
    """A port of a Kubernetes Service; a target may be the name of a container's port."""

    name: str
    port: int
    target: int | str


@dataclass(frozen=True, slots=True)
class ServiceView:
    """A Kubernetes Service among our children."""

    name: str
    namespace: str
    uid: str
    owner_uid: str | None
    created: datetime
    selector: Mapping[str, str] = field(default_factory=dict)
    ports: tuple[ServicePort, ...] = ()
    announced_port: int | None = None  # where it is to lead, once a door listens there

    @property
    def reference(self) -> Reference:
        return Reference("Service", self.namespace, self.name, self.uid)

    @property
    def door_port(self) -> int | None:
        """The door's port that is its own: all of its ports lead there, or are to; else None."""
        return self._target if self._target is not None else self.announced_port

    @property
    def leads_past_doors(self) -> bool:
        """Whether it leads to serving pods themselves, as Services did before there were doors."""
        return self.selector.get(names.KIND) == "InferenceService" and self._target is None

    @property
    def _target(self) -> int | None:
        targets = {each.target for each in self.ports}
        found = targets.pop() if len(targets) == 1 else None
        return found if isinstance(found, int) and found in names.DOOR_PORTS else None


@dataclass(frozen=True, slots=True)
class ObjectView:
    """Another child of ours; `spec` is kept where it is small."""

    kind: str  # Deployment, PodDisruptionBudget, NetworkPolicy
    name: str
    namespace: str
    uid: str
    owner_uid: str | None
    annotations: Mapping[str, str] = field(default_factory=dict)
    spec: Mapping[str, Any] = field(default_factory=dict)

    @property
    def reference(self) -> Reference:
        return Reference(self.kind, self.namespace, self.name, self.uid)


@dataclass(frozen=True, slots=True)
class ScalerView:
    """A HorizontalPodAutoscaler, KEDA's included, and the object that it scales."""

    name: str
    namespace: str
    uid: str
    kind: str  # of its target
    target: str


# Node autoscalers put them on a node that they are about to remove, before they evict its pods.
_REMOVAL_TAINTS = frozenset({"ToBeDeletedByClusterAutoscaler", "karpenter.sh/disrupted"})


@dataclass(frozen=True, slots=True)
class NodeView:
    """A node, trimmed to what decisions need."""

    name: str
    ready: bool
    ready_changed: datetime | None = None  # when `ready` last changed
    gpus: int = 0  # allocatable
    free_gpus: int | None = None  # known only while some pod of ours finds no room
    schedulable: bool = True
    taints: tuple[Taint, ...] = ()
    faults: tuple[NodeFault, ...] = ()
    replaceable: bool = False  # made by Karpenter, which gives up on pods that rule nodes out

    @property
    def is_being_emptied(self) -> bool:
        """Whether somebody has cordoned this node, or is about to remove it."""
        return not self.schedulable or any(each.key in _REMOVAL_TAINTS for each in self.taints)


class Loss(NamedTuple):
    """A pod of a gang that the launchers of the others do not hear any more; their ranks ended."""

    node_rank: int
    message: str
    since: datetime


@dataclass(frozen=True, slots=True)
class InPlace:
    """What the launchers of an attempt did themselves, and how far its ranks came.

    `restarts` is how many of them count against a budget, `last` the last ones of all; `saved`
    tells whether a script that tells no steps completed a file in its checkpoint place.
    """

    restarts: int = 0
    resumed_from: int | None = None
    furthest: int | None = None
    saved: bool = False
    last: tuple[RankRestart, ...] = ()


@dataclass(frozen=True, slots=True)
class Earlier:
    """Where the time of an earlier attempt went: the pod was kept, and left no record of it."""

    attempt: int
    seconds: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Told:
    """What rank 0's sidecar told last, all but `earlier` about the attempt that `progress` names.

    `loss`: its launcher waits for another attempt, because the gang lost that node.
    """

    progress: Progress
    in_place: InPlace = InPlace()
    loss: Loss | None = None
    earlier: tuple[Earlier, ...] = ()


@dataclass(frozen=True, slots=True)
class TrainingView:
    """What a TrainingJob's plan reads. `nodes` is None where nodes are not watched.

    `refusals` are the API server's sentences about creations that it refused in the pass before
    (a quota, a policy, a stranger's object of that name). `told` is what rank 0 told last.
    """

    job: TrainingJob
    defaults: Defaults
    pods: tuple[PodView, ...] = ()
    model: LeptonModel | None = None
    nodes: tuple[NodeView, ...] | None = None
    refusals: tuple[Refusal, ...] = ()
    told: Told | None = None


class VersionUse(NamedTuple):
    """A version that a service uses: its spec names it (`pinned`), or its status has pods of it."""

    version: int
    pinned: bool


@dataclass(frozen=True, slots=True)
class ModelView:
    """What a LeptonModel's plan reads: `jobs` name it in output.model, services have `uses`.

    Of a thousand services no more is read than which versions they use: every one of them would
    have to be looked at whenever one changes.
    """

    model: LeptonModel
    defaults: Defaults
    pods: tuple[PodView, ...] = ()
    jobs: tuple[TrainingJob, ...] = ()
    uses: frozenset[VersionUse] = frozenset()
    nodes: tuple[NodeView, ...] | None = None
    refusals: tuple[Refusal, ...] = ()


@dataclass(frozen=True, slots=True)
class DoorTold:
    """What a door told last: when it was asked, and its requests in flight by the pods' IPs."""

    asked: datetime
    in_flight: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ScalingView:
    """How the number of a service's replicas is chosen, for its status."""

    status: AutoscalingStatus
    conditions: tuple[Extra, ...] = ()


@dataclass(frozen=True, slots=True)
class InferenceView:
    """What an InferenceService's plan reads.

    `ports` are the door's ports in this namespace, each with the Service that it belongs to.
    `doors` are the pods of the namespace's door, `traffic` what they told, by their UIDs: they are
    asked only while some pod of the namespace drains. `listening` are the ports on which each door
    takes connections: told only while some Service of the namespace leads past the doors.
    `scaling` is None where nothing was decided yet, and where nothing is to be.
    """

    service: InferenceService
    defaults: Defaults
    pods: tuple[PodView, ...] = ()
    kubernetes_service: ServiceView | None = None
    budget: ObjectView | None = None
    ports: Mapping[int, ServiceView] = field(default_factory=dict)
    model: LeptonModel | None = None
    nodes: tuple[NodeView, ...] | None = None
    refusals: tuple[Refusal, ...] = ()
    doors: tuple[PodView, ...] = ()
    traffic: Mapping[str, DoorTold] = field(default_factory=dict)
    listening: Mapping[str, frozenset[int]] = field(default_factory=dict)
    scaling: ScalingView | None = None


@dataclass(frozen=True, slots=True)
class GatewayView:
    """What the plan of a namespace's door reads: whether it is needed, and what there is of it.

    `bypassed`: some Service of the namespace still leads to serving pods themselves.
    """

    namespace: str
    needed: bool
    settings: Settings
    objects: tuple[ObjectView, ...] = ()
    pods: tuple[PodView, ...] = ()
    refusals: tuple[Refusal, ...] = ()
    bypassed: bool = False


@dataclass(frozen=True, slots=True)
class Refusal:
    """A creation that the API server refused: `reason` is QuotaExceeded, NameTaken or Refused."""

    name: str
    reason: Literal["QuotaExceeded", "NameTaken", "Refused"]
    message: str

    @property
    def sentence(self) -> str:
        """Return what was refused, and what to do."""
        said = self.message.rstrip(". ")
        if self.reason == "NameTaken":
            return f"{said}. It is tried again."
        what_next = {
            "QuotaExceeded": "Free some of that quota, or ask for more of it",
            "Refused": "Mend what it names",
        }
        advice = what_next[self.reason]
        return f"The API server refuses {self.name}: {said}. {advice}; it is tried again."
