"""InferenceService: NVIDIA Triton in GPU pods, for a version that passed its gate."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import ConfigDict, Field, StringConstraints, model_validator

from lepton_operator.api.autoscaling import Autoscaling, AutoscalingStatus
from lepton_operator.api.common import (
    MAX_NAME_LENGTH,
    MAX_VERSION,
    ApiModel,
    Digest,
    LabelKey,
    Metadata,
    ObjectName,
    PodSettings,
    Quantity,
    Resources,
    Rule,
    Status,
    StatusModel,
    Timestamp,
    cel_rules,
)

MAX_REPLICAS = 1000
MAX_BATCH_SIZE = 65_536
MAX_QUEUE_DELAY_MICROSECONDS = 10_000_000
MAX_INSTANCES = 64
MAX_PRIORITY_LEVELS = 10
MAX_BODY_BYTES = 1 << 30
KEPT_WAITING = 20
MAX_RECORDED_SPEC = 65_536

RevisionName = Annotated[str, StringConstraints(max_length=16)]

# Triton's own cache refuses to start with less than about a kilobyte.
MemorySize = Annotated[str, StringConstraints(pattern="^[1-9][0-9]{0,4}(Mi|Gi)$", max_length=7)]

_PREFERRED_FIT = Rule(
    "!has(self.maxBatchSize) || !has(self.preferredBatchSizes) || "
    "self.preferredBatchSizes.all(size, size <= self.maxBatchSize)",
    "batching: no size in preferredBatchSizes may be above maxBatchSize",
    lambda batching: (
        batching.max_batch_size is None
        or all(size <= batching.max_batch_size for size in batching.preferred_batch_sizes)
    ),
)


class ModelReference(ApiModel):
    """the model that is served"""

    name: ObjectName = Field(description="name of a LeptonModel in the same namespace.")
    version: Annotated[int, Field(ge=1, le=MAX_VERSION)] | None = Field(
        default=None,
        description="version is served as it is. Unset: the newest one that passed its gate.",
    )


class Rollout(ApiModel):
    """how pods are replaced"""

    strategy: Literal["Auto", "Surge", "Replace"] = Field(
        default="Auto",
        description="strategy: Surge makes a new pod ready before an old one goes, and waits for "
        "room as long as it takes; Replace lets an old pod go as soon as a new one waits for its "
        "room; Auto surges, and replaces where there is no room within surgeTimeoutSeconds.",
    )
    surge_timeout_seconds: Annotated[int, Field(ge=0, le=86_400)] = Field(
        default=120,
        description="surgeTimeoutSeconds is how long Auto waits for room on a node, which a "
        "cluster autoscaler may be making.",
    )
    drain_timeout_seconds: Annotated[int, Field(ge=0, le=86_400)] = Field(
        default=300,
        description="drainTimeoutSeconds is how long a pod that goes may finish the requests that "
        "it has; those left then are counted, told in an Event, and cut.",
    )
    restarted_at: Timestamp | None = Field(
        default=None,
        description="restartedAt: a new value replaces every pod, and lets them take the chart's "
        "present defaults.",
    )


class Disruption(ApiModel):
    """what others, who evict pods, may take"""

    max_unavailable: Annotated[int, Field(ge=0, le=MAX_REPLICAS)] | None = Field(
        default=None,
        description="maxUnavailable is how many pods evictions may take at once. Unset: none while "
        "another pod can be made ready elsewhere first, else one.",
    )
    safe_to_evict: bool = Field(
        default=True,
        description="safeToEvict: whether Cluster Autoscaler may remove a node under these pods. A "
        "change concerns the pods that are made after it.",
    )


class Spread(ApiModel):
    """how pods of one revision are spread over nodes"""

    topology_key: LabelKey = Field(
        default="kubernetes.io/hostname",
        description="topologyKey is the nodes' label whose values get equal numbers of pods.",
    )
    when_unsatisfiable: Literal["ScheduleAnyway", "DoNotSchedule"] = Field(
        default="ScheduleAnyway",
        description="whenUnsatisfiable: ScheduleAnyway prefers it, DoNotSchedule keeps a pod "
        "waiting for it.",
    )


class Batching(ApiModel):
    """how Triton puts requests together into batches, which a model with a free first dimension
    allows
    """

    max_batch_size: Annotated[int, Field(ge=1, le=MAX_BATCH_SIZE)] | None = Field(
        default=None,
        description="maxBatchSize of one computation, and of one request. Unset: the chart's, or "
        "the largest of preferredBatchSizes if that is more.",
    )
    preferred_batch_sizes: Annotated[
        tuple[Annotated[int, Field(ge=1, le=MAX_BATCH_SIZE)], ...], Field(max_length=16)
    ] = Field(
        default=(),
        description="preferredBatchSizes: a batch of one of these sizes is computed at once. "
        "Unset: only maxBatchSize is.",
    )
    max_queue_delay_microseconds: (
        Annotated[int, Field(ge=0, le=MAX_QUEUE_DELAY_MICROSECONDS)] | None
    ) = Field(
        default=None,
        description="maxQueueDelayMicroseconds that a request waits for others. Unset: a batch is "
        "what waits when an instance becomes free.",
    )

    model_config = ApiModel.model_config | ConfigDict(json_schema_extra=cel_rules(_PREFERRED_FIT))

    @model_validator(mode="after")
    def _keep_the_rules(self) -> Self:
        _PREFERRED_FIT.check(self)
        return self

    @property
    def is_asked_for(self) -> bool:
        """Whether a model that cannot be batched does not do what is said here."""
        sizes = (self.max_batch_size or 1, *self.preferred_batch_sizes)
        return max(sizes) > 1 or self.max_queue_delay_microseconds is not None


class Limits(ApiModel):
    """what a door lets through to the pods; each of the namespace's doors counts for itself"""

    body_bytes: Annotated[int, Field(ge=1, le=MAX_BODY_BYTES)] | None = Field(
        default=None,
        description="bodyBytes is the size of a request's body; a larger one gets 413. The "
        "messages of a stream (ModelStreamInfer) are not counted. Default: the chart's.",
    )
    timeout_seconds: Annotated[int, Field(ge=1, le=86_400)] | None = Field(
        default=None,
        description="timeoutSeconds is how long an answer may take after the request came in "
        "whole, and how long a stream may be silent. Default: the chart's.",
    )
    concurrency: Annotated[int, Field(ge=1, le=1_000_000)] | None = Field(
        default=None,
        description="concurrency is how many requests the pods work on at once. Default: the "
        "chart's.",
    )
    queue: Annotated[int, Field(ge=0, le=1_000_000)] | None = Field(
        default=None,
        description="queue is how many more may wait, HTTP at the door and gRPC at the pods (a "
        "burst finds room for those more for whom connections are made). Any further request gets "
        "429 with Retry-After, or RESOURCE_EXHAUSTED. Default: the chart's.",
    )


