"""The pods of a TrainingJob, and the defaults that are recorded with each attempt."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from typing import Annotated, Any
from urllib.parse import quote

from pydantic import Field, ValidationError

from lepton_operator import names
from lepton_operator.api.common import Metadata, Resources, StatusModel
from lepton_operator.api.training import (
    MAX_ATTEMPTS,
    Checkpoint,
    FailureMatch,
    FailurePolicy,
    FailureRule,
    TrainingJob,
    TrainingJobSpec,
    TrainingJobStatus,
    Volume,
)
from lepton_operator.build import failure_rate, pods
from lepton_operator.diagnosis import gpus_asked
from lepton_operator.settings import Defaults

KIND = "TrainingJob"
ROLE = "train"

TRAIN = "train"
PREPARE = "prepare"
SIDECAR = "sidecar"

SHARED_PATH = "/lepton"
OUTPUT_PATH = f"{SHARED_PATH}/output"
LAUNCHER_PATH = f"{SHARED_PATH}/launcher.pyz"
CHECKPOINT_SOCKET = f"{SHARED_PATH}/exchange/checkpoints.sock"
ATTEMPT_FOLDER = "/etc/lepton"
ATTEMPT_FILE = "attempt"
IMAGE_FOLDER = "/etc/lepton/pod"
IMAGE_FILE = "image-id"

SHARED_VOLUME = "lepton"
MEMORY_VOLUME = "shared-memory"
ATTEMPT_VOLUME = "attempt"

LOOPBACK = "127.0.0.1"
BASE_GANG_PORT = 26_400
BASE_PORT = 29_400
TELEMETRY_PORT = 9464
PORTS = 3_000  # the port stays below 32768, where the kernel takes ports for outgoing connections
MAX_LINEAGE_TEXT = 1_024
MAX_GRACE_SECONDS = 86_400  # as in the spec; a record in an annotation may be anybody's
MAX_LEAVE_SECONDS = 3_600  # what ranks report makes a grace period no longer than this
LEAVE_RESERVE_SECONDS = 10  # of it, for the request to arrive, and for the records

_ANNOTATIONS = {
    "cluster-autoscaler.kubernetes.io/safe-to-evict": "false",
    "karpenter.sh/do-not-disrupt": "true",
}

_NOWHERE = pods.Avoided()
_NOTHING_MORE: Mapping[str, int] = {}

# The operator decides when a silent node closes an attempt, not the taint after 300 s.
_TOLERATIONS = tuple(
    {"key": f"node.kubernetes.io/{taint}", "operator": "Exists", "effect": "NoExecute"}
    for taint in ("not-ready", "unreachable")
)


class Resolved(StatusModel):
    """The defaults that reach an attempt's pods; None where the job's spec has the word."""

    image: str | None = None
    agent_image: str
    pull_policy: str
    resources: Resources | None = None
    sidecar_resources: Resources
    gpu_resource: str
    shared_memory: str | None = None
    grace_seconds: Annotated[int, Field(ge=0, le=MAX_GRACE_SECONDS)] | None = None
    priority_class: str | None = None
    run_as_user: int | None = None
    fs_group: int | None = None
    max_opset: int | None = None
    max_ir: int | None = None

    def text(self) -> str:
        """Return this as it is recorded."""
        return names.canonical(self.wire())


def resolve(
    spec: TrainingJobSpec, defaults: Defaults, *, leave_seconds: int | None = None
) -> Resolved:
    """Return the defaults as they are now, for everything that the spec leaves open.

    Args:
        spec: of the job.
        defaults: the chart's.
        leave_seconds: what its ranks need to save and leave, as measured; None before a save.

    """
    triton = defaults.triton
    return Resolved(
        image=None if spec.image else defaults.images.trainer,
        agent_image=defaults.images.agent,
        pull_policy=defaults.images.pull_policy,
        resources=None if spec.resources_per_node else defaults.training_resources,
        sidecar_resources=defaults.sidecar_resources,
        gpu_resource=defaults.gpu_resource,
        shared_memory=None if spec.shared_memory else defaults.training_shared_memory,
        grace_seconds=None
        if spec.termination_grace_period_seconds
        else _grace_seconds(defaults, leave_seconds),
        priority_class=None if spec.priority_class_name else defaults.training_priority_class,
        run_as_user=None if spec.run_as_user else defaults.run_as_user,
        fs_group=None if spec.fs_group else defaults.fs_group,
        max_opset=triton.max_opset if spec.output else None,
        max_ir=triton.max_ir if spec.output else None,
    )


def _grace_seconds(defaults: Defaults, leave_seconds: int | None) -> int:
    needed = min((leave_seconds or 0) + LEAVE_RESERVE_SECONDS, MAX_LEAVE_SECONDS)
    return max(defaults.training_grace_period_seconds, needed if leave_seconds else 0)


def parse_resolved(text: str | None) -> Resolved | None:
    """Return what was recorded, or None if nothing readable was."""
    try:
        return Resolved.model_validate_json(text) if text else None
    except ValidationError:
        return None


def pod_name(job: TrainingJob, attempt: int, rank: int) -> str:
    return names.training_pod(job.metadata.name, attempt, rank)


def resources(spec: TrainingJobSpec, resolved: Resolved) -> Resources:
    return spec.resources_per_node or resolved.resources or Resources()


def ranks_per_pod(spec: TrainingJobSpec, resolved: Resolved) -> int:
    """Return numProcPerNode; auto is one rank for each GPU asked, at least 1."""
    if isinstance(spec.num_proc_per_node, int):
        return spec.num_proc_per_node
    return max(1, gpus_asked(resources(spec, resolved), resolved.gpu_resource))


def grace_seconds(spec: TrainingJobSpec, resolved: Resolved) -> int | None:
    """Return the time from SIGTERM to SIGKILL."""
    return spec.termination_grace_period_seconds or resolved.grace_seconds


def placement(
    job: Metadata,
    nodes: int,
    attempt: int,
    rank: int,
    address: str | None,
    *,
    more: Mapping[str, int] = _NOTHING_MORE,
) -> str:
    """Return the annotation that tells a launcher who is in its attempt, and where rank 0 is.

    Without an address it tells that the attempt comes, and that the one before is closed. The ports
    differ between attempts, so that a rank of the attempt before cannot join. The token
    is what the launchers of a gang know each other by; the API server alone tells it.
    """
    told: dict[str, Any] = {"attempt": attempt, "nodeRank": rank, "numNodes": nodes, **more}
    if address is None:
        return names.canonical(told)
    told |= {"address": address, "port": BASE_PORT + attempt % PORTS}
    if nodes > 1:
        token = hashlib.sha256(f"gang {job.uid} {attempt}".encode()).hexdigest()
        told |= {"gangPort": BASE_GANG_PORT + attempt % PORTS, "token": token}
    return names.canonical(told)


def placement_of_kept(
    job: TrainingJob, attempt: int, rank: int, address: str | None, before: str | None
) -> str:
    """Return it for a pod that was made for an earlier attempt, whose command line is of that.

    What it was told of this one `before` stands: a launcher begins with it and looks no more.
    """
    known = {
        "maxRestarts": restarts_left(job),
        "furthestStep": job.status.furthest_step,
    }
    told = _read(before)
    if told is not None and _attempt_in(told, rank) == attempt:
        known = {name: told.get(name) for name in known}
    more = {name: value for name, value in known.items() if value is not None}
    return placement(job.metadata, job.spec.num_nodes, attempt, rank, address, more=more)


def followed_attempt(annotation: str | None, rank: int) -> int | None:
    """Return the attempt that a pod of this rank was told of last; None if it is none of ours."""
    told = _read(annotation)
    return None if told is None else _attempt_in(told, rank)


def _attempt_in(told: Mapping[str, Any], rank: int) -> int | None:
    number = told.get("attempt")
    is_number = isinstance(number, int) and 0 < number < MAX_ATTEMPTS  # another one may follow
    return number if is_number and told.get("nodeRank") == rank else None


def leave_word(annotation: str) -> str | None:
    """Return the annotation of a pod with the word that asks its launcher to leave."""
    told = _read(annotation)
    return None if told is None else names.canonical({**told, "leave": True})


def _read(annotation: str | None) -> dict[str, Any] | None:
    """Return what a pod was told; None if that is nothing of ours, for anybody may change it."""
    try:
        told = json.loads(annotation or "")
    except (ValueError, RecursionError):
        return None
    return told if isinstance(told, dict) else None


def pod(
    job: TrainingJob,
    resolved: Resolved,
    attempt: int,
    rank: int,
    *,
    avoided: pods.Avoided = _NOWHERE,
) -> dict[str, Any]:
    """Return the pod of one rank in one attempt, which stays away from some nodes."""
    spec, recorded = job.spec, resolved.text()
    parts = pods.PodParts(
        name=pod_name(job, attempt, rank),
        role=ROLE,
        hostname=names.training_hostname(job.metadata.name, rank),
        containers=[_train(job, resolved, attempt, rank)],
        init_containers=[
            _prepare(spec, resolved),
            _sidecar(job.metadata, spec, resolved, attempt, rank),
        ],
        volumes=_volumes(spec, resolved),
        labels={
            names.ATTEMPT: str(attempt),
            names.RANK: str(rank),
            names.RESOLVED_HASH: names.short_hash(resolved.wire()),
        },
        annotations={
            **_ANNOTATIONS,
            names.RESOLVED: recorded,
            names.GENERATION: str(job.metadata.generation),
            **_placement_at_creation(job, attempt),
        },
        grace_seconds=resolved.grace_seconds,
        priority_class=resolved.priority_class,
        tolerations=_TOLERATIONS,
        affinity=avoided.affinity(),
    )
    identity = pods.Identity(resolved.run_as_user, resolved.fs_group)
    return pods.pod(KIND, job.metadata, spec, identity, parts)


def _placement_at_creation(job: TrainingJob, attempt: int) -> Mapping[str, str]:
    if job.spec.num_nodes > 1:
        return {}  # rank 0 has no address yet
    return {names.ATTEMPT: placement(job.metadata, 1, attempt, 0, LOOPBACK)}


def restarts_left(job: TrainingJob) -> int:
    """Return how often the launchers may start ranks again in their pods, in one attempt.

    Never where a rule of the user's that says anything but Restart may be about any failure, and in
    the attempt after a pod was moved for an error that came twice: there again it is the user's.
    """
    policy, restarts = job.spec.failure_policy, job.status.restarts
    if any(not _names_an_end(rule.match) for rule in _decisive(policy)) or _was_moved(job.status):
        return 0
    return max(0, policy.max_restarts - (restarts.user if restarts else 0))


def _decisive(policy: FailurePolicy) -> list[FailureRule]:
    """Return the rules after which the launchers must not restart ranks by themselves."""
    return [each for each in policy.rules if each.action != "Restart"]


def _names_an_end(match: FailureMatch) -> bool:
    return bool(match.exit_codes or match.signals)


def _left_to_the_operator(policy: FailurePolicy) -> dict[str, str | None]:
    """Return the options that tell which ends of ranks some rule may be about.

    Of a rule that names both, codes alone: more comes to the operator then, and it decides.
    """
    matches = [each.match for each in _decisive(policy)]
    codes = {code for match in matches for code in match.exit_codes}
    signals = {number for match in matches if not match.exit_codes for number in match.signals}
    return {"--final-exit-codes": _listed(codes), "--final-signals": _listed(signals)}


def _listed(numbers: Collection[int]) -> str | None:
    return ",".join(str(each) for each in sorted(numbers)) or None


def _was_moved(status: TrainingJobStatus) -> bool:
    """Tell whether the attempt before sent one of its pods to another node."""
    failed = [each.number for each in status.attempts if each.outcome == "Failed"]
    moved = [each.attempt for each in status.avoided_nodes if each.pod is not None]
    return bool(failed) and failed[-1] in moved


def _train(job: TrainingJob, resolved: Resolved, attempt: int, rank: int) -> dict[str, Any]:
    spec = job.spec
    options = {
        "--num-nodes": spec.num_nodes,
        "--nproc-per-node": ranks_per_pod(spec, resolved),
        "--node-rank": rank,
        "--attempt": attempt,
        "--grace-seconds": grace_seconds(spec, resolved),
        "--leave-signal": spec.checkpoint.signal if spec.checkpoint else None,
        "--hang-timeout-seconds": spec.failure_policy.hang_timeout_seconds,
        "--hang-startup-seconds": spec.failure_policy.hang_startup_seconds,
        "--max-restarts": restarts_left(job),
        **_left_to_the_operator(spec.failure_policy),
        "--furthest-step": job.status.furthest_step,
    }
    secret = spec.env_from_secret
    return pods.container(
        TRAIN,
        spec.image or resolved.image or "",
        pull_policy=resolved.pull_policy,
        command=["python3", LAUNCHER_PATH, "run", *_options(options), "--", *spec.entrypoint],
        resources=resources(spec, resolved),
        read_only_root=False,  # a user's image may write wherever its user may
        environment={
            **{each.name: each.value for each in spec.env},
            "LEPTON_OUTPUT_DIR": OUTPUT_PATH,
            "LEPTON_RUN_UID": job.metadata.uid,
            **_checkpointing(job, attempt),
        },
        mounts=[
            pods.mount(SHARED_VOLUME, SHARED_PATH),
            pods.mount(MEMORY_VOLUME, pods.SHARED_MEMORY_PATH),
            pods.mount(ATTEMPT_VOLUME, ATTEMPT_FOLDER, read_only=True),
            *(_mount(each) for each in spec.volumes),
        ],
        **({"envFrom": [{"secretRef": {"name": secret}}]} if secret else {}),
    )


def _checkpointing(job: TrainingJob, attempt: int) -> dict[str, str]:
    """Return what tells the ranks where and how often to save; nothing without a place."""
    spec, asked = job.spec, job.spec.checkpoint
    if asked is None:
        return {}
    attempts = job.status.attempts
    return {
        **_checkpoint_place(spec, asked),
        "LEPTON_CHECKPOINT_INTERVAL": str(asked.interval_seconds),
        "LEPTON_CHECKPOINT_KEEP": str(asked.keep),
        "LEPTON_MTBF_SECONDS": str(failure_rate.mtbf_seconds(attempts, spec.num_nodes)),
        # What ends this attempt, or later ones in this pod, the ranks count themselves.
        "LEPTON_MTBF_FAILURES": str(failure_rate.failures_seen(attempts)),
        "LEPTON_MTBF_ATTEMPT": str(attempt),
    }


def _checkpoint_place(spec: TrainingJobSpec, asked: Checkpoint) -> dict[str, str]:
    if asked.uri is not None:
        return {"LEPTON_CHECKPOINT_URI": asked.uri, "LEPTON_CHECKPOINT_SOCKET": CHECKPOINT_SOCKET}
    (volume,) = (each for each in spec.volumes if each.name == asked.volume)
    # Quoted, it has no $(NAME) that the kubelet would take for a variable.
    return {"LEPTON_CHECKPOINT_URI": f"file://{quote(volume.mount_path)}"}


def checkpoint_folder(job: TrainingJob, step: int) -> str | None:
    """Return where the SDK's checkpoint of a step lies; None if the job does not say."""
    asked = job.spec.checkpoint
    place = asked and (asked.uri or asked.volume)
    return f"{place.rstrip('/')}/{job.metadata.uid}/step-{step:09d}" if place else None


