"""Test values in a few words: `a_training_job(nodes=2)`, `a_pod(rank=0, failed=True)`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from lepton_operator import names
from lepton_operator.api.model import LeptonModel
from lepton_operator.api.training import TrainingJob
from lepton_operator.settings import Defaults, Images, Triton
from lepton_operator.views import ContainerView, NodeView, PodView

NOW = datetime(2026, 11, 22, 4, 0, 0, 250_000, tzinfo=UTC)
DIGEST = "sha256:" + "ab" * 32
NAMESPACE = "team"

# Every field that a user may say of the pods of any kind.
POD_SETTINGS: Mapping[str, Any] = {
    "imagePullSecrets": [{"name": "registry"}],
    "serviceAccountName": "trainer",
    "runtimeClassName": "nvidia",
    "schedulerName": "other",
    "podLabels": {"team": "vision"},
    "podAnnotations": {"example.com/note": "mine"},
    "nodeSelector": {"gpu": "a100"},
    "tolerations": [{"key": "gpu", "operator": "Exists", "effect": "NoSchedule"}],
    "priorityClassName": "high",
    "terminationGracePeriodSeconds": 120,
    "sharedMemory": "16Gi",
    "fsGroup": 2000,
    "runAsUser": 2001,
}


def ago(seconds: float) -> datetime:
    return NOW - timedelta(seconds=seconds)


def stamp(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def defaults(**changes: Any) -> Defaults:
    """The chart's values, as small as they can be; with the Triton of the embedded cluster."""
    images = Images(agent="agent:1", trainer="trainer:1", triton="triton:1", door="door:1")
    triton = Triton(minimum_version="2.51.0")
    return Defaults(images=images, triton=triton).model_copy(update=changes)


def metadata(name: str, **changes: Any) -> dict[str, Any]:
    return {
        "name": name,
        "namespace": NAMESPACE,
        "uid": f"uid-of-{name}",
        "generation": 1,
        "creationTimestamp": stamp(ago(60)),
        **changes,
    }


# Training


def a_training_job(
    nodes: int = 1,
    *,
    name: str = "digits",
    output: str | None = None,
    status: Mapping[str, Any] | None = None,
    meta: Mapping[str, Any] | None = None,
    **spec: Any,
) -> TrainingJob:
    """A TrainingJob; further fields of the spec by their names in the manifest."""
    body = {"entrypoint": ["train.py"], "numNodes": nodes, **spec}
    if output is not None:
        body["output"] = {"model": output}
    return TrainingJob.model_validate(
        {
            "metadata": metadata(name, **(meta or {})),
            "spec": body,
            "status": status or {"observedGeneration": -1},
        }
    )


def a_record(outcome: str = "Succeeded", **fields: Any) -> str:
    """What a container leaves in its termination message."""
    return json.dumps({"outcome": outcome, **fields})


def a_result(version: int = 1, digest: str = DIGEST) -> str:
    """What rank 0 leaves when its model became a version."""
    return a_record(reason="Succeeded", model={"version": version, "digest": digest})


def a_pod(
    rank: int = 0,
    *,
    attempt: int = 1,
    job: str = "digits",
    node: str | None = "node-1",
    running: bool = False,
    failed: bool = False,
    succeeded: bool = False,
    exit_code: int = 1,
    said: str = "",
    finished: datetime | None = None,
    **more: Any,
) -> PodView:
    """A pod of a gang: scheduled and starting, unless something else is said."""
    pod = PodView(
        name=names.training_pod(job, attempt, rank),
        namespace=NAMESPACE,
        uid=f"uid-of-{attempt}-{rank}",
        phase="Pending",
        created=ago(30),
        owner_uid=f"uid-of-{job}",
        node=node,
        scheduled=node is not None,
        ip=f"10.0.0.{rank + 1}" if node else None,
    )
    if running:
        pod = replace(pod, phase="Running", ready=True, containers=(a_container(),))
    if failed or succeeded:
        ended = a_container(
            exit_code=0 if succeeded else exit_code, message=said, finished=finished or ago(1)
        )
        phase = "Succeeded" if succeeded else "Failed"
        pod = replace(pod, phase=phase, containers=(ended,))
    return replace(pod, **more)


def a_container(name: str = "train", exit_code: int | None = None, **more: Any) -> ContainerView:
    """A container that runs, or has ended if it has an exit code."""
    running = ContainerView(name, "running", ready=True, started=ago(20))
    if exit_code is None:
        return replace(running, **more)
    reason = "Completed" if exit_code == 0 else "Error"
    ended = replace(running, state="terminated", ready=False, exit_code=exit_code, reason=reason)
    return replace(ended, **more)


def a_waiting_container(name: str, reason: str, message: str = "") -> ContainerView:
    return ContainerView(name, "waiting", reason=reason, message=message)


def a_node(
    name: str = "node-1", *, gpus: int = 1, ready: bool = True, since: datetime | None = None
) -> NodeView:
    return NodeView(name=name, ready=ready, ready_changed=since or ago(3600), gpus=gpus)


# Models


def a_model(
    name: str = "digits",
    *,
    status: Mapping[str, Any] | None = None,
    meta: Mapping[str, Any] | None = None,
    **spec: Any,
) -> LeptonModel:
    """A LeptonModel; further fields of the spec by their names in the manifest."""
    return LeptonModel.model_validate(
        {
            "metadata": metadata(name, **(meta or {})),
            "spec": spec,
            "status": status or {"observedGeneration": -1},
        }
    )
