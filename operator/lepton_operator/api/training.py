"""TrainingJob: run torchrun in a gang of pods, and hand the result over as a model version."""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Annotated, Any, Literal, Self

from pydantic import ConfigDict, Field, StringConstraints, model_validator

from lepton_operator.api.common import (
    CONTROLLER,
    INT_OR_STRING,
    LINE_PATTERN,
    MAX_NAME_LENGTH,
    ApiModel,
    Decimal,
    Digest,
    ImageReference,
    KubernetesName,
    Metadata,
    ObjectName,
    PodSettings,
    Resources,
    Rule,
    Status,
    StatusModel,
    Timestamp,
    cel_rules,
    checked,
)
from lepton_operator.api.model import Metrics

MAX_NODES = 4096
KEPT_ATTEMPTS = 10
KEPT_RESTARTS = 5
MAX_RESTART_MESSAGE = 256
MAX_CHECKPOINT_PROBLEM = 768
MAX_RULES = 16
MAX_ENVIRONMENT = 131_072  # characters; kubectl apply takes objects of 262,144 bytes
MAX_ENVIRONMENT_OF_GANG = 64 * 1024 * 1024  # and holds 2 GB in all, unless it is told otherwise
MAX_AVOIDED_NODES = 16
MAX_ATTEMPTS = 1_000_000_000  # suspensions count too; further ones would not fit a pod's name
MIN_HANG_SECONDS = 10
MAX_HANG_SECONDS = 604_800  # a week
MAX_INTERVAL_SECONDS = 604_800
MAX_RANKS_PER_POD = 64
MAX_STEP = 2**53  # as in a record: what JSON's numbers hold exactly

_OUR_PATHS = ("/lepton", "/etc/lepton", "/tmp", "/dev", "/proc", "/sys")  # noqa: S108 - in pods


def _starts_well(entrypoint: tuple[str, ...]) -> bool:
    if entrypoint[0] == "-m":
        return len(entrypoint) > 1 and not entrypoint[1].startswith("-")
    return not entrypoint[0].startswith("-")


def _leaves_our_paths(path: str) -> bool:
    ours = any(path == each or path.startswith(f"{each}/") for each in _OUR_PATHS)
    return path != "/" and not ours and not any(each in path for each in ("..", "//", "/./"))


def _environment_size(spec: TrainingJobSpec) -> int:
    return sum(len(each.name) + len(each.value) for each in spec.env)


def _is_unique(volumes: tuple[Volume, ...]) -> bool:
    names = {volume.name for volume in volumes}
    paths = {volume.mount_path for volume in volumes}
    return len(names) == len(paths) == len(volumes)


