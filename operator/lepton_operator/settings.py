"""The administrator's values: one JSON file that the chart writes, read once at the start.

Nothing else reads the environment or files, and nothing here can be set by the user of a namespace.
"""

from __future__ import annotations

import json
from pathlib import Path

from pydantic import Field

from lepton_operator.api.common import ApiModel, Resources

DEFAULT_PATH = Path("/etc/lepton/settings.json")


class Images(ApiModel):
    """Image references of what the operator starts."""

    agent: str
    trainer: str
    triton: str
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


class Defaults(ApiModel):
    """What reaches a pod where its object says nothing. Recorded with the pod when it is made."""

    images: Images
    triton: Triton = Triton()
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


class LeaderElection(ApiModel):
    """Lease timings, in seconds; lease > renew deadline > retry."""

    name: str = "lepton-operator"
    lease_seconds: int = 8
    renew_deadline_seconds: int = 5
    retry_seconds: int = 1


class Settings(ApiModel):
    """Everything that an installation can set."""

    defaults: Defaults
    watch_namespaces: tuple[str, ...] = Field(
        default=(), description="empty: all namespaces, and nodes are watched too"
    )
    workers: int = 16
    resync_seconds: int = Field(default=300, description="caches are listed anew so often")
    pods_first_seconds: float = Field(
        default=1.0, description="status waits at most so long for other objects' pods"
    )
    leader_election: LeaderElection = LeaderElection()
    http_port: int = 8080
    log_level: str = "INFO"


def load(path: Path) -> Settings:
    """Read the settings; a wrong file ends the start with pydantic's sentence for each field."""
    return Settings.model_validate(json.loads(path.read_text()))
