"""A volume that pods on all nodes of the embedded cluster mount: a folder of this machine."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from e2e.cluster.cluster import Cluster
from e2e.kubectl import Kubectl

CLAIM = "shared"
MOUNT_PATH = "/shared"


@dataclass(frozen=True, slots=True)
class Shared:
    """A namespace of the embedded cluster, and the folder behind its claim CLAIM."""

    cluster: Cluster
    kubectl: Kubectl
    folder: Path


@contextmanager
def shared_volume(cluster: Cluster, kubectl: Kubectl) -> Iterator[Shared]:
    """A volume for all pods of this namespace; its content is gone after the block."""
    folder = cluster.layout.state / "shared" / kubectl.namespace
    folder.mkdir(parents=True)
    folder.chmod(0o777)
    name = f"{CLAIM}-{kubectl.namespace}"
    kubectl.apply(_volume(name, folder), _claim(name))
    try:
        yield Shared(cluster, kubectl, folder)
    finally:
        kubectl.delete("pvc", CLAIM, "--wait=false")
        kubectl.delete("pv", name, "--wait=false")
        shutil.rmtree(folder, ignore_errors=True)


def _volume(name: str, folder: Path) -> dict[str, Any]:
    everywhere = {"key": "node.lepton.ai/e2e", "operator": "In", "values": ["true"]}
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": name},
        "spec": {
            "capacity": {"storage": "1Gi"},
            "accessModes": ["ReadWriteMany"],
            "persistentVolumeReclaimPolicy": "Retain",
            "storageClassName": CLAIM,
            "local": {"path": str(folder)},
            "nodeAffinity": {
                "required": {"nodeSelectorTerms": [{"matchExpressions": [everywhere]}]}
            },
        },
    }


def _claim(volume: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": CLAIM},
        "spec": {
            "accessModes": ["ReadWriteMany"],
            "storageClassName": CLAIM,
            "volumeName": volume,
            "resources": {"requests": {"storage": "1Gi"}},
        },
    }