_ENTRYPOINT = Rule(
    "size(self) == 0 || "  # the schema's own refusal
    "(self[0] == '-m' ? size(self) > 1 && !self[1].startsWith('-') : !self[0].startsWith('-'))",
    "entrypoint: start with a script or with '-m' and a module; torchrun's own flags come from "
    "numNodes, numProcPerNode and failurePolicy",
    _starts_well,
)
_RESERVED_ENVIRONMENT = Rule(
    "!self.exists(e, e.name.startsWith('LEPTON_'))",
    "env: names that start with LEPTON_ belong to the operator; use another name",
    lambda env: not any(each.name.startswith("LEPTON_") for each in env),
)
_CHARACTERS = "self.env.map(e, size(e.name) + (has(e.value) ? size(e.value) : 0)).sum()"
_ENVIRONMENT_SIZE = Rule(
    f"!has(self.env) || {_CHARACTERS} <= {MAX_ENVIRONMENT}",
    f"env: names and values together are at most {MAX_ENVIRONMENT} characters, for they are in "
    "every pod's manifest; put more into a Secret (envFromSecret) or on a volume",
    lambda spec: _environment_size(spec) <= MAX_ENVIRONMENT,
)
_ENVIRONMENT_OF_GANG = Rule(
    f"!has(self.env) || !has(self.numNodes) || {_CHARACTERS} * self.numNodes "
    f"<= {MAX_ENVIRONMENT_OF_GANG}",
    "env: it is in each of the numNodes pods, and in all of them together it would take more than "
    f"{MAX_ENVIRONMENT_OF_GANG} characters of the cluster's own store; put it into a Secret "
    "(envFromSecret) or on a volume",
    lambda spec: _environment_size(spec) * spec.num_nodes <= MAX_ENVIRONMENT_OF_GANG,
)
_RESERVED_PATHS = Rule(
    "self != '/' && !['..', '//', '/./'].exists(p, self.contains(p)) && "
    f"!{list(_OUR_PATHS)}.exists(p, self == p || "
    "self.startsWith(p + '/'))",
    "volumes: mountPath must not be /, nor in /lepton, /etc/lepton, /tmp, /dev, /proc or /sys, "
    "which the operator uses, nor contain '..', '//' or '/./'",
    _leaves_our_paths,
)
_NOT_THE_STORE = Rule(
    "self != 'lepton-store'",
    "envFromSecret: lepton-store holds the keys of the namespace's store, which training "
    "containers never see; use a Secret of your own",
    lambda name: name != "lepton-store",
)
_UNIQUE_VOLUMES = Rule(
    "self.all(v, self.exists_one(w, w.name == v.name) && "
    "self.exists_one(w, w.mountPath == v.mountPath))",
    "volumes: every name and every mountPath may be used once",
    _is_unique,
)
_PROCESSES = Rule(
    "type(self) == int ? self >= 1 && self <= 64 : self == 'auto'",
    "numProcPerNode: a number from 1 to 64, or auto (one rank per GPU asked)",
    lambda value: value == "auto" if isinstance(value, str) else 1 <= value <= 64,  # noqa: PLR2004
)
_HANG_TIMEOUT = Rule(
    f"type(self) == int ? self >= {MIN_HANG_SECONDS} && self <= {MAX_HANG_SECONDS} : "
    "self == 'auto'",
    f"hangTimeoutSeconds: a number of seconds from {MIN_HANG_SECONDS} to {MAX_HANG_SECONDS}, or "
    "auto (learnt from the job's own steps)",
    lambda value: (
        value == "auto" if isinstance(value, str) else MIN_HANG_SECONDS <= value <= MAX_HANG_SECONDS
    ),
)
_INTERVAL = Rule(
    f"type(self) == int ? self >= 1 && self <= {MAX_INTERVAL_SECONDS} : self == 'auto'",
    f"intervalSeconds: a number of seconds from 1 to {MAX_INTERVAL_SECONDS}, or auto",
    lambda value: value == "auto" if isinstance(value, str) else 1 <= value <= MAX_INTERVAL_SECONDS,
)
_PART = "[A-Za-z0-9_][A-Za-z0-9._-]*"
_PREFIX = f"(s3|gs|az|lepton-store)://{_PART}(/{_PART})*/?"
_CHECKPOINT_PLACE = Rule(
    "has(self.uri) != has(self.volume)",
    "checkpoint: give either uri, a prefix in an object store, or volume, one of spec.volumes",
    lambda checkpoint: (checkpoint.uri is None) != (checkpoint.volume is None),
)
_CHECKPOINT_URI = Rule(
    f"self.matches('^{_PREFIX}$')",
    "checkpoint.uri: lepton-store://PREFIX (in the namespace's own store), s3://BUCKET, "
    "gs://BUCKET or az://CONTAINER, with /PREFIX if you like; letters, digits and ._- in each part",
    lambda uri: re.fullmatch(_PREFIX, uri) is not None,
)
_CHECKPOINT_VOLUME = Rule(
    "!has(self.checkpoint) || !has(self.checkpoint.volume) || (has(self.volumes) && "
    "self.volumes.exists(v, v.name == self.checkpoint.volume && "
    "!(has(v.readOnly) && v.readOnly)))",
    "checkpoint.volume: name one of spec.volumes that is not readOnly",
    lambda spec: (
        spec.checkpoint is None
        or spec.checkpoint.volume is None
        or any(each.name == spec.checkpoint.volume and not each.read_only for each in spec.volumes)
    ),
)


class EnvironmentVariable(ApiModel):
    """an environment variable of every rank"""

    name: Annotated[
        str, StringConstraints(min_length=1, max_length=256, pattern="^[A-Za-z_][A-Za-z0-9_]*$")
    ] = Field(description="name of the variable; LEPTON_... is the operator's.")
    value: Annotated[str, StringConstraints(max_length=8192)] = Field(
        default="", description="value; $(NAME) stands for another variable, as in a pod."
    )