class Triton(ApiModel):
    """how Triton runs the model"""

    instances: Annotated[int, Field(ge=1, le=MAX_INSTANCES)] | None = Field(
        default=None,
        description="instances of the model in each pod, on each GPU if it has some; every one "
        "takes its own memory. Unset: Triton's choice, one on a GPU.",
    )
    response_cache: MemorySize | None = Field(
        default=None,
        description="responseCache: memory of the container's for answers, which a request with "
        "the same inputs gets again; e.g. 64Mi. Unset: every request is computed.",
    )
    priority_levels: Annotated[int, Field(ge=2, le=MAX_PRIORITY_LEVELS)] | None = Field(
        default=None,
        description="priorityLevels that a request's parameter `priority` may name: 1 is computed "
        "before all others. One that names none has the middle one, of two the second. Unset: "
        "in the order of arrival.",
    )


class InferenceServiceSpec(PodSettings):
    """which model, on how many pods"""

    model: ModelReference = Field(description="model is what is served.")
    replicas: Annotated[int, Field(ge=0, le=MAX_REPLICAS)] = Field(
        default=1, description="replicas is the number of pods; `kubectl scale` and an HPA set it."
    )
    autoscaling: Autoscaling | None = Field(
        default=None,
        description="autoscaling chooses replicas. Unset: they are what replicas says.",
    )
    resources: Resources | None = Field(
        default=None,
        description="resources is what each pod asks for. Default: the chart's, one GPU.",
    )
    scratch_space: Quantity | None = Field(
        default=None,
        description="scratchSpace is the size of /tmp; a pod that writes more is evicted. "
        "Default: the chart's.",
    )
    batching: Batching | None = Field(
        default=None,
        description="batching: how requests become batches. Unset: as they come, if the model "
        "allows it.",
    )
    triton: Triton | None = Field(default=None, description="triton: how it runs the model.")
    limits: Limits | None = Field(
        default=None,
        description="limits is what a door lets through; a change of it restarts nothing.",
    )
    rollout: Rollout | None = Field(default=None, description="rollout: how pods are replaced.")
    spread: Spread | None = Field(
        default=None,
        description="spread: how pods are spread. Unset: over hosts, as far as there is room.",
    )
    disruption: Disruption | None = Field(
        default=None, description="disruption: what evictions (kubectl drain) may take."
    )


class Replicas(StatusModel):
    """pods of this service"""

    current: Annotated[int, Field(ge=0)] = Field(default=0, description="current: not finished.")
    ready: Annotated[int, Field(ge=0)] = Field(default=0, description="ready: answering.")
    updated: Annotated[int, Field(ge=0)] = Field(
        default=0, description="updated: ready pods of the current revision."
    )


class Waiting(StatusModel):
    """why a replica is not ready"""

    pod: Annotated[str, StringConstraints(max_length=253)] = Field(
        description="pod is its name, or that of the object that could not be made."
    )
    reason: Annotated[str, StringConstraints(max_length=64)] = Field(
        description="reason is one word of a closed list, e.g. NoCapacity or ModelLoadFailed."
    )
    message: Annotated[str, StringConstraints(max_length=1024)] = Field(
        default="", description="message says what is so, and what to do about it."
    )


