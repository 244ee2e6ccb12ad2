"""A serving pod: a version fetched by digest, then NVIDIA Triton over a read-only folder.

What an administrator's values say reaches a pod through `Resolved`, which is recorded with the
revision: a new value or a new operator then changes no pod that runs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import Field

from lepton_operator import names
from lepton_operator.api.common import PodSettings, Resources, StatusModel
from lepton_operator.api.inference import (
    MAX_BODY_BYTES,
    Batching,
    InferenceService,
    InferenceServiceSpec,
    Spread,
    Triton,
)
from lepton_operator.build import pods
from lepton_operator.settings import Defaults

SERVE = "serve"
FETCH = "fetch"
TRITON = "triton"

HTTP_PORT = 8000
GRPC_PORT = 8001
METRICS_PORT = 8002
PROGRESS_PORT = 9464  # of the init container, while it fetches the model
SERVICE_PORTS = (("http", HTTP_PORT), ("grpc", GRPC_PORT))

MODELS_VOLUME = "models"
MODELS_PATH = "/models"

# Between Triton's exit timeout and SIGKILL: what it needs to unload.
GRACE_MARGIN_SECONDS = 5

# Only a pod's own UID, which nobody outside the cluster knows, opens what changes a server.
_RESTRICTED = "shared-memory,model-repository,trace,logging:lepton-restricted=$(POD_UID)"

# Flags by a server version that knows them. An unknown flag keeps Triton
# from starting, so older servers go without.
_FLAGS: tuple[tuple[tuple[int, int], tuple[str, ...]], ...] = (
    (
        (2, 0),
        (
            f"--model-repository={MODELS_PATH}",
            "--model-control-mode=none",
            "--strict-readiness=true",
            "--exit-on-error=true",
            f"--http-port={HTTP_PORT}",
            f"--grpc-port={GRPC_PORT}",
            f"--metrics-port={METRICS_PORT}",
            # Its tables would fill the termination message, and why a model did not load be lost.
            "--log-info=false",
        ),
    ),
    (
        (2, 51),
        (
            "--disable-auto-complete-config",
            "--allow-sagemaker=false",
            "--allow-vertex-ai=false",
            "--trace-config=level=off",
            f"--http-restricted-api={_RESTRICTED}",
            f"--grpc-restricted-protocol={_RESTRICTED}",
        ),
    ),
    # The door keeps a service's own limit on bodies; Triton's default would refuse 64 MiB. (Since
    # 2.58, by its source.)
    ((2, 60), (f"--http-max-input-size={MAX_BODY_BYTES}",)),
    # The default since 2.68, by its source: said for a release that thinks again.
    ((2, 70), ("--allow-client-shm=false",)),
)

# Beside the version's own files: its config.pbtxt, and what a file system takes for itself.
_ROOM_MEBIBYTES = 64
_UNIT_BYTES = {"Mi": 2**20, "Gi": 2**30}

# A pod that Cluster Autoscaler does not know the controller of would keep its node for ever.
_MAY_BE_EVICTED = "cluster-autoscaler.kubernetes.io/safe-to-evict"


class Resolved(StatusModel):
    """The defaults that reach the pods of a revision, as they are recorded."""

    image: str
    fetch_image: str
    pull_policy: str
    flags: tuple[str, ...]
    resources: Resources
    fetch_resources: Resources
    max_batch_size: int
    exit_timeout_seconds: int
    drain_sleep_seconds: int
    start_timeout_seconds: int
    server_version: str
    run_as_user: int | None = None
    fs_group: int | None = None
    priority_class: str | None = Field(default=None)
    # Revisions from before there were bounds go without.
    shared_memory: str | None = None
    scratch_space: str | None = None
    models_space: str | None = None

    def written(self) -> str:
        """Return the annotation of a pod."""
        return names.canonical(
            self.model_dump(mode="json", by_alias=True, exclude_none=True)
            | {
                "resources": _written(self.resources),
                "fetchResources": _written(self.fetch_resources),
            }
        )


@dataclass(frozen=True, slots=True)
class Target:
    """A version of a model, by its digest."""

    model: str
    version: int
    digest: str


def resolve(
    service: InferenceService, defaults: Defaults, model_bytes: int | None = None
) -> Resolved:
    """Return what the administrator's values mean for a revision that is made now.

    `model_bytes` is the size of its version, if that is known.
    """
    spec, triton = service.spec, defaults.triton
    return Resolved(
        image=defaults.images.triton,
        fetch_image=defaults.images.agent,
        pull_policy=defaults.images.pull_policy,
        flags=(*flags(triton.version), *_cache_flags(spec)),
        resources=spec.resources or defaults.inference_resources,
        fetch_resources=defaults.sidecar_resources,
        max_batch_size=_max_batch_size(spec.batching, triton.max_batch_size),
        exit_timeout_seconds=triton.exit_timeout_seconds,
        drain_sleep_seconds=triton.drain_sleep_seconds,
        start_timeout_seconds=triton.start_timeout_seconds,
        server_version=triton.version,
        run_as_user=defaults.run_as_user,
        fs_group=defaults.fs_group,
        priority_class=defaults.inference_priority_class,
        shared_memory=defaults.inference_shared_memory,
        scratch_space=defaults.inference_scratch_space,
        models_space=_models_space(model_bytes),
    )


def _models_space(model_bytes: int | None) -> str | None:
    if not model_bytes:
        return None
    return f"{-(-model_bytes // _UNIT_BYTES['Mi']) + _ROOM_MEBIBYTES}Mi"


def flags(server_version: str) -> tuple[str, ...]:
    """Return the flags that this server version knows."""
    release = _release(server_version)
    return tuple(flag for since, some in _FLAGS if since <= release for flag in some)


def is_older(server_version: str, minimum_version: str) -> bool:
    return _release(server_version) < _release(minimum_version)


def _release(server_version: str) -> tuple[int, ...]:
    major, minor, *patch = (int(part) for part in server_version.split("."))
    return major, minor, *(patch or (0,))


def _cache_flags(spec: InferenceServiceSpec) -> tuple[str, ...]:
    size = spec.triton.response_cache if spec.triton is not None else None
    if size is None:
        return ()
    return (f"--cache-config=local,size={int(size[:-2]) * _UNIT_BYTES[size[-2:]]}",)


def _max_batch_size(batching: Batching | None, default: int) -> int:
    if batching is None:
        return default
    return batching.max_batch_size or max((default, *batching.preferred_batch_sizes))


def serving_pod(
    service: InferenceService, index: int, revision: str, target: Target, resolved: Resolved
) -> dict[str, Any]:
    """Return the pod of this index in this revision."""
    written = resolved.written()
    grace_seconds = _grace_seconds(service.spec, resolved)
    parts = pods.PodParts(
        name=names.serving_pod(service.metadata.name, index),
        role=SERVE,
        init_containers=[_fetch(service, target, resolved)],
        containers=[_triton(target, resolved, grace_seconds)],
        volumes=[
            pods.empty_volume(MODELS_VOLUME, size=resolved.models_space),
            pods.empty_volume(
                pods.SHARED_MEMORY_VOLUME,
                memory=True,
                size=service.spec.shared_memory or resolved.shared_memory,
            ),
            pods.store_volume(),
        ],
        labels={
            names.REVISION: revision,
            names.RESOLVED_HASH: names.short_hash(written),
        },
        annotations={names.RESOLVED: written, _MAY_BE_EVICTED: _may_be_evicted(service.spec)},
        priority_class=resolved.priority_class,
        restart_policy="Always",
        spread=[_spread(service, revision)],
        temporary_size=service.spec.scratch_space or resolved.scratch_space,
    )
    # The sleep before SIGTERM must fit into the grace period, or the API server refuses the pod.
    settings = service.spec.model_copy(update={"termination_grace_period_seconds": grace_seconds})
    identity = pods.Identity(resolved.run_as_user, resolved.fs_group)
    return pods.pod(service.kind, service.metadata, settings, identity, parts)


def selector(service: InferenceService) -> dict[str, str]:
    """Return the labels that exactly the serving pods of this service carry."""
    return {**names.owner_labels(service.kind, service.metadata.name), names.ROLE: SERVE}


def kubernetes_service(service: InferenceService, port: int) -> dict[str, Any]:
    """Return the Service of an InferenceService: it leads to this port of its namespace's doors."""
    metadata = service.metadata
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": metadata.name,
            "namespace": metadata.namespace,
            "labels": names.owner_labels(service.kind, metadata.name),
            "ownerReferences": [pods.controller_reference(service.kind, metadata)],
        },
        "spec": {
            "type": "ClusterIP",
            "selector": names.door_labels(),
            "ports": service_ports(port),
        },
    }