class Volume(ApiModel):
    """a PersistentVolumeClaim that every rank sees"""

    name: Annotated[
        str,
        StringConstraints(min_length=1, max_length=50, pattern="^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"),
    ] = Field(description="name tells the volumes of a job apart.")
    claim_name: KubernetesName = Field(
        description="claimName is a PersistentVolumeClaim in the same namespace."
    )
    mount_path: Annotated[
        str,
        StringConstraints(min_length=2, max_length=256, pattern="^/[^\\x00-\\x1f\\x7f:]*$"),
        *checked(_RESERVED_PATHS),
    ] = Field(description="mountPath is where the ranks see the volume.")
    read_only: bool = Field(default=False, description="readOnly mounts the volume for reading.")


class Cause(StrEnum):
    """Every reason of a failed attempt; docs/failures.md says what leads to which."""

    USER_ERROR = "UserError"
    OUT_OF_MEMORY = "OutOfMemory"
    STORAGE_EXCEEDED = "StorageExceeded"
    CANNOT_START = "CannotStart"
    HANG = "Hang"
    NO_MESSAGE = "NoMessage"
    GPU_ERROR = "GpuError"
    NETWORK_ERROR = "NetworkError"
    PEER_LOST = "PeerLost"
    PARTITIONED = "Partitioned"
    TERMINATED = "Terminated"
    SAVED = "Saved"
    NO_MODEL = "NoModel"
    INVALID_MODEL = "InvalidModel"
    INVALID_SPEC = "InvalidSpec"
    NO_RECORD = "NoRecord"
    POD_LOST = "PodLost"
    EVICTED = "Evicted"
    PREEMPTED = "Preempted"
    NODE_NOT_READY = "NodeNotReady"
    NODE_UNHEALTHY = "NodeUnhealthy"
    PREPARATION_FAILED = "PreparationFailed"
    NO_STORE = "NoStore"
    STORE_UNAVAILABLE = "StoreUnavailable"


Step = Annotated[int, Field(ge=0, le=MAX_STEP)]
Counter = Annotated[int, Field(ge=0, le=MAX_ATTEMPTS)]
Action = Literal["Restart", "RestartElsewhere", "Fail", "Ignore"]
Budget = Literal["User", "Infrastructure", "Preemption"]
Phase = Literal[
    "starting", "rendezvous", "restoring", "training", "evaluating", "checkpointing", "done"
]


class FailureMatch(ApiModel):
    """what a failure looks like: all that is given must hold, of a list any one"""

    exit_codes: Annotated[tuple[Annotated[int, Field(ge=1, le=255)], ...], Field(max_length=32)] = (
        Field(default=(), description="exitCodes: the exit code of the pod that is the cause.")
    )
    signals: Annotated[tuple[Annotated[int, Field(ge=1, le=64)], ...], Field(max_length=16)] = (
        Field(default=(), description="signals: the number of the signal that ended it.")
    )
    reasons: Annotated[tuple[Cause, ...], Field(max_length=len(Cause))] = Field(
        default=(), description="reasons: the class of the failure, as in status.attempts."
    )
    message_pattern: (
        Annotated[str, StringConstraints(min_length=1, max_length=512, pattern=LINE_PATTERN)] | None
    ) = Field(
        default=None,
        description="messagePattern is a regular expression (RE2) that is looked for, in the pod, "
        "in its last error line and in the last 64 KiB of what its ranks wrote to stderr. A "
        "change reaches the pods of the next attempt.",
    )


def _says_something(match: FailureMatch) -> bool:
    return bool(match.exit_codes or match.signals or match.reasons or match.message_pattern)


_MATCH = Rule(
    "(has(self.exitCodes) && size(self.exitCodes) > 0) || "
    "(has(self.signals) && size(self.signals) > 0) || "
    "(has(self.reasons) && size(self.reasons) > 0) || has(self.messagePattern)",
    "failurePolicy.rules: a match needs exitCodes, signals, reasons or messagePattern; without any "
    "it would be about every failure",
    _says_something,
)


class FailureRule(ApiModel):
    """what follows from failures that look like this"""

    match: Annotated[FailureMatch, *checked(_MATCH)]
    action: Action = Field(
        description="action: Restart, RestartElsewhere (the job avoids the node from then on), "
        "Fail (the job ends at once), or Ignore (restart, and count against no budget)."
    )