class Revision(StatusModel):
    """a set of pods that were made alike"""

    name: RevisionName = Field(
        description="name: its pods carry it as the label lepton.ai/revision."
    )
    model: Annotated[str, StringConstraints(max_length=MAX_NAME_LENGTH)] | None = Field(
        default=None, description="model that its pods serve."
    )
    version: int = Field(description="version of the model.")
    digest: Digest = Field(description="digest of the version.")
    replicas: int = Field(default=0, description="replicas: its pods that have not finished.")
    ready: int = Field(default=0, description="ready: its pods that answer.")
    spec: Annotated[str, StringConstraints(max_length=MAX_RECORDED_SPEC)] | None = Field(
        default=None,
        description="spec: what the InferenceService said about its pods, as JSON; they can be "
        "made again from it.",
    )
    # With the 64 resources that a pod may ask for, by names of any length.
    resolved: Annotated[str, StringConstraints(max_length=65_536)] | None = Field(
        default=None, description="resolved: the defaults that reached its pods, as JSON."
    )


class FailedRevision(StatusModel):
    """a revision that was given up: it is not tried again until spec or model change"""

    name: RevisionName = Field(description="name of the revision.")
    version: int = Field(description="version of the model that it was to serve.")
    reason: Annotated[str, StringConstraints(max_length=64)] = Field(
        description="reason is one word of a closed list, e.g. ModelLoadFailed."
    )
    message: Annotated[str, StringConstraints(max_length=1024)] = Field(
        default="", description="message has the pod's own last words."
    )


class RolloutStatus(StatusModel):
    """what is being done to the pods, for what it waits, and how far it is"""

    phase: Literal["Surging", "Replacing", "Evacuating", "Draining", "RolledBack"] = Field(
        description="phase: Surging waits for a new pod before an old one goes; Replacing lets an "
        "old one go for the room of a new one; Evacuating brings up a pod elsewhere for one on a "
        "node that is being emptied; Draining waits for requests in flight; RolledBack serves the "
        "revision before the one that failed."
    )
    from_revision: RevisionName | None = Field(
        default=None, alias="from", description="from: the revision that goes."
    )
    to: RevisionName | None = Field(default=None, description="to: the revision that comes.")
    updated: Annotated[int, Field(ge=0)] = Field(
        default=0, description="updated: ready pods of the revision that comes."
    )
    total: Annotated[int, Field(ge=0)] = Field(
        default=0, description="total: how many there are to be."
    )
    waiting_for: Annotated[str, StringConstraints(max_length=1024)] = Field(
        default="", description="waitingFor: what comes next, and until when it is waited for."
    )
    since: Timestamp = Field(description="since: when this phase began.")
    started: Timestamp = Field(description="started: when the first of its phases began.")
    gap_seconds: Annotated[int, Field(ge=0)] | None = Field(
        default=None,
        description="gapSeconds: nothing answers for at most about so long, as the pods before "
        "started; absent where something always answers.",
    )
    failed: FailedRevision | None = None


class LastFailure(StatusModel):
    """the last failure of a pod; it stays when the pod is gone"""

    pod: Annotated[str, StringConstraints(max_length=253)] = Field(description="pod that failed.")
    reason: Annotated[str, StringConstraints(max_length=64)] = Field(
        description="reason is one word of a closed list, e.g. ModelLoadFailed."
    )
    message: Annotated[str, StringConstraints(max_length=1024)] = Field(
        default="", description="message has the pod's own last words."
    )
    time: Timestamp = Field(description="time is when it failed.")


class InferenceServiceStatus(Status):
    """what is served, and by how many"""

    url: Annotated[str, StringConstraints(max_length=256)] | None = Field(
        default=None, description="url, inside the cluster; Open Inference Protocol v2."
    )
    selector: Annotated[str, StringConstraints(max_length=512)] | None = Field(
        default=None, description="selector of exactly this service's pods."
    )
    version: int | None = Field(default=None, description="version that is being served.")
    replicas: Replicas | None = None
    waiting: Annotated[tuple[Waiting, ...], Field(max_length=KEPT_WAITING)] = Field(
        default=(), description="waiting: a reason for each replica that is not ready."
    )
    revisions: Annotated[tuple[Revision, ...], Field(max_length=10)] = Field(
        default=(), description="revisions: the wanted one, then others that still have pods."
    )
    rollout: RolloutStatus | None = None
    last_failure: LastFailure | None = None
    autoscaling: AutoscalingStatus | None = None


class InferenceService(StatusModel):
    """InferenceService runs NVIDIA Triton for a version of a LeptonModel, and replaces it by the
    next one without a failed request.
    """

    api_version: Literal["lepton.ai/v1alpha1"] = "lepton.ai/v1alpha1"
    kind: Literal["InferenceService"] = "InferenceService"
    metadata: Metadata
    spec: InferenceServiceSpec
    status: InferenceServiceStatus = InferenceServiceStatus()
