"""What people and machines do to objects that nobody planned for: all of it ends well."""

from __future__ import annotations

import json
from typing import Any

from e2e.jobs import attempts, model, service, training_job
from e2e.kubectl import Kubectl
from e2e.models import upload_digits
from e2e.test_serving import serves
from e2e.test_training import NO_GPU, completes, job_of
from e2e.waiting import condition, is_ready, is_true, wait_until

DEAF = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(3600)"


def uids(kubectl: Kubectl, selector: str) -> set[str]:
    return {pod["metadata"]["uid"] for pod in kubectl.list("pods", selector)}


def merge(kubectl: Kubectl, kind: str, name: str, change: dict[str, Any], *more: str) -> None:
    kubectl.run("patch", kind, name, "--type=merge", "-p", json.dumps(change), *more)


def test_a_job_made_anew_starts_when_the_pods_of_its_namesake_are_gone(
    bare_namespace: Kubectl,
) -> None:
    job = training_job("again", DEAF, resourcesPerNode=NO_GPU, terminationGracePeriodSeconds=5)
    bare_namespace.apply(job)
    wait_until(lambda: job_of(bare_namespace, "again"), is_ready, "a pod runs")
    before = uids(bare_namespace, "lepton.ai/name=again")
    bare_namespace.delete("tj", "again", "--wait=false")
    bare_namespace.apply(job)
    told = wait_until(
        lambda: condition(job_of(bare_namespace, "again"), "Ready"),
        lambda ready: ready.get("reason") == "NameTaken",
        "a condition shows",
    )
    assert "that had this name before is still being deleted" in told["message"]
    found = wait_until(lambda: job_of(bare_namespace, "again"), is_ready, "a pod runs")
    assert [each["number"] for each in attempts(found)] == [1]
    assert not before & uids(bare_namespace, "lepton.ai/name=again")


def test_children_changed_by_hand_are_mended_or_replaced(namespace: Kubectl) -> None:
    namespace.apply(model("digits", source=upload_digits(namespace)), service("digits"))
    serves(namespace, "digits", version=1)
    selector = namespace.list("services")[0]["spec"]["selector"]
    merge(namespace, "service", "digits", {"spec": {"selector": {"lepton.ai/role": "nobody"}}})
    wait_until(
        lambda: namespace.list("services")[0]["spec"]["selector"],
        lambda found: found == selector,
        "an object is seen",
    )
    namespace.run("label", "pod", "digits-serve-0", "app.kubernetes.io/managed-by-")
    wait_until(
        lambda: namespace.get("pod", "digits-serve-1"), lambda pod: pod is not None, "a pod runs"
    )
    serves(namespace, "digits", version=1)


def test_sixteen_thresholds_on_metrics_that_do_not_exist_are_told(namespace: Kubectl) -> None:
    thresholds = [{"metric": f"unknown-{each}", "minimum": "0.5"} for each in range(16)]
    evaluation = {"thresholds": thresholds}
    namespace.apply(
        model("digits", source=upload_digits(namespace), evaluation=evaluation), service("digits")
    )
    found = wait_until(
        lambda: namespace.get("lm", "digits"),
        lambda each: is_true(each, "Stalled"),
        "a model is ready",
    )
    assert condition(found, "Stalled")["reason"] == "GateFailed"
    assert "The evaluation reports no metric 'unknown-0'" in condition(found, "Ready")["message"]


def test_a_job_suspended_and_resumed_at_once_completes(bare_namespace: Kubectl) -> None:
    bare_namespace.apply(
        training_job("toggled", "import time; time.sleep(3)", resourcesPerNode=NO_GPU)
    )
    for suspend in (True, False, True, False):
        merge(bare_namespace, "tj", "toggled", {"spec": {"suspend": suspend}})
    job = completes(bare_namespace, "toggled")
    assert {each["outcome"] for each in attempts(job)[:-1]} <= {"Suspended"}
    assert "restarts" not in job["status"] or not any(job["status"]["restarts"].values())


def test_a_status_written_by_hand_is_mended(bare_namespace: Kubectl) -> None:
    job = training_job("forged", "import time; time.sleep(10)", resourcesPerNode=NO_GPU)
    bare_namespace.apply(job)
    wait_until(lambda: job_of(bare_namespace, "forged"), is_ready, "a pod runs")
    before = uids(bare_namespace, "lepton.ai/name=forged")
    forged: dict[str, Any] = {"attempts": [], "attempt": None, "restarts": None, "conditions": []}
    merge(bare_namespace, "tj", "forged", {"status": forged}, "--subresource=status")
    found = wait_until(lambda: job_of(bare_namespace, "forged"), is_ready, "a condition shows")
    assert [each["number"] for each in attempts(found)] == [1]
    assert uids(bare_namespace, "lepton.ai/name=forged") == before
    completes(bare_namespace, "forged")
