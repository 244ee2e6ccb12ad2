"""The chart as Helm renders it, and an API server that judges what comes out."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from e2e.cluster import ControlPlane, control_plane, tool
from e2e.cluster.tools import KUBERNETES_VERSION
from e2e.installation import CHART, RELEASE, RESTRICTED, SYSTEM
from e2e.kubectl import Kubectl

Document = dict[str, Any]
Values = Mapping[str, Any]
Renders = Mapping[str, list[Document]]

TEAMS = ("team-a", "team-b")
ROOT_SECRET = "0123456789abcdef"
STORE = {"enabled": True, "rootSecret": ROOT_SECRET, "namespaces": [*TEAMS]}
# What people set, by the names of the golden files.
CASES: Mapping[str, Values] = {
    "default": {},
    "store": {"store": STORE},
    "watch-namespaces": {"watchNamespaces": [*TEAMS]},
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
        "store": {
            **STORE,
            "persistence": {"size": "1Ti", "storageClassName": "fast"},
            "nodeSelector": {"a": "b"},
            "tolerations": [{"key": "c"}],
        },
    },
}


class HelmError(RuntimeError):
    """Helm said no; the text is what it printed."""


@dataclass(frozen=True, slots=True)
class Helm:
    """Helm with a file of values, as a person gives them to it."""

    folder: Path

    def run(self, *arguments: str, values: Values | None = None) -> str:
        file = self.folder / "values.json"
        file.write_text(json.dumps(values))
        given = () if values is None else ("--values", str(file))
        argv = (str(tool("helm")), *arguments, *given)
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise HelmError(done.stderr.strip() or done.stdout.strip())
        return done.stdout

    def render(self, values: Values | None = None, namespace: str = SYSTEM) -> list[Document]:
        where = ("--namespace", namespace, "--kube-version", KUBERNETES_VERSION)
        text = self.run("template", RELEASE, str(CHART), *where, values=values)
        return [each for each in yaml.load_all(text, Loader=yaml.CSafeLoader) if each]


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
