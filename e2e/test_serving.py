"""InferenceServices on real pods: a real Triton answers, and goes on answering."""

from __future__ import annotations

from typing import Any

import pytest

from e2e.clients import serving_clients
from e2e.jobs import model, service
from e2e.kubectl import Kubectl
from e2e.models import upload_digits
from e2e.test_models import ready
from e2e.waiting import condition, has_reason, is_ready, is_true, wait_until


def service_of(kubectl: Kubectl, name: str) -> dict[str, Any] | None:
    return kubectl.get("inferenceservices.lepton.ai", name)


def serves(kubectl: Kubectl, name: str, version: int) -> dict[str, Any]:
    found = wait_until(
        lambda: service_of(kubectl, name),
        lambda each: (
            is_ready(each) and each is not None and each["status"].get("version") == version
        ),
        "a service is ready",
    )
    assert found is not None
    return found


def test_triton_answers_for_the_version_that_passed(namespace: Kubectl) -> None:
    namespace.apply(service("digits"), model("digits", source=upload_digits(namespace)))
    found = serves(namespace, "digits", version=1)
    assert found["status"]["url"] == f"http://digits.{namespace.namespace}.svc:8000"
    assert found["status"]["replicas"] == {"current": 1, "ready": 1, "updated": 1}
    with serving_clients(namespace, "digits") as clients:
        told = clients.once()
    assert told.failed == 0
    assert told.model_versions == {"1"}


def test_the_scale_subresource_is_what_kubectl_and_an_hpa_use(namespace: Kubectl) -> None:
    namespace.apply(model("digits", source=upload_digits(namespace)), service("digits"))
    serves(namespace, "digits", version=1)
    namespace.run("scale", "lisvc", "digits", "--replicas=2")
    wait_until(
        lambda: service_of(namespace, "digits"),
        lambda each: each is not None and each["status"]["replicas"]["ready"] == 2,
        "a service is ready",
    )
    path = f"/apis/lepton.ai/v1alpha1/namespaces/{namespace.namespace}/inferenceservices/digits"
    scale = namespace.run("get", "--raw", f"{path}/scale")
    assert '"replicas":2' in scale
    assert "lepton.ai/name=digits" in scale
    namespace.run("scale", "lisvc", "digits", "--replicas=0")
    found = wait_until(
        lambda: service_of(namespace, "digits"),
        lambda each: is_ready(each) and has_reason(each, "ScaledToZero"),
        "a pod is gone",
    )
    assert found is not None


def test_a_new_version_replaces_the_old_one_without_a_failed_request(namespace: Kubectl) -> None:
    namespace.apply(model("digits", source=upload_digits(namespace)), service("digits", replicas=2))
    serves(namespace, "digits", version=1)
    with serving_clients(namespace, "digits") as clients:
        clients.start()
        namespace.apply(model("digits", source=upload_digits(namespace, seed=1)))
        serves(namespace, "digits", version=2)
        told = clients.stop()
    assert told.model_versions == {"1", "2"}
    assert told.requests > 100
    assert told.failed == 0, told.failures


def test_a_deleted_pod_costs_no_request(namespace: Kubectl) -> None:
    namespace.apply(model("digits", source=upload_digits(namespace)), service("digits", replicas=2))
    serves(namespace, "digits", version=1)
    with serving_clients(namespace, "digits") as clients:
        clients.start()
        namespace.delete("pod", "digits-serve-0")
        serves(namespace, "digits", version=1)
        told = clients.stop()
    assert told.requests > 50
    assert told.failed == 0, told.failures


def test_a_model_that_does_not_exist_yet_is_waited_for(namespace: Kubectl) -> None:
    namespace.apply(service("early", "later"))
    found = wait_until(
        lambda: service_of(namespace, "early"),
        lambda each: has_reason(each, "ModelNotFound"),
        "a condition shows",
    )
    assert is_true(found, "Reconciling")
    namespace.apply(model("later", source=upload_digits(namespace)))
    serves(namespace, "early", version=1)


@pytest.mark.parametrize(
    ("resources", "reason"),
    [({"limits": {"nvidia.com/gpu": 100}}, "NoCapacity")],
    ids=["more GPUs than any node has"],
)
def test_why_a_replica_waits_is_told(
    namespace: Kubectl, resources: dict[str, Any], reason: str
) -> None:
    namespace.apply(model("digits", source=upload_digits(namespace)))
    ready(namespace, "digits")
    namespace.apply(service("digits", resources=resources))
    found = wait_until(
        lambda: service_of(namespace, "digits"),
        lambda each: (
            each is not None
            and [waiting["reason"] for waiting in each["status"].get("waiting", [])] == [reason]
        ),
        "a pod runs",
    )
    assert found is not None
    assert "100" in found["status"]["waiting"][0]["message"]
    assert condition(found, "Ready")["status"] == "False"


def test_a_strangers_service_is_never_taken_over(namespace: Kubectl) -> None:
    theirs = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "digits"},
        "spec": {"selector": {"app": "theirs"}, "ports": [{"port": 80}]},
    }
    namespace.apply(theirs, model("digits", source=upload_digits(namespace)), service("digits"))
    found = wait_until(
        lambda: service_of(namespace, "digits"),
        lambda each: has_reason(each, "NameTaken"),
        "a service is ready",
    )
    assert is_true(found, "Reconciling")
    kept = namespace.get("service", "digits")
    assert kept is not None
    assert kept["spec"]["selector"] == {"app": "theirs"}
    namespace.delete("service", "digits")
    serves(namespace, "digits", version=1)


def test_deleting_a_service_deletes_its_pods(namespace: Kubectl) -> None:
    namespace.apply(model("digits", source=upload_digits(namespace)), service("digits"))
    serves(namespace, "digits", version=1)
    namespace.delete("lisvc", "digits")
    wait_until(
        lambda: namespace.list("pods", "lepton.ai/role=serve"),
        lambda pods: not pods,
        "a pod is gone",
    )
