"""A service follows its load on real pods: counted by real doors and a real Prometheus.

The model waits 100 ms a request, so that pods more serve more on a machine of two cores.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from operator import not_
from typing import Any

import pytest

from e2e import installation
from e2e.cluster.target import Target
from e2e.deadlines import DEADLINES_SECONDS
from e2e.installation import RELEASE, SYSTEM
from e2e.jobs import model, service
from e2e.kubectl import Kubectl
from e2e.load import CLIENTS, load
from e2e.models import upload_digits
from e2e.rollout.said import Sayings, listening
from e2e.test_serving import serves, service_of
from e2e.waiting import condition, wait_until
from images.build import build

# Half of the requests in time is little to ask: what a load was worth is soon forgotten after it.
ASKED: Mapping[str, Any] = {
    "minReplicas": 1,
    "maxReplicas": 4,
    "target": {"latencyMilliseconds": 500, "percentile": 50},
}
RATE = 5
"""Requests a second of each client: together twice what a pod answers."""
FEW = 1
"""The same: together half of what a pod answers, if it computes them all."""
ENOUGH = 300
"""Answers in 15 s: seven looks of the law, the second of which adds a replica where all compute."""
PROMETHEUS = f"deployment/{RELEASE}-prometheus"
PROMETHEUS_PODS = "app.kubernetes.io/component=prometheus"
WORDS = {"time", "from", "to", "metric", "value", "target", "reason"}


@pytest.fixture(scope="module")
def installed(target: Target) -> Iterator[Target]:
    """The chart with a Prometheus, and with a Triton whose models wait; then as it was."""
    triton = build(("sleeper",))["sleeper"]
    if target.embedded is not None:
        target.embedded.load([triton])
    prometheus = {"enabled": True, "scrapeIntervalSeconds": 2}
    installation.install(target, values={"images": {"triton": triton}, "prometheus": prometheus})
    yield target
    installation.install(target)


@pytest.fixture
def sleeper(namespace: Kubectl) -> Kubectl:
    """A namespace with a service of one pod that asks for a latency."""
    return serve(namespace)


@pytest.fixture
def remembering(namespace: Kubectl) -> Kubectl:
    """The same, which answers what it was asked before without its model."""
    return serve(namespace, responseCache="1Mi")


def serve(kubectl: Kubectl, **triton: Any) -> Kubectl:
    asked = service(
        "sleeper",
        resources={"requests": {"cpu": "100m"}},
        batching={"maxBatchSize": 1},
        triton={"instances": 1, **triton},
        autoscaling=ASKED,
    )
    kubectl.apply(model("sleeper", source=upload_digits(kubectl)), asked)
    serves(kubectl, "sleeper", version=1)
    return kubectl


def wanted(kubectl: Kubectl) -> int:
    found = service_of(kubectl, "sleeper") or {}
    return int(found["spec"]["replicas"])


def is_scaled_up(kubectl: Kubectl) -> None:
    """Wait until pods more are wanted, and serve."""
    count = wait_until(lambda: wanted(kubectl), lambda found: found > 1, "a service is scaled")
    wait_until(
        lambda: service_of(kubectl, "sleeper") or {},
        lambda found: found["status"]["replicas"]["ready"] > 1,
        "a service is ready",
        f"with {count} pods",
    )


def decisions(said: Sayings) -> list[dict[str, Any]]:
    """Return all changes that a status has told of, the oldest first: it lists the last five."""
    found: list[dict[str, Any]] = []
    for saying in tuple(said.every):
        told = saying.status.get("autoscaling", {}).get("decisions", ())
        found += [each for each in reversed(told) if each not in found]
    return found


def says(kubectl: Kubectl, reason: str) -> None:
    """Wait until this is said of the source."""
    wait_until(
        lambda: condition(service_of(kubectl, "sleeper"), "ScalingActive"),
        lambda found: found.get("reason") == reason,
        "scaling is told",
        f"as {reason}",
    )


def explained(kubectl: Kubectl) -> dict[str, Any]:
    """Return what the law decides over the replicas that there were, by Prometheus' memory."""
    bounds = (f"--min={ASKED['minReplicas']}", f"--max={ASKED['maxReplicas']}")
    target: Mapping[str, Any] = ASKED["target"]
    asked = (f"--target-ms={target['latencyMilliseconds']}", f"--percentile={target['percentile']}")
    place = (f"--namespace={kubectl.namespace}", "--service=sleeper", "--from=30m")
    argv = ("python", "-m", "lepton_operator", "explain", *place, *bounds, *asked)
    deployment = f"deployment/{RELEASE}"
    told = kubectl.within(SYSTEM).run(
        *("exec", deployment, "--", *argv, "--as-it-was", "--every", "--output=json"),
        timeout_seconds=DEADLINES_SECONDS["the operator leads"],  # the same imports
    )
    found: dict[str, Any] = json.loads(told)
    return found