class FailurePolicy(ApiModel):
    """how often the gang is started again, and after what"""

    max_restarts: Annotated[int, Field(ge=0, le=1000)] = Field(
        default=3,
        description="maxRestarts is how often ranks are started again, in their pods or in new "
        "ones, after one of them ended by a non-zero exit or a signal, or hung, while its pod and "
        "node were alive.",
    )
    max_infrastructure_restarts: Annotated[int, Field(ge=0, le=10_000)] = Field(
        default=20,
        description="maxInfrastructureRestarts is how often the gang is started again after pods "
        "were lost or evicted, or their node was unhealthy or stopped answering. Restarts after a "
        "preemption are counted, and not bounded.",
    )
    max_restarts_without_progress: Annotated[int, Field(ge=0, le=1000)] = Field(
        default=10,
        description="maxRestartsWithoutProgress is how often in a row the gang is started again, "
        "for whatever cause, without getting beyond the furthest step. Restarts that got beyond "
        "it count against no budget. It holds once a step was reported or saved.",
    )
    hang_timeout_seconds: Annotated[
        int | Literal["auto"],
        *checked(_HANG_TIMEOUT, maxLength=4, **INT_OR_STRING),
    ] = Field(
        default="auto",
        description="hangTimeoutSeconds is the longest time between two steps before the ranks "
        f"count as hanging, from {MIN_HANG_SECONDS} to {MAX_HANG_SECONDS}; or auto: learnt from "
        "the job's own steps. A change reaches the pods of the next attempt.",
    )
    hang_startup_seconds: Annotated[int, Field(ge=MIN_HANG_SECONDS, le=MAX_HANG_SECONDS)] = Field(
        default=1800,
        description="hangStartupSeconds is the longest silence before the first steps, and of "
        "ranks that do something else. A change reaches the pods of the next attempt.",
    )
    rules: Annotated[tuple[FailureRule, ...], Field(max_length=MAX_RULES)] = Field(
        default=(),
        description="rules: what follows from certain failures. The first that matches decides, "
        "before the built-in rules.",
    )


class Checkpoint(ApiModel):
    """where the training saves its state, and how often"""

    volume: Annotated[str, StringConstraints(min_length=1, max_length=50)] | None = Field(
        default=None,
        description="volume is the name of one of spec.volumes, which all pods can write to at "
        "the same time (ReadWriteMany, unless all are on one node). Ranks find its path in "
        "LEPTON_CHECKPOINT_URI; what the SDK saves there lies in a folder of this job's own.",
    )
    uri: (
        Annotated[str, StringConstraints(min_length=6, max_length=512), *checked(_CHECKPOINT_URI)]
        | None
    ) = Field(
        default=None,
        description="uri, in place of a volume, is a prefix in an object store: "
        "lepton-store://PREFIX (the namespace's own), s3://BUCKET/PREFIX, gs:// or az://, reached "
        "by the sidecar with the Secret lepton-store or, without it, with the pod's own identity. "
        "The SDK's Checkpointer saves there, below this job's UID. A script that saves by itself "
        "does not reach it.",
    )
    interval_seconds: Annotated[
        int | Literal["auto"],
        *checked(_INTERVAL, maxLength=4, **INT_OR_STRING),
    ] = Field(
        default="auto",
        description="intervalSeconds is the time from one save to the next, from 1 to "
        f"{MAX_INTERVAL_SECONDS}; or auto: the one that wastes least, from what a save costs and "
        "how often this job fails.",
    )
    keep: Annotated[int, Field(ge=1, le=1000)] = Field(
        default=3, description="keep is how many complete checkpoints stay."
    )
    signal: Literal["SIGTERM", "SIGINT", "SIGUSR1", "SIGUSR2", "SIGHUP"] = Field(
        default="SIGTERM",
        description="signal is what ranks get when they are asked to save and leave (suspend, "
        "drain, eviction, preemption), with LEPTON_GRACE_SECONDS to do it in. Those that save by "
        "the SDK's Checkpointer need none.",
    )


class Output(ApiModel):
    """where the result goes"""

    model: ObjectName = Field(
        description="model names the LeptonModel that gets the result as its next version. It is "
        "made if it does not exist. Rank 0 leaves model.onnx in $LEPTON_OUTPUT_DIR."
    )