def service_ports(port: int) -> list[dict[str, Any]]:
    """Return both ports of a Service; the door tells HTTP and gRPC apart on one of its own."""
    return [
        {"name": name, "port": each, "targetPort": port, "protocol": "TCP"}
        for name, each in SERVICE_PORTS
    ]


def _grace_seconds(settings: PodSettings, resolved: Resolved) -> int:
    needed = resolved.drain_sleep_seconds + resolved.exit_timeout_seconds + GRACE_MARGIN_SECONDS
    return max(needed, settings.termination_grace_period_seconds or 0)


def _fetch(service: InferenceService, target: Target, resolved: Resolved) -> dict[str, Any]:
    where = ["--namespace", service.metadata.namespace, "--name", target.model]
    which = ["--version", str(target.version), "--digest", target.digest]
    how = ["--model", target.model, "--max-batch-size", str(resolved.max_batch_size)]
    return pods.container(
        FETCH,
        resolved.fetch_image,
        pull_policy=resolved.pull_policy,
        command=[
            *("lepton-agent", "fetch", *where, *which, "--repository", MODELS_PATH, *how),
            *_serving_options(service.spec),
        ],
        resources=resolved.fetch_resources,
        mounts=[pods.mount(MODELS_VOLUME, MODELS_PATH), pods.store_mount()],
        terminationMessagePolicy="FallbackToLogsOnError",
    )


