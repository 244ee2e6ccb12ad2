"""KEDA in the place of our autoscaling: an HPA on its metrics server scales a service."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
import yaml

from e2e import installation, keda
from e2e.clients import client
from e2e.cluster.target import Target
from e2e.installation import RELEASE, ROOT, SYSTEM
from e2e.jobs import model, service
from e2e.kubectl import Kubectl
from e2e.models import upload_digits
from e2e.test_serving import serves, service_of
from e2e.waiting import Manifest, condition, wait_until

pytestmark = pytest.mark.long

CALLERS = 10
"""Each has a request at the door nearly all the time: at two a replica, more than there may be."""
BUSY, IDLE = 4, 1
"""The bounds of the ScaledObject."""
WINDOW_SECONDS = 15
"""The highest wish of these seconds holds while the load falls; 300 by default."""
HPA_SECONDS = 15
"""Between two looks of an HPA."""


@pytest.fixture(scope="module", autouse=True)
def installed_with_keda(installed: Target) -> Iterator[None]:
    """The chart with a Prometheus, and a Triton that takes its time and no CPU; and KEDA."""
    values = {
        "images": {"triton": installation.provide(installed, "sleeper")},
        "prometheus": {
            "enabled": True,
            "clients": [{"namespaceLabels": {"kubernetes.io/metadata.name": keda.NAMESPACE}}],
        },
    }
    installation.install(installed, values=values)
    with keda.installed(installed):
        yield
    installation.install(installed)


def serve(kubectl: Kubectl, replicas: int = IDLE) -> None:
    asked = service(
        "digits", replicas=replicas, batching={"maxBatchSize": 1}, triton={"instances": 1}
    )
    kubectl.apply(model("digits", source=upload_digits(kubectl)), asked)
    serves(kubectl, "digits", version=1)


@contextmanager
def scaled(kubectl: Kubectl, scaled_object: Mapping[str, Any]) -> Iterator[None]:
    kubectl.apply(scaled_object)
    try:
        wait_until(lambda: hpa(kubectl), is_active, "an HPA acts")
        yield
    finally:
        # Its finalizer is KEDA's: it has to go before KEDA does.
        kubectl.delete("scaledobject", scaled_object["metadata"]["name"])


def documented(namespace: str) -> dict[str, Any]:
    """Return the ScaledObject that the page shows, for this namespace and with a shorter window."""
    page = (ROOT / "docs/serving.md").read_text()
    (text,) = re.findall(r"```yaml\n(apiVersion: keda\.sh/.*?)```", page, re.DOTALL)
    shown: dict[str, Any] = yaml.safe_load(text.replace("team", namespace))
    down = {"stabilizationWindowSeconds": WINDOW_SECONDS}
    hpa_config = {"behavior": {"scaleDown": down}}
    shown["spec"]["advanced"] = {"horizontalPodAutoscalerConfig": hpa_config}
    return shown


def hpa(kubectl: Kubectl) -> dict[str, Any] | None:
    return kubectl.get("horizontalpodautoscaler", "keda-hpa-digits")


def is_active(found: Manifest | None) -> bool:
    return condition(found, "ScalingActive").get("status") == "True"


def has_no_metric(found: Manifest | None) -> bool:
    return condition(found, "ScalingActive").get("reason") == "FailedGetExternalMetric"


def replicas(kubectl: Kubectl) -> tuple[int, int]:
    """Return what the spec says, and how many pods are ready."""
    found = service_of(kubectl, "digits") or {}
    return found["spec"]["replicas"], found["status"]["replicas"]["ready"]


def rescaled(kubectl: Kubectl, count: int) -> None:
    """Wait until so many replicas are asked for and ready."""
    began = time.monotonic()
    wait_until(lambda: replicas(kubectl), lambda seen: seen == (count, count), "an HPA acts")
    print(f"{count} replicas after {time.monotonic() - began:.0f} s")


@contextmanager
def load(kubectl: Kubectl) -> Iterator[None]:
    """Callers that ask again as soon as they have an answer, each over a connection of its own."""
    asking, ends = client(kubectl, "digits"), threading.Event()

    def ask() -> None:
        while not ends.is_set():
            asking.version()

    with ThreadPoolExecutor(CALLERS) as threads:
        callers = [threads.submit(ask) for _ in range(CALLERS)]
        try:
            yield
        finally:
            ends.set()
    for each in callers:
        each.result()


def test_replicas_follow_the_requests_at_the_doors(namespace: Kubectl) -> None:
    serve(namespace)
    with scaled(namespace, documented(namespace.namespace)):
        with load(namespace):
            rescaled(namespace, BUSY)
        rescaled(namespace, IDLE)


def test_a_service_keeps_its_replicas_while_prometheus_is_gone(namespace: Kubectl) -> None:
    serve(namespace, BUSY)
    with load(namespace), scaled(namespace, documented(namespace.namespace)):
        with without_prometheus(namespace):
            wait_until(lambda: hpa(namespace), has_no_metric, "an HPA acts")
            time.sleep(2 * HPA_SECONDS + WINDOW_SECONDS)
            assert replicas(namespace) == (BUSY, BUSY)
        # It comes back without a past: what it does not know yet is not zero either.
        wait_until(lambda: hpa(namespace), is_active, "an HPA acts")
        time.sleep(HPA_SECONDS + WINDOW_SECONDS)
        rescaled(namespace, BUSY)


@contextmanager
def without_prometheus(kubectl: Kubectl) -> Iterator[None]:
    system, name = kubectl.within(SYSTEM), f"deployment/{RELEASE}-prometheus"
    system.run("scale", name, "--replicas=0")
    try:
        yield
    finally:
        system.run("scale", name, "--replicas=1")


def test_what_is_missing_is_zero_for_keda_unless_it_is_told(namespace: Kubectl) -> None:
    """Why the page says `ignoreNullValues: "false"`."""
    serve(namespace, BUSY)
    by_default = documented("nowhere")
    del by_default["spec"]["triggers"][0]["metadata"]["ignoreNullValues"]
    with load(namespace), scaled(namespace, by_default):
        rescaled(namespace, IDLE)
