"""InferenceServices on real pods: a real Triton answers, and goes on answering."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from e2e.clients import Client, client
from e2e.jobs import model, service
from e2e.kubectl import Kubectl
from e2e.models import upload, upload_digits
from e2e.test_models import ready
from e2e.waiting import condition, has_reason, is_ready, is_true, wait_until
from tests.fixtures.onnx_models import write_fixed_model, write_model_of_one_sample

TWO_LOOKS_SECONDS = 4.0
"""Of the operator at what services need."""


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


def answering(kubectl: Kubectl, name: str) -> Client:
    """Return a client of a served model; its doors hear of the pods while the status is written."""
    asking = client(kubectl, name)

    def knows_the_model() -> bool:
        with suppress(OSError, AssertionError):
            return bool(asking.read())
        return False

    wait_until(knows_the_model, bool, "a server answers", f"at {name}")
    return asking


def test_triton_answers_for_the_version_that_passed(namespace: Kubectl) -> None:
    namespace.apply(service("digits"), model("digits", source=upload_digits(namespace)))
    found = serves(namespace, "digits", version=1)
    assert found["status"]["url"] == f"http://digits.{namespace.namespace}.svc:8000"
    assert found["status"]["replicas"] == {"current": 1, "ready": 1, "updated": 1}
    assert answering(namespace, "digits").version() == "1"


def test_triton_runs_the_model_as_it_is_asked_to_and_has_warmed_it_up(namespace: Kubectl) -> None:
    batching = {
        "maxBatchSize": 8,
        "preferredBatchSizes": [4],
        "maxQueueDelayMicroseconds": 500,
    }
    triton = {"instances": 2, "responseCache": "1Mi", "priorityLevels": 3}
    asked = service("digits", batching=batching, triton=triton, limits={"timeoutSeconds": 60})
    namespace.apply(asked, model("digits", source=upload_digits(namespace)))
    serves(namespace, "digits", version=1)
    asking = answering(namespace, "digits")
    config, (before,) = asking.read("/config"), asking.read("/stats")["model_stats"]
    assert asking.version() == asking.version() == "1"
    (after,) = asking.read("/stats")["model_stats"]
    assert config["max_batch_size"] == 8
    assert config["instance_group"][0]["count"] == 2
    assert config["response_cache"] == {"enable": True}
    assert config["dynamic_batching"]["preferred_batch_size"] == [4]
    assert config["dynamic_batching"]["max_queue_delay_microseconds"] == 500
    assert config["dynamic_batching"]["priority_levels"] == 3
    warmed_up = {each["batch_size"] for each in before["batch_stats"]}
    assert warmed_up == {1, 8}, "it was ready before it had answered"
    assert before["inference_count"] == 2 * (1 + 8), "each instance answers one, and a full batch"
    assert after["inference_stats"]["cache_hit"]["count"] == 1


def test_a_model_that_cannot_be_batched_is_served_once_nobody_asks_for_it(
    namespace: Kubectl, tmp_path: Path
) -> None:
    write_fixed_model(tmp_path / "model.onnx")
    source = upload(namespace, tmp_path, "uploads/fixed")
    asked = service("fixed", batching={"maxBatchSize": 8})
    namespace.apply(model("fixed", source=source), asked)
    found = wait_until(
        lambda: service_of(namespace, "fixed"),
        lambda each: has_reason(each, "CannotBatch"),
        "a service is ready",
    )
    assert "the first size of 'image' is always 1" in condition(found, "Ready")["message"]
    namespace.apply(service("fixed"))
    serves(namespace, "fixed", version=1)


def test_a_model_that_does_not_answer_its_warm_up_is_never_ready(
    namespace: Kubectl, tmp_path: Path
) -> None:
    write_model_of_one_sample(tmp_path / "model.onnx")
    namespace.apply(model("single", source=upload(namespace, tmp_path, "uploads/single")))
    namespace.apply(service("single"))
    found = wait_until(
        lambda: service_of(namespace, "single"),
        lambda each: has_reason(each, "ModelLoadFailed"),
        "a service is ready",
    )
    assert "requested shape:{1,64,1}" in condition(found, "Ready")["message"]


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


def test_where_an_hpa_scales_a_service_ours_holds(namespace: Kubectl) -> None:
    namespace.apply(model("digits", source=upload_digits(namespace)), hpa("one"), hpa("two"))
    ours = {"minReplicas": 2, "maxReplicas": 3, "target": {"latencyMilliseconds": 500}}
    namespace.apply(service("digits", autoscaling=ours))
    serves(namespace, "digits", version=1)
    held = scaling(namespace, "ScaledByAnother")
    assert "HorizontalPodAutoscaler one, two scales" in condition(held, "ScalingActive")["message"]
    assert held["spec"]["replicas"] == 1, "two is ours, as soon as nobody else counts"
    wait_until(
        lambda: [namespace.get("hpa", name) for name in ("one", "two")],
        lambda both: all(stands_aside(each) for each in both),
        "an HPA acts",
    )
    namespace.delete("hpa", "one")
    time.sleep(TWO_LOOKS_SECONDS)
    assert scaling(namespace, "ScaledByAnother")["spec"]["replicas"] == 1
    namespace.delete("hpa", "two")
    wait_until(
        lambda: service_of(namespace, "digits"),
        lambda each: each is not None and each["spec"]["replicas"] == 2,
        "a service is scaled",
    )


def hpa(name: str) -> dict[str, Any]:
    """Return an HPA of the service whose metric nobody tells: that it is there is enough."""
    of_the_pods = {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 80}}
    return {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": name},
        "spec": {
            "scaleTargetRef": {
                "apiVersion": "lepton.ai/v1alpha1",
                "kind": "InferenceService",
                "name": "digits",
            },
            "maxReplicas": 3,
            "metrics": [{"type": "Resource", "resource": of_the_pods}],
        },
    }


def stands_aside(found: dict[str, Any] | None) -> bool:
    return condition(found, "ScalingActive").get("reason") == "AmbiguousSelector"


def scaling(kubectl: Kubectl, reason: str) -> dict[str, Any]:
    found = wait_until(
        lambda: service_of(kubectl, "digits"),
        lambda each: has_reason(each, reason, "ScalingActive"),
        "a condition shows",
    )
    assert found is not None
    return found


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