def holds(kubectl: Kubectl) -> float:
    """Return how many requests a second the replicas hold, by the law's newest look."""
    newest = explained(kubectl)["decisions"][-1]
    return float(newest["target"]) if newest["metric"] == "demand" else 0.0


def test_a_service_follows_its_load_through_scale_and_says_why(sleeper: Kubectl) -> None:
    with listening(sleeper, "sleeper") as said:
        with load(sleeper, "sleeper", RATE):
            is_scaled_up(sleeper)
            says(sleeper, "PrometheusAsked")
        wait_until(lambda: wanted(sleeper), lambda count: count == 1, "a load is forgotten")
        # The number is set first, and told of then.
        told = wait_until(
            lambda: decisions(said),
            lambda found: bool(found) and found[-1]["to"] == 1,
            "a condition shows",
        )
    assert told[0]["from"] == 1
    assert all(each.keys() == WORDS for each in told)
    assert all(after["from"] == before["to"] for before, after in pairwise(told))
    asked = ("get", "lisvc", "sleeper", "-o", "json", "--show-managed-fields")
    managed = json.loads(sleeper.run(*asked))["metadata"]["managedFields"]
    through_scale = [each for each in managed if each.get("subresource") == "scale"]
    assert "f:replicas" in through_scale[0]["fieldsV1"]["f:spec"]
    # It looks at other moments of the same counters, and learns later how long a start takes: so it
    # comes to the same a look or two later, and by other steps.
    again = wait_until(
        lambda: explained(sleeper),
        lambda found: found["decisions"][-1]["to"] == 1,
        "a load is forgotten",
        "by the replay too",
    )
    assert again["summary"]["gpu_seconds_used"] > 0
    assert max(each["to"] for each in again["decisions"] if not each["held"]) > 1


def test_what_the_response_cache_answers_brings_no_replica(remembering: Kubectl) -> None:
    # Doors and Tritons are read at different moments. So that no look sees many requests, and none
    # of the hits yet, the law first learns of the cache from few.
    with load(remembering, "sleeper", FEW):
        says(remembering, "PrometheusAsked")
        wait_until(
            lambda: holds(remembering),
            lambda rate: rate > 2 * RATE * len(CLIENTS),
            "scaling is told",
            "by what the cache answers",
        )
    with load(remembering, "sleeper", RATE) as clients:
        wait_until(
            lambda: [each for each in clients.so_far() if not each.error],
            lambda answered: len(answered) > ENOUGH,
            "a service is scaled",
            "if it is to be",
        )
        assert wanted(remembering) == 1
    looks = explained(remembering)["decisions"]
    assert any("miss the response cache" in each["reason"] for each in looks)


def test_without_prometheus_the_doors_are_asked_and_it_goes_on(sleeper: Kubectl) -> None:
    system = sleeper.within(SYSTEM)
    system.run("scale", PROMETHEUS, "--replicas=0")
    try:
        # While it ends it still answers.
        wait_until(lambda: system.list("pods", PROMETHEUS_PODS), not_, "a pod is gone")
        with load(sleeper, "sleeper", RATE):
            is_scaled_up(sleeper)
            says(sleeper, "DoorsAsked")
    finally:
        system.run("scale", PROMETHEUS, "--replicas=1")
    wait_until(lambda: system.list("pods", PROMETHEUS_PODS), is_there, "a pod runs")
    says(sleeper, "PrometheusAsked")


def is_there(pods: Sequence[Mapping[str, Any]]) -> bool:
    return any(condition(each, "Ready").get("status") == "True" for each in pods)
