"""What is kept of a pod, read from bodies as a kubelet writes them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from lepton_operator import bodies
from tests.unit.runtime import objects


def test_a_running_pod() -> None:
    body = objects.pod(phase="Running", node="n1")
    body["metadata"]["labels"] = {"lepton.ai/rank": "0", "team": "vision"}
    body["metadata"]["annotations"] = {"lepton.ai/attempt": "{}", "other/x": "y" * 1000}
    body["status"] |= {
        "podIP": "10.64.1.7",
        "startTime": "2026-11-22T04:00:01Z",
        "conditions": [
            {
                "type": "PodScheduled",
                "status": "True",
                "lastTransitionTime": "2026-11-22T04:00:01Z",
            },
            {
                "type": "PodReadyToStartContainers",
                "status": "True",
                "lastTransitionTime": "2026-11-22T04:00:02Z",
            },
            {"type": "Ready", "status": "True", "lastTransitionTime": "2026-11-22T04:00:05Z"},
        ],
        "containerStatuses": [
            {
                "name": "train",
                "ready": True,
                "restartCount": 1,
                "state": {"running": {"startedAt": "2026-11-22T04:00:04Z"}},
                "lastState": {
                    "terminated": {
                        "exitCode": 137,
                        "reason": "OOMKilled",
                        "finishedAt": "2026-11-22T04:00:03Z",
                    }
                },
            }
        ],
        "initContainerStatuses": [
            {"name": "prepare", "state": {"terminated": {"exitCode": 0, "message": "{}"}}}
        ],
    }
    view = bodies.pod_view(body)
    assert (view.phase, view.node, view.ip, view.ready, view.scheduled) == (
        "Running",
        "n1",
        "10.64.1.7",
        True,
        True,
    )
    assert view.scheduled_since == datetime(2026, 11, 22, 4, 0, 1, tzinfo=UTC)
    assert view.sandbox_since == datetime(2026, 11, 22, 4, 0, 2, tzinfo=UTC)
    assert view.ready_since == datetime(2026, 11, 22, 4, 0, 5, tzinfo=UTC)
    assert view.unready_since is None
    ready = next(each for each in body["status"]["conditions"] if each["type"] == "Ready")
    ready["status"] = "False"
    stopped = bodies.pod_view(body)
    assert (stopped.ready_since, stopped.unready_since) == (None, view.ready_since)
    assert view.labels == {"lepton.ai/rank": "0"}
    assert view.annotations == {"lepton.ai/attempt": "{}"}
    train, prepare = view.container("train"), view.container("prepare")
    assert train
    assert prepare
    assert (train.state, train.restarts, train.last_exit_code) == ("running", 1, 137)
    assert train.last_finished == datetime(2026, 11, 22, 4, 0, 3, tzinfo=UTC)
    assert (prepare.state, prepare.exit_code, prepare.message) == ("terminated", 0, "{}")


def test_a_pod_that_no_node_takes() -> None:
    body = objects.pod()
    message = "0/2 nodes are available: 2 Insufficient nvidia.com/gpu."
    condition = {
        "type": "PodScheduled",
        "status": "False",
        "reason": "Unschedulable",
        "message": message,
    }
    body["status"]["conditions"] = [condition]
    view = bodies.pod_view(body)
    assert (view.scheduled, view.unschedulable_message) == (False, message)


def test_a_pod_that_was_evicted_and_one_that_is_disrupted() -> None:
    evicted, disrupted = objects.pod(), objects.pod()
    evicted["status"] |= {"reason": "Evicted", "message": "The node was low on memory."}
    disrupted["status"]["conditions"] = [{"type": "DisruptionTarget", "status": "True"}]
    assert bodies.pod_view(evicted).deleted_by_eviction
    assert bodies.pod_view(disrupted).deleted_by_eviction
    assert not bodies.pod_view(objects.pod()).deleted_by_eviction


def test_a_pod_that_leaves_says_when_it_will_be_killed() -> None:
    deleted, disrupted = objects.pod(), objects.pod()
    deleted["metadata"]["deletionTimestamp"] = "2026-11-22T04:01:00Z"
    target = {"type": "DisruptionTarget", "status": "True"}
    disrupted["status"]["conditions"] = [target | {"lastTransitionTime": "2026-11-22T04:00:10Z"}]
    disrupted["spec"]["terminationGracePeriodSeconds"] = 50
    for body in (deleted, disrupted):
        assert bodies.pod_view(body).leaves_by == datetime(2026, 11, 22, 4, 1, tzinfo=UTC)
    assert bodies.pod_view(objects.pod()).leaves_by is None


def test_a_pod_without_status_fields_is_pending() -> None:
    body = objects.pod()
    body["status"] = {}
    assert bodies.pod_view(body).phase == "Pending"


def test_gpus_that_are_no_whole_number_are_none() -> None:
    body: dict[str, Any] = objects.node("n1")
    body["status"]["allocatable"] = {"nvidia.com/gpu": "1500m"}
    assert bodies.node_view(body, "nvidia.com/gpu").gpus == 0


def test_own_objects_keep_no_managed_fields() -> None:
    body = objects.job()
    body["metadata"] |= {"managedFields": [{}], "annotations": {"last-applied": "{}"}}
    assert set(bodies.trimmed(body)["metadata"]) == {
        "name",
        "namespace",
        "uid",
        "generation",
        "resourceVersion",
        "creationTimestamp",
    }