def _checkpoint_uri(spec: TrainingJobSpec) -> dict[str, str | None]:
    return {"--checkpoint-uri": spec.checkpoint.uri if spec.checkpoint else None}


def _prepare(spec: TrainingJobSpec, resolved: Resolved) -> dict[str, Any]:
    needs_store = ["--needs-store"] if spec.output else []
    options = [*needs_store, *_options(_checkpoint_uri(spec) | _patterns(spec.failure_policy))]
    return _agent(PREPARE, resolved, ["prepare", "--launcher", LAUNCHER_PATH, *options])


def _patterns(policy: FailurePolicy) -> dict[str, str]:
    """Return the option that tells a pod what to look for in its log.

    Each pattern goes by a name that follows from its text: rules may change while a pod runs.
    """
    every = (rule.match.message_pattern for rule in policy.rules)
    named = {names.short_hash(pattern): pattern for pattern in every if pattern is not None}
    # The kubelet would take $(HOME) in a command for a variable, and $$ for a dollar sign.
    return {"--patterns": names.canonical(named).replace("$", "$$")} if named else {}


def _sidecar(
    owner: Metadata, spec: TrainingJobSpec, resolved: Resolved, attempt: int, rank: int
) -> dict[str, Any]:
    options: dict[str, Any] = {
        "--namespace": owner.namespace,
        "--job": owner.name,
        "--uid": owner.uid,
        "--attempt": attempt,
        "--rank": rank,
        "--port": TELEMETRY_PORT,
    }
    if spec.output:
        options |= {
            "--model": spec.output.model,
            "--max-opset": resolved.max_opset,
            "--max-ir": resolved.max_ir,
            "--image": spec.image or resolved.image,
            "--image-id-file": f"{IMAGE_FOLDER}/{IMAGE_FILE}",
            "--entrypoint": _lineage(spec.entrypoint),
        }
    options |= _checkpoint_uri(spec)
    arguments = ["sidecar", *_options(options | _patterns(spec.failure_policy))]
    ports = [{"name": "metrics", "containerPort": TELEMETRY_PORT}]
    told = [pods.mount(ATTEMPT_VOLUME, IMAGE_FOLDER, read_only=True)] if spec.output else []
    return _agent(SIDECAR, resolved, arguments, mounts=told, restartPolicy="Always", ports=ports)