class TrainingJobSpec(PodSettings):
    """what to run, on how many nodes and GPUs"""

    image: ImageReference | None = Field(
        default=None,
        description="image is any image with Python 3.9 or later and torch. Default: the chart's "
        "trainer image, which has the SDK lepton_ai.",
    )
    entrypoint: Annotated[
        tuple[Annotated[str, StringConstraints(min_length=1, max_length=4096)], ...],
        Field(min_length=1, max_length=256),
        *checked(_ENTRYPOINT),
    ] = Field(
        description="entrypoint is what follows torchrun: a script, or -m and a module, and its "
        "arguments."
    )
    env: Annotated[
        tuple[EnvironmentVariable, ...],
        Field(max_length=1024),
        *checked(_RESERVED_ENVIRONMENT),
    ] = Field(default=(), description="env: environment variables of every rank.")
    env_from_secret: Annotated[KubernetesName, *checked(_NOT_THE_STORE)] | None = Field(
        default=None,
        description="envFromSecret names a Secret whose keys become environment variables.",
    )
    volumes: Annotated[tuple[Volume, ...], Field(max_length=16), *checked(_UNIQUE_VOLUMES)] = Field(
        default=(), description="volumes: PersistentVolumeClaims that every rank sees."
    )
    num_nodes: Annotated[int, Field(ge=1, le=MAX_NODES)] = Field(
        default=1, description="numNodes is the number of pods; each is one node of torchrun."
    )
    num_proc_per_node: Annotated[
        int | Literal["auto"],
        *checked(_PROCESSES, maxLength=4, **INT_OR_STRING),
    ] = Field(
        default="auto",
        description="numProcPerNode is the number of ranks in each pod, from 1 to 64; or auto: as "
        "many as GPUs are asked, at least 1.",
    )
    resources_per_node: Resources | None = Field(
        default=None,
        description="resourcesPerNode is what each pod asks for. Default: the chart's, one GPU.",
    )
    suspend: bool = Field(
        default=False,
        description="suspend has all ranks save at one step and leave, ends the pods, and starts "
        "none until it is false again.",
    )
    managed_by: (
        Annotated[
            str,
            StringConstraints(
                min_length=3,
                max_length=63,
                pattern="^[a-z0-9]([-a-z0-9.]*[a-z0-9])?/[-A-Za-z0-9._~/]+$",
            ),
        ]
        | None
    ) = Field(
        default=None,
        description="managedBy names the controller of this job. One that names another than "
        f"{CONTROLLER} is left alone: no pods, no status. Unset: this operator.",
    )
    active_deadline_seconds: Annotated[int, Field(ge=1, le=31_536_000)] | None = Field(
        default=None,
        description="activeDeadlineSeconds: the job fails when it has been active for so long, "
        "the times between its suspensions taken together.",
    )
    ttl_seconds_after_finished: Annotated[int, Field(ge=0, le=31_536_000)] | None = Field(
        default=None,
        description="ttlSecondsAfterFinished: the job is deleted so long after it has ended, but "
        "never before its result is a version of its model. Unset: it is kept.",
    )
    failure_policy: FailurePolicy = Field(
        default=FailurePolicy(),
        description="failurePolicy says how often the gang is started again, and after what.",
    )
    checkpoint: Annotated[Checkpoint, *checked(_CHECKPOINT_PLACE)] | None = Field(
        default=None,
        description="checkpoint says where the training saves its state. Unset: a job that is "
        "interrupted begins anew, unless its script finds its own way.",
    )
    output: Output | None = Field(
        default=None, description="output says where the result goes. Unset: nothing is kept."
    )

    model_config = ApiModel.model_config | ConfigDict(
        json_schema_extra=cel_rules(_CHECKPOINT_VOLUME, _ENVIRONMENT_SIZE, _ENVIRONMENT_OF_GANG)
    )

    @model_validator(mode="after")
    def _keep_the_rules(self) -> Self:
        for rule in (_CHECKPOINT_VOLUME, _ENVIRONMENT_SIZE, _ENVIRONMENT_OF_GANG):
            rule.check(self)
        return self


class RankRestart(StatusModel):
    """ranks that were started again in their pods, and for whose failure"""

    generation: Counter = Field(
        description="generation of the ranks that ended; the first is 0 in each attempt."
    )
    reason: Annotated[str, StringConstraints(max_length=64)] = Field(
        description="reason: UserError (a rank exited non-zero or by a signal), OutOfMemory or "
        "Hang."
    )
    rank: Annotated[int, Field(ge=0, le=MAX_NODES * MAX_RANKS_PER_POD)] | None = Field(
        default=None, description="rank is the global rank that failed first."
    )
    node: Annotated[str, StringConstraints(max_length=253)] | None = Field(
        default=None, description="node is the Kubernetes node of its pod."
    )
    exit_code: Annotated[int, Field(ge=0, le=255)] | None = Field(
        default=None, description="exitCode of that rank."
    )
    signal: Annotated[int, Field(ge=1, le=64)] | None = Field(
        default=None, description="signal that ended it, as a number."
    )
    step: Step | None = Field(default=None, description="step is the last one they had reached.")
    message: Annotated[str, StringConstraints(max_length=MAX_RESTART_MESSAGE)] | None = Field(
        default=None, description="message is its last error line, or how it hung."
    )


