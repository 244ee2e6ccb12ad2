"""The administrator's values: one JSON file that the chart writes, read once at the start.

Nothing else reads the environment or files, and nothing here can be set by the user of a namespace.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

from pydantic import Field, StringConstraints

from lepton_operator.api.common import ApiModel, PodSettings, Resources
from lepton_operator.api.inference import MAX_BODY_BYTES

DEFAULT_PATH = Path("/etc/lepton/settings.json")


class Images(ApiModel):
    """Image references of what the operator starts."""

    agent: str
    trainer: str
    triton: str
    door: str
    pull_policy: str = "IfNotPresent"


class Triton(ApiModel):
    """The Triton server that the image above holds."""

    version: str = Field(
        default="2.51.0",
        pattern="^[0-9]+[.][0-9]+([.][0-9]+)?$",
        description="Triton server version, e.g. 2.51.0",
    )
    minimum_version: str = Field(
        default="2.70.0",
        pattern="^[0-9]+[.][0-9]+([.][0-9]+)?$",
        description="no revision is made with an older one: it would have holes that NVIDIA's "
        "bulletins list",
    )
    max_opset: int = Field(default=21, description="newest ONNX opset that it loads")
    max_ir: int = Field(default=10, description="newest ONNX IR version that it loads")
    max_batch_size: int = 32
    exit_timeout_seconds: int = 15
    drain_sleep_seconds: int = Field(
        default=5,
        ge=1,
        description="preStop sleep: endpoints must have left every kube-proxy before Triton stops",
    )
    start_timeout_seconds: int = Field(
        default=1800, description="a pod whose model is not ready by then is restarted"
    )


class DoorDefaults(ApiModel):
    """What a door does for a service that says nothing about it. A new value restarts nothing."""

    body_bytes: int = Field(default=64 << 20, ge=1, le=MAX_BODY_BYTES)
    timeout_seconds: int = Field(default=300, ge=1)
    concurrency: int = Field(default=1024, ge=1)
    queue: int = Field(default=1024, ge=0)
    latency_target_milliseconds: int = Field(
        default=1000, ge=1, description="requests that take longer are counted apart"
    )


class Defaults(ApiModel):
    """What reaches a pod where its object says nothing. Recorded with the pod when it is made."""

    images: Images
    triton: Triton = Triton()
    door: DoorDefaults = DoorDefaults()
    training_resources: Resources = Resources(limits={"nvidia.com/gpu": 1})
    inference_resources: Resources = Resources(limits={"nvidia.com/gpu": 1})
    step_resources: Resources = Resources(requests={"cpu": "100m", "memory": "256Mi"})
    sidecar_resources: Resources = Resources(requests={"cpu": "50m", "memory": "64Mi"})
    gpu_resource: str = "nvidia.com/gpu"
    run_as_user: int | None = 1000
    fs_group: int | None = 1000
    training_priority_class: str | None = None
    inference_priority_class: str | None = None
    training_grace_period_seconds: int = 30
    training_shared_memory: str = Field(
        default="8Gi", description="size of /dev/shm, of which only what is used takes memory"
    )
    inference_shared_memory: str = Field(default="2Gi", description="likewise, of serving pods")
    inference_scratch_space: str = Field(
        default="1Gi", description="size of /tmp of serving pods, which are evicted beyond it"
    )
    node_not_ready_seconds: int = Field(
        default=30, description="a node silent for so long closes its attempts"
    )


class Peer(ApiModel):
    """Pods, by their labels and those of their namespace; no labels are any."""

    namespace_labels: dict[str, str] = Field(default_factory=dict)
    pod_labels: dict[str, str] = Field(default_factory=dict)


class Door(ApiModel):
    """The pods before the services of a namespace. A change here replaces them, one by one."""

    replicas: int = Field(default=2, ge=1)
    xds_address: str = Field(
        default="lepton-operator-xds.lepton-system.svc:18000",
        pattern="^[^:]+:[0-9]+$",
        description="host:port at which the operator tells doors what to do; its certificate "
        "names the host",
    )
    drain_timeout_seconds: int = Field(
        default=300, ge=0, description="what a door that ends gives to open requests"
    )
    resources: Resources = Resources(
        requests={"cpu": "100m", "memory": "192Mi"}, limits={"memory": "512Mi"}
    )
    pods: PodSettings = PodSettings()
    operator: Peer = Field(default=Peer(), description="who asks doors what is in flight")
    scrapers: tuple[Peer, ...] = Field(
        default=(Peer(namespace_labels={"kubernetes.io/metadata.name": "monitoring"}),),
        description="who reads the metrics of doors and serving pods: Prometheus",
    )


class LeaderElection(ApiModel):
    """Lease timings, in seconds; lease > renew deadline > retry."""

    name: str = "lepton-operator"
    lease_seconds: int = 8
    renew_deadline_seconds: int = 5
    retry_seconds: int = 1


class Xds(ApiModel):
    """Where the doors are given their configuration, over mutual TLS."""

    port: int = 18000
    certificates: Path = Field(
        default=Path("/etc/lepton-xds"), description="folder of ca.crt, tls.crt and tls.key"
    )


LabelName = Annotated[str, StringConstraints(pattern="^[a-zA-Z_][a-zA-Z0-9_]*$")]


class Prometheus(ApiModel):
    """Where autoscaling reads what doors and Tritons count."""

    url: str = Field(
        default="",
        pattern=r"^(https?://[^\s/?#]+(/[^\s?#]*)?)?$",
        description="empty: the doors are asked directly",
    )
    matchers: dict[LabelName, str] = Field(
        default={}, description="labels of this cluster's series, where others' are there too"
    )
    max_age_seconds: int = Field(default=30, ge=2, description="an older sample tells nothing")


class Settings(ApiModel):
    """Everything that an installation can set."""

    defaults: Defaults
    door: Door = Door()
    watch_namespaces: tuple[str, ...] = Field(
        default=(), description="empty: all namespaces, and nodes are watched too"
    )
    workers: int = 16
    resync_seconds: int = Field(default=300, description="caches are listed anew so often")
    pods_first_seconds: float = Field(
        default=1.0, description="status waits at most so long for other objects' pods"
    )
    leader_election: LeaderElection = LeaderElection()
    prometheus: Prometheus = Prometheus()
    http_port: int = 8080
    xds: Xds | None = Field(default=None, description="unset: no door is given anything")
    log_level: str = "INFO"


def load(path: Path) -> Settings:
    """Read the settings; a wrong file ends the start with pydantic's sentence for each field."""
    return Settings.model_validate(json.loads(path.read_text()))