def _lineage(entrypoint: Sequence[str]) -> str:
    """Return the entrypoint as JSON; of a very long one, as many arguments as fit."""
    fitting = list(entrypoint)
    while len(names.canonical(fitting)) > MAX_LINEAGE_TEXT:
        fitting.pop()
    return names.canonical(fitting)


def _agent(
    name: str,
    resolved: Resolved,
    arguments: list[str],
    *,
    mounts: Sequence[dict[str, Any]] = (),
    **more: Any,
) -> dict[str, Any]:
    return pods.container(
        name,
        resolved.agent_image,
        pull_policy=resolved.pull_policy,
        command=["lepton-agent", *arguments],
        resources=resolved.sidecar_resources,
        mounts=[pods.mount(SHARED_VOLUME, SHARED_PATH), pods.store_mount(), *mounts],
        **more,
    )


def _options(values: Mapping[str, Any]) -> list[str]:
    # `--name=value`: a value that starts with '-' is then no option.
    return [f"{name}={value}" for name, value in values.items() if value is not None]


def _volumes(spec: TrainingJobSpec, resolved: Resolved) -> list[dict[str, Any]]:
    items = [_annotation(ATTEMPT_FILE, names.ATTEMPT)]
    if spec.output:
        items.append(_annotation(IMAGE_FILE, names.IMAGE_ID))
    return [
        pods.empty_volume(SHARED_VOLUME),
        pods.empty_volume(
            MEMORY_VOLUME, memory=True, size=spec.shared_memory or resolved.shared_memory
        ),
        {"name": ATTEMPT_VOLUME, "downwardAPI": {"items": items}},
        pods.store_volume(),
        *(_volume(each) for each in spec.volumes),
    ]


def _annotation(path: str, name: str) -> dict[str, Any]:
    return {"path": path, "fieldRef": {"fieldPath": f"metadata.annotations['{name}']"}}


def _volume(volume: Volume) -> dict[str, Any]:
    claim = {"claimName": volume.claim_name, "readOnly": volume.read_only}
    return {"name": _volume_name(volume), "persistentVolumeClaim": claim}


def _mount(volume: Volume) -> dict[str, Any]:
    return pods.mount(_volume_name(volume), volume.mount_path, read_only=volume.read_only)


def _volume_name(volume: Volume) -> str:
    # A prefix, so that no name of a user's is one of ours.
    return f"data-{volume.name}"
