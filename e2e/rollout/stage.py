"""A service on real pods that something is done to."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from e2e.cluster.node import GPU
from e2e.cluster.target import Target
from e2e.installation import image_references
from e2e.jobs import model, service
from e2e.kubectl import Kubectl
from e2e.models import upload_digits
from e2e.pods import program_pod
from e2e.waiting import is_ready, wait_until

Manifest = Mapping[str, Any]

ONE_GPU = {"limits": {GPU: 1}}
# A batch is waited for: so requests are on their way at any moment, and whoever cuts some is seen.
BATCHING = {"maxBatchSize": 8, "preferredBatchSizes": [8], "maxQueueDelayMicroseconds": 30_000}
_FILLER = {"lepton.ai/test": "filler"}


@dataclass(frozen=True, slots=True)
class Stage:
    """An InferenceService, and the model of the same name that it serves."""

    target: Target
    kubectl: Kubectl
    name: str
    spec: Manifest

    def apply(self, **spec: Any) -> None:
        """Change the service: what is given takes the place of what was first asked for."""
        self.kubectl.apply(service(self.name, **{**self.spec, **spec}))

    def new_version(self, seed: int = 1) -> float:
        """Give the model another version; return when the service is told of it (Unix time).

        That is after its gate: before, nothing happens to the service.
        """
        self.kubectl.apply(model(self.name, source=upload_digits(self.kubectl, seed=seed)))
        wait_until(
            lambda: self.kubectl.get("leptonmodels.lepton.ai", self.name) or {},
            lambda found: found["status"].get("served", {}).get("version") == 2,
            "a model is ready",
        )
        return time.time()

    def found(self) -> dict[str, Any]:
        return self.kubectl.get("inferenceservices.lepton.ai", self.name) or {}

    def status(self) -> dict[str, Any]:
        status: dict[str, Any] = self.found().get("status", {})
        return status

    def pods(self) -> Sequence[dict[str, Any]]:
        return self.kubectl.list("pods", f"lepton.ai/role=serve,lepton.ai/name={self.name}")

    def events(self, reason: str) -> Sequence[dict[str, Any]]:
        """Return the Kubernetes Events about the service that have this reason."""
        every = self.kubectl.list("events")
        return [
            each
            for each in every
            if (each["reason"], each["involvedObject"]["name"]) == (reason, self.name)
        ]

    def settles(self, replicas: int, version: int | None = None) -> None:
        """Wait until so many pods serve, this version if it is named, and nothing else goes on."""

        def has_settled(found: dict[str, Any]) -> bool:
            status = found.get("status", {})
            counts = {"current": replicas, "ready": replicas, "updated": replicas}
            return (
                is_ready(found)
                and "rollout" not in status
                and status["replicas"] == counts
                and version in (None, status["version"])
            )

        wait_until(self.found, has_settled, "a rollout is done", f"of {self.name}")

    def pods_are_gone(self, *uids: str) -> None:
        """Wait until none of these pods, by their UIDs, is there any more."""
        wait_until(
            lambda: {each["metadata"]["uid"] for each in self.kubectl.list("pods")},
            lambda there: not there & set(uids),
            "a pod is gone",
        )

    def fill(self, free: int) -> None:
        """Leave so many GPUs of the whole cluster free: other pods take the rest."""
        left = free
        for node, there in self._free_gpus().items():
            kept = min(left, there)
            left -= kept
            if there > kept:
                self.kubectl.apply(_filler(node, there - kept))
        wait_until(
            lambda: self.kubectl.list("pods", _selector(_FILLER)),
            lambda pods: all(pod["status"].get("phase") == "Running" for pod in pods),
            "a pod runs",
        )

    def empty(self) -> None:
        """Take the fillers away."""
        self.kubectl.run(
            "delete", "pods", "-l", _selector(_FILLER), "--ignore-not-found", "--grace-period=0"
        )

    def _free_gpus(self) -> dict[str, int]:
        nodes = self.kubectl.list("nodes")
        free = {each["metadata"]["name"]: int(each["status"]["allocatable"][GPU]) for each in nodes}
        asked = self.kubectl.run("get", "pods", "--all-namespaces", "-o", _GPUS_OF_PODS)
        for line in asked.splitlines():
            node, *counts = line.split()
            free[node] -= sum(map(int, counts))
        return free


# A line a pod that has a node and has not ended: the node, and the GPUs of its containers.
_GPUS_OF_PODS = (
    'go-template={{range .items}}{{if and .spec.nodeName (ne .status.phase "Succeeded") '
    '(ne .status.phase "Failed")}}{{.spec.nodeName}}{{range .spec.containers}}'
    '{{with .resources.limits}} {{or (index . "' + GPU + '") 0}}{{end}}{{end}}\n{{end}}{{end}}'
)


def _selector(labels: Mapping[str, str]) -> str:
    return ",".join(f"{key}={value}" for key, value in labels.items())


def _filler(node: str, gpus: int) -> dict[str, Any]:
    container = {
        "name": "filler",
        "image": image_references()["agent"],
        "command": ["sleep", "infinity"],
        "resources": {"limits": {GPU: gpus}},
    }
    pod = program_pod(f"filler-{node}", container, nodeSelector={"kubernetes.io/hostname": node})
    pod["metadata"]["labels"] = _FILLER
    return pod


@contextmanager
def stage(target: Target, kubectl: Kubectl, name: str, **spec: Any) -> Iterator[Stage]:
    """A service that is Ready; it and its model are gone after the block."""
    asked = {"replicas": 2, "resources": ONE_GPU, "batching": BATCHING, **spec}
    made = Stage(target, kubectl, name, asked)
    try:
        kubectl.apply(model(name, source=upload_digits(kubectl)))
        made.apply()
        made.settles(asked["replicas"], version=1)
        yield made
    finally:
        made.empty()
        kubectl.delete("inferenceservices.lepton.ai", name)
        kubectl.delete("leptonmodels.lepton.ai", name)
