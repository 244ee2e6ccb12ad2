"""KEDA on a cluster, by its own manifests: it tells HPAs what is counted outside of pods."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import yaml

from e2e import installation
from e2e.cluster import tools
from e2e.cluster.target import Target
from e2e.kubectl import Kubectl
from e2e.waiting import condition, wait_until

NAMESPACE = "keda"
_OPERATOR, _METRICS_SERVER = "keda-operator", "keda-metrics-apiserver"
_METRICS_API = "v1beta1.external.metrics.k8s.io"


@contextmanager
def installed(at: Target) -> Iterator[None]:
    """KEDA's operator and metrics server, which answers for the API of external metrics."""
    kubectl = installation.kubectl(at, NAMESPACE)
    manifests = json.dumps(_manifests(kubectl, installation.provide(at, "keda")))
    try:
        # What kubectl would write beside each CRD is more than an annotation may hold.
        kubectl.run("apply", "--server-side", "-f", "-", given=manifests)
        wait_until(
            lambda: kubectl.get("apiservice", _METRICS_API),
            lambda found: condition(found, "Available").get("status") == "True",
            "KEDA answers",
        )
        yield
    finally:
        kubectl.run("delete", "--ignore-not-found", "-f", "-", given=manifests, timeout_seconds=120)


def _manifests(kubectl: Kubectl, image: str) -> dict[str, Any]:
    """Return what KEDA's `config/minimal` makes, with our build of its programs."""
    folder = tools.manifests("keda") / "minimal"
    found = list(yaml.safe_load_all(kubectl.run("kustomize", str(folder))))
    for each in found:
        if each["kind"] == "Deployment":
            _use(each["spec"]["template"]["spec"], image)
    return {"apiVersion": "v1", "kind": "List", "items": found}


def _use(pod: Mapping[str, Any], image: str) -> None:
    for container in pod["containers"]:
        container |= {"image": image, "imagePullPolicy": "IfNotPresent"}