def _spent(what: str) -> Any:
    return Field(default=None, description=what)


class Spent(StatusModel):
    """what time went into, in seconds as decimals; a class that is absent took none"""

    waiting: Decimal | None = _spent(
        "waiting: no pod could start, or none was there: until all were scheduled, and after their "
        "end."
    )
    image: Decimal | None = _spent("image: images were pulled.")
    start: Decimal | None = _spent(
        "start: volumes and networks of pods, their launchers, the frameworks' import, and ranks "
        "that were started again in their pods."
    )
    rendezvous: Decimal | None = _spent("rendezvous: ranks waited to find each other.")
    restoring: Decimal | None = _spent("restoring: a checkpoint was loaded.")
    productive: Decimal | None = _spent("productive: steps and evaluations, done once.")
    repeated: Decimal | None = _spent(
        "repeated: steps that had been done before and were lost, and steps that failed half done."
    )
    checkpointing: Decimal | None = _spent(
        "checkpointing: the training stood still to save, or its output was stored."
    )
    hang: Decimal | None = _spent("hang: ranks stood still, until that was found.")
    unobserved: Decimal | None = _spent(
        "unobserved: nobody can tell: the script shows no steps, or a pod was lost with its word."
    )


class Ledger(Spent):
    """what the time went into: each second in one class, and what it was worth in GPU seconds"""

    useful_gpu_seconds: Decimal | None = _spent(
        "usefulGpuSeconds: the GPUs of all pods times the productive seconds."
    )
    wasted_gpu_seconds: Decimal | None = _spent(
        "wastedGpuSeconds: the same for all other classes; of waiting, what pods with a node held "
        "until all had one."
    )


class Attempt(StatusModel):
    """one start of the whole gang"""

    number: Annotated[int, Field(ge=1, le=MAX_ATTEMPTS)] = Field(
        description="number counts from 1."
    )
    start_time: Timestamp = Field(description="startTime is when it was opened.")
    end_time: Timestamp | None = Field(default=None, description="endTime is when it was closed.")
    outcome: Literal["Running", "Succeeded", "Failed", "Suspended"] = Field(
        default="Running", description="outcome: Running until it was closed."
    )
    budget: Budget | None = Field(
        default=None,
        description="budget is the one that this failure counted against. Unset: the attempt got "
        "beyond the furthest step, a rule said Ignore, or the store was missing.",
    )
    rule: Annotated[int, Field(ge=0, le=MAX_RULES - 1)] | None = Field(
        default=None, description="rule is the index of the failurePolicy rule that decided."
    )
    reason: Annotated[str, StringConstraints(max_length=64)] | None = Field(
        default=None,
        description="reason is the class of the failure, e.g. UserError or PodLost; Saved if its "
        "ranks were asked to leave and saved before.",
    )
    message: Annotated[str, StringConstraints(max_length=1024)] | None = Field(
        default=None, description="message says which pod failed, where and how."
    )
    exit_code: int | None = Field(
        default=None, description="exitCode of the rank that failed first."
    )
    signal: int | None = Field(default=None, description="signal that ended it, as a number.")
    node: Annotated[str, StringConstraints(max_length=253)] | None = Field(
        default=None, description="node is the Kubernetes node of the pod that failed first."
    )
    rank: int | None = Field(default=None, description="rank is the global rank that failed first.")
    step: Step | None = Field(
        default=None,
        description="step is the last one that all ranks had reached, reported or counted.",
    )
    resumed_from: Step | None = Field(
        default=None, description="resumedFrom is the step of the checkpoint it began with."
    )
    furthest_step: Step | None = Field(
        default=None,
        description="furthestStep is the last one that its ranks reported or saved.",
    )
    saved: bool | None = Field(
        default=None,
        description="saved: a script that tells no steps completed a file in checkpoint.volume.",
    )
    restarts: Counter | None = Field(
        default=None,
        description="restarts: how often its ranks were started again in their pods without "
        "getting further; they count against failurePolicy.maxRestarts.",
    )
    last_restarts: Annotated[tuple[RankRestart, ...], Field(max_length=KEPT_RESTARTS)] | None = (
        Field(
            default=None,
            description="lastRestarts: the last times that its ranks were started again in their "
            "pods, oldest first, whether they count or not.",
        )
    )
    last_error_line: Annotated[str, StringConstraints(max_length=1024)] | None = Field(
        default=None, description="lastErrorLine is the error in what that rank wrote to stderr."
    )
    stacks: Annotated[str, StringConstraints(max_length=256)] | None = Field(
        default=None, description="stacks is where the store keeps the stacks of ranks that hung."
    )
    kept: Counter | None = Field(
        default=None,
        description="kept: how many pods kept their place from the attempt before.",
    )
    failed_time: Timestamp | None = Field(
        default=None,
        description="failedTime is when its cause came about: a rank's end, a node's silence. "
        "Unset: nothing tells it. endTime is when the operator had found it.",
    )
    running_time: Timestamp | None = Field(
        default=None, description="runningTime is when all its ranks ran; unset if they never did."
    )
    ledger: Ledger | None = Field(
        default=None,
        description="ledger is what its time went into; while it runs, as far as that is settled.",
    )
    leave_time: Timestamp | None = Field(
        default=None,
        description="leaveTime is when its ranks were asked to save and leave, to suspend the job.",
    )
    generation: Annotated[int, Field(ge=0, le=MAX_STEP)] | None = Field(
        default=None,
        description="generation is that of the spec when it ended: a changed spec forgives delays.",
    )
    resolved: Annotated[str, StringConstraints(max_length=4096)] | None = Field(
        default=None,
        description="resolved: the defaults that reached the pods of this attempt, as JSON.",
    )


