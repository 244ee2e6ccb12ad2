"""The operator as a process against a real API server: what it makes, and what it survives."""

from __future__ import annotations

import signal
import time
import urllib.request
from collections.abc import Mapping
from functools import partial
from itertools import count, islice
from typing import Any

from e2e.cluster.control_plane import ControlPlane
from e2e.deadlines import DEADLINES_SECONDS
from e2e.waiting import wait_until
from tests.integration.conftest import Names, Namespace, Operator, Operators

# It is held by a process that is stopped for as long as an API server may take to start.
LONG_LEASE = {"leaseSeconds": 400, "renewDeadlineSeconds": 300, "retrySeconds": 1}
SETTLED = 'controller_runtime_reconcile_total{controller="trainingjob",result="success"}'
RETRIES = 'workqueue_retries_total{name="lepton-operator"}'


def scraped(operator: Operator) -> dict[str, float]:
    """Return the operator's metrics."""
    url = f"http://127.0.0.1:{operator.port}/metrics"
    with urllib.request.urlopen(url, timeout=DEADLINES_SECONDS["a server answers"]) as answer:
        lines = answer.read().decode().splitlines()
    pairs = (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    return {name: float(value) for name, value in pairs}


def writes(operator: Operator) -> float:
    """Return how often it wrote, but for the Lease's renewals (PUT)."""
    return written(scraped(operator))


def written(metrics: Mapping[str, float]) -> float:
    return sum(
        value
        for name, value in metrics.items()
        if name.startswith("rest_client_requests_total") and "GET" not in name and "PUT" not in name
    )


def writes_at_rest(operator: Operator) -> float:
    """Return how often it wrote once no pass is under way: Events come after the status."""
    return written(wait_until(partial(scraped, operator), is_at_rest, "a condition shows"))


def is_at_rest(metrics: Mapping[str, float]) -> bool:
    busy = ("workqueue_depth", "controller_runtime_active_workers")
    return not any(value for name, value in metrics.items() if name.startswith(busy))


def test_a_manifest_becomes_pods_a_status_and_events(
    namespace: Namespace, operators: Operators
) -> None:
    operators.start()
    namespace.train(numNodes=2, output={"model": "digits"})
    namespace.apply("LeptonModel", "digits", spec={})
    namespace.apply("InferenceService", "digits", spec={"model": {"name": "digits"}})
    namespace.wait_for_pods("digits-index-1", "digits-train-1-0", "digits-train-1-1")
    namespace.wait_for_reason("TrainingJob", "digits", "Scheduling")
    namespace.wait_for_reason("InferenceService", "digits", "NoAcceptedVersion")
    events = wait_until(lambda: namespace.list("Event"), bool, "an object is seen")
    assert {each["source"]["component"] for each in events} == {"lepton-operator"}
    assert [each["metadata"]["name"] for each in namespace.list("Service")] == ["digits"]


def test_at_rest_nothing_is_written_and_nothing_is_said(
    namespace: Namespace, operators: Operators
) -> None:
    first = operators.start()
    namespace.train(numNodes=2)
    namespace.wait_for_reason("TrainingJob", "digits", "Scheduling")
    time.sleep(1)
    before, said = writes_at_rest(first), first.log.read_text()
    time.sleep(4)
    assert writes(first) == before
    assert first.log.read_text() == said
    first.end()
    # Whoever comes next finds nothing to do either.
    second = operators.start("second")
    wait_until(partial(scraped, second), lambda told: told.get(SETTLED), "a condition shows")
    time.sleep(3)
    assert writes(second) <= 1  # the claim to the Lease, if it had to be made anew


def test_others_may_touch_objects_while_the_operator_writes(
    namespace: Namespace, operators: Operators
) -> None:
    operators.start()
    namespace.train(numNodes=1)
    numbers = count(1)

    def touch() -> Names:
        for number in islice(numbers, 20):
            label = {"metadata": {"labels": {"touched": str(number)}}}
            namespace.api.patch(namespace.path("TrainingJob", "digits"), label)
        return namespace.pods()

    wait_until(touch, lambda found: found == ["digits-train-1-0"], "an object is seen")
    namespace.delete("Pod", "digits-train-1-0")
    wait_until(touch, lambda found: found == ["digits-train-2-0"], "an attempt is closed")
    job = wait_until(
        lambda: namespace.get("TrainingJob", "digits") or {},
        lambda found: len(found["status"]["attempts"]) == 2,
        "a condition shows",
    )
    assert job["metadata"]["labels"] == {"touched": str(next(numbers) - 1)}


def test_a_strangers_pod_of_that_name_is_told_and_left_alone(
    namespace: Namespace, operators: Operators
) -> None:
    container = {"name": "c", "image": "i"}
    namespace.apply("Pod", "digits-train-1-0", spec={"containers": [container]})
    before = namespace.get("Pod", "digits-train-1-0")
    operators.start()
    namespace.train()
    message = namespace.wait_for_reason("TrainingJob", "digits", "NameTaken")
    assert "digits-train-1-0" in message
    assert namespace.get("Pod", "digits-train-1-0") == before
    namespace.delete("Pod", "digits-train-1-0")
    namespace.train(suspend=True)  # a new generation is tried at once
    namespace.train(suspend=False)
    wait_until(namespace.pods, bool, "an object is seen")


def test_a_job_made_anew_waits_for_the_pods_of_the_one_that_had_its_name(
    namespace: Namespace, operators: Operators
) -> None:
    operator = operators.start()
    namespace.train()
    namespace.wait_for_pods("digits-train-1-0")
    namespace.delete("TrainingJob", "digits")  # nobody collects its pods on this server
    namespace.train()
    message = namespace.wait_for_reason("TrainingJob", "digits", "NameTaken")
    assert "of the TrainingJob that had this name before" in message
    # Each wait is twice the one before: the next try is 10 s away, if nothing wakes the job.
    wait_until(partial(scraped, operator), lambda told: told[RETRIES] >= 12, "a condition shows")
    namespace.delete("Pod", "digits-train-1-0")
    deleted = time.monotonic()
    wait_until(namespace.pods, bool, "an object is seen")
    assert time.monotonic() - deleted < 8


def test_a_child_that_lost_its_labels_is_told(namespace: Namespace, operators: Operators) -> None:
    operators.start()
    namespace.apply("InferenceService", "digits", spec={"model": {"name": "digits"}})
    namespace.wait_for_reason("InferenceService", "digits", "ModelNotFound")
    unlabelled = {"metadata": {"labels": {"app.kubernetes.io/managed-by": None}}}
    namespace.api.patch(namespace.path("Service", "digits"), unlabelled)
    waiting = wait_until(
        lambda: (namespace.get("InferenceService", "digits") or {})["status"].get("waiting"),
        bool,
        "a condition shows",
    )
    assert "its labels were changed" in waiting[0]["message"]


def test_a_quota_is_told_in_the_api_servers_words_and_other_objects_go_on(
    namespace: Namespace, operators: Operators
) -> None:
    limit = {"hard": {"pods": "1"}}
    path = f"/api/v1/namespaces/{namespace.name}/resourcequotas/pods"
    quota: dict[str, Any] = {
        "apiVersion": "v1",
        "kind": "ResourceQuota",
        "metadata": {"name": "pods", "namespace": namespace.name},
        "spec": limit,
    }
    namespace.api.apply(path, quota)
    # What the controller-manager would do.
    namespace.api.patch(f"{path}/status", {"status": limit | {"used": {"pods": "0"}}})
    operator = operators.start()
    namespace.train("large", numNodes=2)
    message = namespace.wait_for_reason("TrainingJob", "large", "QuotaExceeded")
    assert "exceeded quota" in message
    namespace.apply("LeptonModel", "other", spec={"evaluation": {"dataset": "mnist"}})
    wait_until(
        lambda: (namespace.get("LeptonModel", "other") or {}).get("status", {}),
        lambda status: status.get("observedGeneration") == 1,
        "a condition shows",
    )
    namespace.api.delete(path)
    assert operator.process.poll() is None
    wait_until(
        namespace.pods,
        lambda found: {"large-train-1-0", "large-train-1-1"} <= set(found),
        "a pod is gone",
    )


def test_a_pod_that_failed_and_vanished_is_judged_by_its_last_state(
    namespace: Namespace, operators: Operators
) -> None:
    operators.start()
    namespace.train(failurePolicy={"maxRestarts": 0})
    namespace.wait_for_pods("digits-train-1-0")
    record = '{"outcome": "Failed", "reason": "UserError", "message": "ZeroDivisionError"}'
    namespace.end_pod("digits-train-1-0", exitCode=3, message=record)
    namespace.delete("Pod", "digits-train-1-0")
    namespace.wait_for_reason("TrainingJob", "digits", "MaxRestartsExceeded")
    job = namespace.get("TrainingJob", "digits")
    assert job
    assert job["status"]["attempts"][0]["exitCode"] == 3


def test_what_was_deleted_while_a_watch_was_too_old_is_noticed(
    plane: ControlPlane, namespace: Namespace, operators: Operators
) -> None:
    operator = operators.start(leaderElection=LONG_LEASE)
    namespace.train()
    namespace.wait_for_pods("digits-train-1-0")
    namespace.wait_for_reason("TrainingJob", "digits", "Scheduling")
    operator.signal(signal.SIGSTOP)
    namespace.delete("Pod", "digits-train-1-0")
    # A new API server remembers no events: it answers watches from before with 410.
    plane.api_server.stop()
    plane.api_server.ensure()
    plane.wait()
    for number in range(3):
        namespace.apply(
            "Pod", f"noise-{number}", spec={"containers": [{"name": "c", "image": "i"}]}
        )
    operator.signal(signal.SIGCONT)
    wait_until(namespace.pods, lambda found: "digits-train-2-0" in found, "an attempt is closed")
