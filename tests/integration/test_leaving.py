"""Jobs that are to leave, and jobs that are somebody else's, on a real API server."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest

from e2e.cluster.control_plane import ControlPlane
from e2e.waiting import wait_until
from tests.builders import a_record
from tests.integration.conftest import Namespace, Operators
from tests.integration.kubelet import Kubelet
from tests.integration.wire import Wire

PODS = ("digits-train-1-0", "digits-train-1-1")
SEEN = "an object is seen"
# Pods are waited for during their grace period: longer than another operator may take to start.
GRACE_SECONDS = 600
SAVED = a_record(
    "Failed", reason="Saved", message="Saved at step 120 and left.", step=120, furthest=120
)


@pytest.fixture
def wire(plane: ControlPlane) -> Iterator[Wire]:
    found = Wire(plane)
    yield found
    found.close()


def annotation(namespace: Namespace, pod: str) -> dict[str, Any]:
    """What the launcher of a pod is told."""
    found = namespace.get("Pod", pod) or {"metadata": {}}
    told: dict[str, Any] = json.loads(
        found["metadata"].get("annotations", {}).get("lepton.ai/attempt", "{}")
    )
    return told


def set_suspend(namespace: Namespace, *, suspend: bool) -> None:
    namespace.api.patch(namespace.path("TrainingJob", "digits"), {"spec": {"suspend": suspend}})


def attempts(namespace: Namespace) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = (namespace.get("TrainingJob", "digits") or {})["status"][
        "attempts"
    ]
    return found


def test_a_suspended_job_is_asked_to_save_and_goes_on_in_another_attempt(
    namespace: Namespace, operators: Operators
) -> None:
    first, kubelet = operators.start(), Kubelet(namespace)
    namespace.train(numNodes=2, terminationGracePeriodSeconds=GRACE_SECONDS)
    for rank, pod in enumerate(PODS):
        kubelet.run(pod, f"10.0.0.{rank + 1}")
    namespace.wait_for_reason("TrainingJob", "digits", "Running")
    wait_until(lambda: [annotation(namespace, pod) for pod in PODS], all, SEEN)

    set_suspend(namespace, suspend=True)
    namespace.wait_for_reason("TrainingJob", "digits", "Suspending")
    wait_until(lambda: [annotation(namespace, pod).get("leave") for pod in PODS], all, SEEN)
    assert namespace.pods() == [*PODS]

    # Another operator finds them asked, and waits on.
    first.end()
    operators.start("second")
    namespace.end_pod(PODS[0], exitCode=75, message=SAVED)
    time.sleep(2)
    assert namespace.pods() == [*PODS]
    namespace.end_pod(PODS[1], exitCode=75, message=SAVED)
    message = namespace.wait_for_reason("TrainingJob", "digits", "Suspended")
    wait_until(namespace.pods, lambda found: not found, "a pod is gone")
    message = wait_until(
        lambda: namespace.wait_for_reason("TrainingJob", "digits", "Suspended"),
        lambda told: "holds nothing" in told,
        "a condition shows",
    )
    assert "saved at step 120" in message
    (closed,) = attempts(namespace)
    assert (closed["outcome"], closed["reason"], closed["step"]) == ("Suspended", "Saved", 120)

    set_suspend(namespace, suspend=False)
    namespace.wait_for_pods("digits-train-2-0", "digits-train-2-1")


def test_a_pod_that_is_drained_is_waited_for_until_its_gang_has_saved(
    namespace: Namespace, operators: Operators, wire: Wire
) -> None:
    operators.start()
    kubelet = Kubelet(namespace)
    namespace.train(numNodes=2, terminationGracePeriodSeconds=GRACE_SECONDS)
    for rank, pod in enumerate(PODS):
        kubelet.run(pod, f"10.0.0.{rank + 1}")
        binding = {"metadata": {"name": pod}, "target": {"kind": "Node", "name": "a-node"}}
        manifest = {"apiVersion": "v1", "kind": "Binding", **binding}
        assert wire.create(namespace.path("Pod", pod, "binding"), manifest).accepted
    namespace.wait_for_reason("TrainingJob", "digits", "Running")

    namespace.delete("Pod", PODS[1])
    message = namespace.wait_for_reason("TrainingJob", "digits", "Restarting")
    assert f"Pod {PODS[1]} was asked to leave" in message
    assert [each["outcome"] for each in attempts(namespace)] == ["Running"]
    assert namespace.pods() == [*PODS]

    for pod in reversed(PODS):
        namespace.end_pod(pod, exitCode=75, message=SAVED)
    closed = wait_until(
        lambda: attempts(namespace)[0],
        lambda each: each["outcome"] == "Failed",
        "a condition shows",
    )
    assert (closed["reason"], closed["step"], closed.get("budget")) == ("Saved", 120, None)


def test_a_job_that_names_another_controller_is_left_alone(
    namespace: Namespace, operators: Operators
) -> None:
    operator = operators.start()
    namespace.train("theirs", managedBy="kueue.x-k8s.io/multikueue")
    namespace.train("digits", managedBy="lepton.ai/lepton-operator")
    namespace.wait_for_pods("digits-train-1-0")
    namespace.api.patch(namespace.path("TrainingJob", "theirs"), {"spec": {"suspend": True}})
    time.sleep(2)
    theirs = namespace.get("TrainingJob", "theirs")
    assert theirs
    assert theirs["status"] == {"observedGeneration": -1}
    assert namespace.pods() == ["digits-train-1-0"]
    assert not [each for each in namespace.list("Event") if "theirs" in each["metadata"]["name"]]
    assert not operator.says("name=theirs")