class Restarts(StatusModel):
    """how many restarts counted against which budget"""

    user: Counter = Field(default=0, description="user: against failurePolicy.maxRestarts.")
    infrastructure: Counter = Field(
        default=0, description="infrastructure: against failurePolicy.maxInfrastructureRestarts."
    )
    preemption: Counter = Field(
        default=0, description="preemption: the scheduler gave a pod's place away; not bounded."
    )
    without_progress: Counter = Field(
        default=0,
        description="withoutProgress: how many in a row did not get beyond the furthest step.",
    )


class AvoidedNode(StatusModel):
    """a node that this job stays away from"""

    node: Annotated[str, StringConstraints(max_length=253)] = Field(
        description="node is the name of the node."
    )
    pod: Annotated[int, Field(ge=0, le=MAX_NODES - 1)] | None = Field(
        default=None, description="pod: only the pod of this index avoids it. Unset: all do."
    )
    attempt: Annotated[int, Field(ge=1, le=MAX_ATTEMPTS)] | None = Field(
        default=None, description="attempt is the one whose failure is the evidence."
    )
    until: Timestamp = Field(description="until is when it may be used again.")
    because: Annotated[str, StringConstraints(max_length=512)] = Field(
        description="because is the evidence."
    )


class SlowRank(StatusModel):
    """a rank that all others wait for: its own part of a step takes it longer than them"""

    rank: Annotated[int, Field(ge=0, le=2**31 - 1)] = Field(description="rank is its global rank.")
    pod: Annotated[int, Field(ge=0, le=MAX_NODES - 1)] = Field(
        description="pod is the index of its pod."
    )
    node: Annotated[str, StringConstraints(max_length=253)] | None = Field(
        default=None, description="node is where that pod is."
    )
    factor: Decimal = Field(description="factor is how many times as long as the others it takes.")


