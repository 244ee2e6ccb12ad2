"""Jobs that are to leave, and jobs that are somebody else's, on a real API server."""

from __future__ import annotations

import json
import time
from typing import Any

from e2e.waiting import wait_until
from tests.builders import a_record
from tests.integration.conftest import Namespace, Operators
from tests.integration.kubelet import Kubelet

PODS = ("digits-train-1-0", "digits-train-1-1")
SEEN = "an object is seen"
SAVED = a_record("Failed", reason="Saved", message="Saved at step 120 and left.", step=120)


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
    namespace.train(numNodes=2)
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