def _serving_options(spec: InferenceServiceSpec) -> list[str]:
    """Return what config.pbtxt is to say; nothing that is not asked for.

    The agent of a revision from before an upgrade knows no option that came with it.
    """
    batching, triton = spec.batching or Batching(), spec.triton or Triton()
    flags = {
        "--must-batch": batching.is_asked_for,
        "--response-cache": triton.response_cache is not None,
    }
    options = {
        "--preferred-batch-sizes": ",".join(map(str, batching.preferred_batch_sizes)) or None,
        "--max-queue-delay-microseconds": batching.max_queue_delay_microseconds,
        "--instances": triton.instances,
        "--priority-levels": triton.priority_levels,
    }
    said = ((name, str(value)) for name, value in options.items() if value is not None)
    return [
        *(name for name, asked in flags.items() if asked),
        *(part for each in said for part in each),
    ]


def _triton(target: Target, resolved: Resolved, grace_seconds: int) -> dict[str, Any]:
    # A longer grace period of the user's is time for requests that are being answered.
    exit_timeout = grace_seconds - resolved.drain_sleep_seconds - GRACE_MARGIN_SECONDS
    made = pods.container(
        TRITON,
        resolved.image,
        pull_policy=resolved.pull_policy,
        command=["tritonserver", *resolved.flags, f"--exit-timeout-secs={exit_timeout}"],
        resources=resolved.resources,
        mounts=[
            pods.mount(MODELS_VOLUME, MODELS_PATH, read_only=True),
            pods.mount(pods.SHARED_MEMORY_VOLUME, pods.SHARED_MEMORY_PATH),
        ],
        ports=[
            {"name": "http", "containerPort": HTTP_PORT},
            {"name": "grpc", "containerPort": GRPC_PORT},
            {"name": "metrics", "containerPort": METRICS_PORT},
        ],
        lifecycle=_drain(resolved.drain_sleep_seconds),
        terminationMessagePolicy="FallbackToLogsOnError",
        **_probes(target, resolved.start_timeout_seconds),
    )
    uid = {"name": "POD_UID", "valueFrom": {"fieldRef": {"fieldPath": "metadata.uid"}}}
    return {**made, "env": [*made["env"], uid]}


def _drain(sleep_seconds: int) -> dict[str, Any]:
    return {"preStop": {"sleep": {"seconds": sleep_seconds}}}


def _probes(target: Target, start_timeout_seconds: int) -> dict[str, Any]:
    # The server is ready before its models are: only this path tells that the version answers.
    model = f"/v2/models/{target.model}/versions/{target.version}/ready"
    return {
        "startupProbe": _probe(model, period=1, timeout=2, failures=start_timeout_seconds),
        "readinessProbe": _probe(model, period=1, timeout=2, failures=3),
        "livenessProbe": _probe("/v2/health/live", period=10, timeout=5, failures=6),
    }


def _probe(path: str, *, period: int, timeout: int, failures: int) -> dict[str, Any]:
    return {
        "httpGet": {"path": path, "port": "http"},
        "periodSeconds": period,
        "timeoutSeconds": timeout,
        "failureThreshold": failures,
    }


def _may_be_evicted(spec: InferenceServiceSpec) -> str:
    return str(spec.disruption is None or spec.disruption.safe_to_evict).lower()


def _spread(service: InferenceService, revision: str) -> Mapping[str, Any]:
    """Prefer nodes with fewer pods of the revision; unasked, keep no pod Pending for it."""
    labels: Mapping[str, str] = {**selector(service), names.REVISION: revision}
    asked = service.spec.spread or Spread()
    return {
        "maxSkew": 1,
        "topologyKey": asked.topology_key,
        "whenUnsatisfiable": asked.when_unsatisfiable,
        "labelSelector": {"matchLabels": dict(labels)},
    }


def _written(resources: Resources) -> dict[str, Sequence[str]]:
    return resources.model_dump(mode="json", by_alias=True, exclude_defaults=True)
