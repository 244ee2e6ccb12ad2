"""The operator is killed with -9 in the middle: nothing is made, trained or evaluated twice."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from e2e.cluster.target import Target
from e2e.jobs import attempts, model, service
from e2e.kubectl import Kubectl
from e2e.models import bucket_of, upload_digits
from e2e.operators import kill_leader
from e2e.test_models import GATE, job_with_model, ready
from e2e.test_serving import serves, service_of
from e2e.test_training import completes, runs
from e2e.waiting import has_reason, wait_until

TOLD = "/tmp/told"
WAIT_UNTIL_TOLD = f"""
import pathlib, time
while not pathlib.Path({TOLD!r}).exists():
    time.sleep(0.1)
"""
MADE = {"pods", "services", "leptonmodels"}


@pytest.fixture
def embedded(installed: Target) -> Target:
    if installed.embedded is None:
        pytest.skip("the operator's processes are on another machine")
    return installed


def created(at: Target, namespace: Kubectl) -> Counter[str]:
    """Return how often each pod, Service and model was created, from the API server's own log."""
    assert at.embedded is not None
    found: Counter[str] = Counter()
    for event in at.embedded.layout.audit_events():
        about = event.get("objectRef", {})
        ours = about.get("namespace") == namespace.namespace and event["verb"] == "create"
        good = event.get("responseStatus", {}).get("code") == 201
        whole = "subresource" not in about  # a pod's binding is a creation too
        if ours and good and whole and about.get("resource") in MADE:
            found[f"{about['resource']}/{about.get('name')}"] += 1
    return found


def code_of(job: dict[str, Any]) -> str:
    return str(job["spec"]["env"][0]["value"])


def stored(namespace: Kubectl, ending: str) -> int:
    """Return how many objects of the store end like this."""
    store, _ = bucket_of(namespace)
    paths = [each["path"] for batch in store.list() for each in batch]
    return sum(path.endswith(ending) for path in paths)


def test_during_training(namespace: Kubectl, embedded: Target) -> None:
    job = job_with_model("digits")
    job["spec"]["env"][0]["value"] = WAIT_UNTIL_TOLD + code_of(job)
    namespace.apply(job)
    runs(namespace, "digits")
    kill_leader(namespace)
    tell = f"open({TOLD!r}, 'w')"
    namespace.run("exec", "digits-train-1-0", "-c", "train", "--", "python", "-c", tell)
    assert [each["outcome"] for each in attempts(completes(namespace, "digits"))] == ["Succeeded"]
    assert ready(namespace, "digits")["status"]["served"]["version"] == 1
    assert stored(namespace, "/success.json") == 1
    assert set(created(embedded, namespace).values()) == {1}


def test_during_evaluation(namespace: Kubectl, embedded: Target) -> None:
    namespace.apply(model("digits", source=upload_digits(namespace), evaluation=GATE))
    wait_until(
        lambda: namespace.get("leptonmodel", "digits"),
        lambda each: has_reason(each, "Evaluating"),
        "a model is ready",
    )
    kill_leader(namespace)
    assert len(ready(namespace, "digits")["status"]["versions"]) == 1
    assert stored(namespace, "/versions/1.json") == 1
    assert stored(namespace, "/versions/2.json") == 0
    assert set(created(embedded, namespace).values()) == {1}


def test_during_a_rollout(namespace: Kubectl, embedded: Target) -> None:
    namespace.apply(model("digits", source=upload_digits(namespace)), service("digits", replicas=2))
    serves(namespace, "digits", version=1)
    namespace.apply(model("digits", source=upload_digits(namespace, seed=1)))
    wait_until(
        lambda: service_of(namespace, "digits"),
        lambda each: has_reason(each, "RollingOut"),
        "a service is ready",
    )
    kill_leader(namespace)
    serves(namespace, "digits", version=2)
    pods = [name for name in created(embedded, namespace) if "-serve-" in name]
    # Two of each revision; a place that became free may be taken again by another pod.
    made = sum(created(embedded, namespace)[name] for name in pods)
    assert made == 4