class Progress(StatusModel):
    """how far the training is, by what rank 0's pod tells; read no oftener than each 30 s"""

    time: Timestamp = Field(description="time is when this was read.")
    attempt: Annotated[int, Field(ge=1, le=MAX_ATTEMPTS)] = Field(
        description="attempt is the attempt that told it."
    )
    generation: Counter = Field(
        default=0, description="generation counts the starts of the ranks in their pods, from 0."
    )
    phase: Phase = Field(description="phase is what rank 0 does.")
    step: Step | None = Field(default=None, description="step is the slowest rank's last one.")
    total_steps: Step | None = Field(
        default=None, description="totalSteps is how many there will be, where the script says it."
    )
    steps: Annotated[str, StringConstraints(max_length=40)] | None = Field(
        default=None, description="steps is both as kubectl shows them, e.g. 1200/5000."
    )
    steps_per_second: Decimal | None = Field(
        default=None, description="stepsPerSecond is the mean of the last half minute or so."
    )
    eta_seconds: Step | None = Field(
        default=None, description="etaSeconds is the time from `time` to the last step."
    )
    metrics: Metrics = Field(
        default_factory=dict, description="metrics: what the script reports, e.g. the loss."
    )
    learning_rate: Decimal | None = Field(
        default=None, description="learningRate is that of the optimizer's first group."
    )
    checkpoint_step: Step | None = Field(
        default=None,
        description="checkpointStep is that of the last complete checkpoint. Unset beside a "
        "checkpointTime: a script that tells no steps completed a file in checkpoint.volume.",
    )
    checkpoint_time: Timestamp | None = Field(
        default=None, description="checkpointTime is when it was complete."
    )
    slow: SlowRank | None = Field(
        default=None, description="slow is the rank that holds up the others. Unset: there is none."
    )
    ledger: Spent | None = Field(
        default=None, description="ledger is what the time of rank 0 went into, in this attempt."
    )
    checkpoint_problem: (
        Annotated[str, StringConstraints(max_length=MAX_CHECKPOINT_PROBLEM)] | None
    ) = Field(
        default=None,
        description="checkpointProblem: why the last save failed, or why nothing is saved. Unset: "
        "nothing is known against it.",
    )
    leave_seconds: Counter | None = Field(
        default=None,
        description="leaveSeconds is the longest that its ranks would have needed so far to save "
        "and leave. The pods' grace period follows from it.",
    )


class OutputStatus(StatusModel):
    """the version that this job's result became"""

    model: Annotated[str, StringConstraints(max_length=MAX_NAME_LENGTH)] = Field(
        description="model is the name of the LeptonModel."
    )
    version: int = Field(description="version is its number there.")
    digest: Digest = Field(description="digest of the version.")


class CheckpointStatus(StatusModel):
    """the last checkpoint that is complete, as far as rank 0 told"""

    step: Step = Field(description="step at whose end it was saved.")
    time: Timestamp = Field(description="time when it was complete.")
    place: Annotated[str, StringConstraints(max_length=1024)] = Field(
        description="place is the folder where it lies: below checkpoint.uri, or in the volume."
    )


class TrainingJobStatus(Status):
    """where the job stands"""

    attempt: int | None = Field(default=None, description="attempt is the number of the last one.")
    attempts: Annotated[tuple[Attempt, ...], Field(max_length=KEPT_ATTEMPTS)] = Field(
        default=(), description="attempts: the last ten, oldest first."
    )
    restarts: Restarts | None = None
    furthest_step: Step | None = Field(
        default=None,
        description="furthestStep is the highest one that an attempt reported or saved.",
    )
    progress: Progress | None = None
    checkpoint: CheckpointStatus | None = Field(
        default=None,
        description="checkpoint is the last complete one of the SDK's; it outlives its attempt.",
    )
    ledger: Ledger | None = Field(
        default=None,
        description="ledger is what the time of all attempts went into, with the time between one "
        "that failed and the next; suspensions are not in it.",
    )
    avoided_nodes: Annotated[tuple[AvoidedNode, ...], Field(max_length=MAX_AVOIDED_NODES)] = Field(
        default=(), description="avoidedNodes: where pods of the next attempt do not go, and why."
    )
    start_time: Timestamp | None = Field(
        default=None, description="startTime is when the job became active; renewed by a resume."
    )
    active_seconds: Step | None = Field(
        default=None,
        description="activeSeconds is how long it was active before its last suspension.",
    )
    completion_time: Timestamp | None = Field(
        default=None, description="completionTime is when the job became Complete."
    )
    output: OutputStatus | None = Field(
        default=None, description="output: the model version that the result became."
    )


class TrainingJob(StatusModel):
    """TrainingJob runs torchrun in a gang of pods, starts the gang again when it fails, and hands
    its result over as a version of a LeptonModel.
    """

    api_version: Literal["lepton.ai/v1alpha1"] = "lepton.ai/v1alpha1"
    kind: Literal["TrainingJob"] = "TrainingJob"
    metadata: Metadata
    spec: TrainingJobSpec
    status: TrainingJobStatus = TrainingJobStatus()
