"""What benchmarks create: objects of one pod each, on fake nodes."""

from __future__ import annotations

from typing import Any

from bench.installed import FIXTURE, ON_FAKE_NODES, Bench
from e2e.jobs import service
from e2e.pods import restricted_pod
from e2e.waiting import is_current, is_ready, wait_until

KINDS = "trainingjobs,leptonmodels,inferenceservices"


def bare_pod(name: str) -> dict[str, Any]:
    """Return a pod as a client would create it itself: the floor."""
    return restricted_pod(name, {"name": "main", "image": "none"}, **ON_FAKE_NODES)


def training_job(name: str, **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "lepton.ai/v1alpha1",
        "kind": "TrainingJob",
        "metadata": {"name": name},
        "spec": {"entrypoint": ["train.py"], "resourcesPerNode": _SMALL, **_PLACED, **spec},
    }


def inference_service(name: str) -> dict[str, Any]:
    return service(name, FIXTURE, resources=_SMALL, **_PLACED)


# 50 nodes of 8 GPUs do not hold a thousand pods of one GPU: these ask for a little CPU instead.
_PLACED: dict[str, Any] = {**ON_FAKE_NODES}
_SMALL = {"requests": {"cpu": "100m"}}
SHARE = {"requests": {"cpu": "200m"}}
"""Of a pod whose latency is measured: with none, whatever else runs here goes before it."""


def settle(bench: Bench) -> None:
    """Wait until every object's status speaks of its spec, and every model is ready."""

    def unsettled() -> list[str]:
        return [
            each["metadata"]["name"]
            for each in bench.kubectl.list(KINDS)
            if not (is_ready(each) if each["kind"] == "LeptonModel" else is_current(each))
        ]

    wait_until(unsettled, lambda left: not left, "everything is ready")
