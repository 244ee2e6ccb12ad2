"""The chart as Helm renders it, and an API server that judges what comes out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from e2e.cluster import ControlPlane, control_plane
from e2e.installation import RESTRICTED, SYSTEM
from e2e.kubectl import Kubectl
from tests.helm import Document, Helm, Values

Renders = Mapping[str, list[Document]]

TEAMS = ("team-a", "team-b")
ROOT_SECRET = "0123456789abcdef"
STORE = {"enabled": True, "rootSecret": ROOT_SECRET, "namespaces": [*TEAMS]}
# What people set, by the names of the golden files.
CASES: Mapping[str, Values] = {
    "default": {},
    "store": {"store": STORE},
    "watch-namespaces": {"watchNamespaces": [*TEAMS]},
    "door": {"door": {"namespaces": [*TEAMS]}},
    "cert-manager": {"door": {"namespaces": [*TEAMS], "certificates": {"issuer": "doors"}}},
    "prometheus": {
        "prometheus": {
            "enabled": True,
            "clients": [{"namespaceLabels": {"kubernetes.io/metadata.name": "keda"}}],
        },
        "watchNamespaces": [*TEAMS],
    },
    "monitors": {
        "prometheus": {
            "url": "https://prometheus.monitoring.svc/team",
            "matchers": {"cluster": "blue"},
            "monitors": {"create": True, "labels": {"release": "stack"}},
        }
    },
    "own-certificates": {"door": {"namespaces": [*TEAMS], "certificates": {"create": False}}},
    "no-priority-classes": {
        "priorityClasses": {"training": {"name": ""}, "inference": {"name": ""}}
    },
    "openshift": {"defaults": {"runAsUser": None, "fsGroup": None}, "store": STORE},
    "everything": {
        "images": {"pullPolicy": "Always"},
        "imagePullSecrets": [{"name": "registry"}],
        "operator": {"replicas": 1, "nodeSelector": {"a": "b"}, "tolerations": [{"key": "c"}]},
        "defaults": {
            "gpuResource": "amd.com/gpu",
            "trainingResources": {},
            "runAsUser": 1000680000,
        },
        "priorityClasses": {"training": {"name": "batch", "value": 1000000}},
        "door": {
            "namespaces": [TEAMS[0]],
            "replicas": 3,
            "resources": {"limits": {"memory": "1Gi"}},
            "drainTimeoutSeconds": 30,
            "imagePullSecrets": [{"name": "registry"}],
            "nodeSelector": {"a": "b"},
            "tolerations": [{"key": "c"}],
            "scrapers": [{"podLabels": {"app": "prometheus"}}],
            "certificates": {"validityDays": 1},
        },
        "store": {
            **STORE,
            "persistence": {"size": "1Ti", "storageClassName": "fast"},
            "nodeSelector": {"a": "b"},
            "tolerations": [{"key": "c"}],
        },
    },
}


@pytest.fixture
def helm(tmp_path: Path) -> Helm:
    return Helm(tmp_path)


@pytest.fixture(scope="session")
def renders(tmp_path_factory: pytest.TempPathFactory) -> Renders:
    """The cases, rendered once; nobody changes them."""
    helm = Helm(tmp_path_factory.mktemp("helm"))
    return {case: helm.render(values) for case, values in CASES.items()}


@pytest.fixture(scope="session")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """An API server whose namespaces refuse, and warn of, what is not `restricted`."""
    with control_plane(tmp_path_factory.mktemp("plane")) as found:
        labels = RESTRICTED | {"pod-security.kubernetes.io/warn": "restricted"}
        for name in (SYSTEM, *TEAMS):
            metadata = {"name": name, "labels": labels}
            manifest = {"apiVersion": "v1", "kind": "Namespace", "metadata": metadata}
            found.api.apply(f"/api/v1/namespaces/{name}", manifest)
        yield found


@pytest.fixture
def kubectl(plane: ControlPlane) -> Kubectl:
    return Kubectl(plane.kubeconfig, f"lepton-{plane.layout.name}", SYSTEM)
