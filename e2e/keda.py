"""KEDA on a cluster, by its own manifests: it tells HPAs what is counted outside of pods."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import groupby
from typing import Any

import yaml

from e2e import installation
from e2e.cluster import tools
from e2e.cluster.target import Target
from e2e.kubectl import Kubectl
from e2e.waiting import Manifest, condition, wait_until

NAMESPACE = "keda"
_METRICS_API = "v1beta1.external.metrics.k8s.io"


@contextmanager
def installed(at: Target) -> Iterator[None]:
    """KEDA's operator and metrics server, which answers for the API of external metrics."""
    kubectl = installation.kubectl(at, NAMESPACE)
    manifests = _manifests(kubectl, installation.provide(at, "keda"))
    try:
        # What kubectl would write beside each CRD is more than an annotation may hold.
        _each(kubectl, manifests, "apply", "--server-side")
        wait_until(
            lambda: kubectl.get("apiservice", _METRICS_API),
            lambda found: condition(found, "Available").get("status") == "True",
            "KEDA answers",
        )
        yield
    finally:
        _each(kubectl, manifests, "delete", "--ignore-not-found")


def _each(kubectl: Kubectl, manifests: Iterable[Manifest], *command: str) -> None:
    """Run a command on the manifests; one of them is in a namespace that is not KEDA's."""
    found = sorted(manifests, key=_namespace)
    for namespace, members in groupby(found, key=_namespace):
        given = json.dumps({"apiVersion": "v1", "kind": "List", "items": list(members)})
        kubectl.within(namespace).run(*command, "-f", "-", given=given, timeout_seconds=120)


def _namespace(manifest: Manifest) -> str:
    return str(manifest["metadata"].get("namespace", NAMESPACE))


def _manifests(kubectl: Kubectl, image: str) -> list[dict[str, Any]]:
    """Return what KEDA's `config/minimal` makes, with our build of its programs."""
    folder = tools.manifests("keda") / "minimal"
    found = list(yaml.safe_load_all(kubectl.run("kustomize", str(folder))))
    for each in found:
        if each["kind"] == "Deployment":
            _use(each["spec"]["template"]["spec"], image)
    return found


def _use(pod: Manifest, image: str) -> None:
    for container in pod["containers"]:
        container |= {"image": image, "imagePullPolicy": "IfNotPresent"}
