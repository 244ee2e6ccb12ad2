"""What happens to a service: each event is done and seen through to its end.

An act returns when it happened, as Unix time.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from e2e.deadlines import DEADLINES_SECONDS
from e2e.installation import SYSTEM
from e2e.jobs import model
from e2e.models import upload
from e2e.operators import kill_leader
from e2e.processes import processes_of
from e2e.rollout.stage import BATCHING, Stage
from e2e.rollout.stream import open_stream
from e2e.waiting import is_ready, wait_until
from tests.fixtures.onnx_models import write_model_of_one_sample

REPLICAS = 2
DRAIN_SECONDS = 12
"""What a pod has to finish its streams, where one stays open."""
SURGE_SECONDS = 5
"""How long room is waited for, where there is none."""

Act = Callable[[Stage], float]


@dataclass(frozen=True, slots=True)
class Event:
    """`may_cut`: requests that were on their way may fail; `may_gap`: nothing may answer for a
    while, if the status says so before.
    """

    act: Act
    spec: Mapping[str, Any] = field(default_factory=dict)
    may_cut: bool = False
    may_gap: bool = False


def _new_version(stage: Stage) -> float:
    at = stage.new_version()
    stage.settles(REPLICAS, version=2)
    return at


def _new_batching(stage: Stage) -> float:
    at = time.time()
    stage.apply(batching={**BATCHING, "maxBatchSize": 4, "preferredBatchSizes": [4]})
    stage.settles(REPLICAS)
    return at


def _scale_1_3_1(stage: Stage) -> float:
    at = time.time()
    stage.apply(replicas=3)
    stage.settles(3)
    stage.apply(replicas=1)
    stage.settles(1)
    return at


def _pod_deleted(stage: Stage) -> float:
    gone = stage.pods()[0]["metadata"]
    at = time.time()
    stage.kubectl.delete("pod", gone["name"], "--wait=false")
    stage.pods_are_gone(gone["uid"])
    stage.settles(REPLICAS)
    return at


def _pod_killed(stage: Stage) -> float:
    """End the server of one pod as a node that is out of memory would."""
    uid = stage.pods()[0]["metadata"]["uid"]
    first, *_ = processes_of(uid, running=b"tritonserver")  # the others end with it
    at = time.time()
    os.kill(first, signal.SIGKILL)
    wait_until(stage.found, lambda found: not is_ready(found), "a condition shows")
    stage.settles(REPLICAS)
    return at


def _node_drained(stage: Stage) -> float:
    """Drain a node as an administrator does; what is on it may be evicted only in its time."""
    node = _node_without_store(stage)
    at = time.time()
    try:
        drain = ("drain", node, "--ignore-daemonsets", "--delete-emptydir-data", "--force")
        _run_to_its_end(stage, *drain)
        stage.settles(REPLICAS)
    finally:
        stage.kubectl.run("uncordon", node)
    return at


def _run_to_its_end(stage: Stage, *arguments: str) -> None:
    """Run a command of kubectl that waits for pods; it says itself what it waits for in vain."""
    limit = DEADLINES_SECONDS["a rollout is done"]
    stage.kubectl.run(*arguments, f"--timeout={limit}s", timeout_seconds=limit + 10)


def _node_without_store(stage: Stage) -> str:
    """Return a node that serves, and does not hold the store: new pods fetch their model there."""
    (store,) = stage.kubectl.within(SYSTEM).list("pods", "app.kubernetes.io/component=store")
    serving = {pod["spec"]["nodeName"] for pod in stage.pods()}
    return str(min(serving - {store["spec"]["nodeName"]}))


def _operator_killed(stage: Stage) -> float:
    """End the leader in the middle of a rollout."""
    stage.new_version()
    wait_until(stage.status, lambda status: "rollout" in status, "a condition shows")
    at = time.time()
    kill_leader(stage.kubectl)
    stage.settles(REPLICAS, version=2)
    return at


def _door_replaced(stage: Stage) -> float:
    doors = stage.kubectl.list("pods", "lepton.ai/role=door")
    at = time.time()
    stage.kubectl.run("rollout", "restart", "deployment/lepton-door")
    _run_to_its_end(stage, "rollout", "status", "deployment/lepton-door")
    stage.pods_are_gone(*(door["metadata"]["uid"] for door in doors))
    return at


def _failed_version(stage: Stage) -> float:
    """Hand over a version that passes its gate, and does not answer its warm-up."""
    with TemporaryDirectory() as folder:
        write_model_of_one_sample(Path(folder) / "model.onnx")
        source = upload(stage.kubectl, Path(folder), "uploads/single")
    stage.kubectl.apply(model(stage.name, source=source))
    wait_until(stage.status, lambda status: "rollout" in status, "a model is ready")
    at = time.time()

    def is_back(status: Mapping[str, Any]) -> bool:
        ready = status["replicas"] == {"current": REPLICAS, "ready": REPLICAS, "updated": REPLICAS}
        return bool(ready and status.get("rollout", {}).get("phase") == "RolledBack")

    wait_until(stage.status, is_back, "a rollout is done")
    return at


def _full_cluster(free: int, replicas: int) -> Act:
    def act(stage: Stage) -> float:
        stage.fill(free)
        at = stage.new_version()
        stage.settles(replicas, version=2)
        return at

    return act


def _stream_open(stage: Stage) -> float:
    """Roll out a version while a stream is open that its client does not end."""
    with open_stream(stage.kubectl, stage.name) as stream:
        at = stage.new_version()
        wait_until(stage.status, _counts_a_request, "a rollout is done", "with an open stream")
        ended = wait_until(lambda: stream.ended, bool, "a rollout is done", "and cuts a stream")
        stage.settles(REPLICAS, version=2)
    assert ended is not None
    lived = ended - at
    assert lived >= DRAIN_SECONDS, f"the stream was cut after {lived:.1f} s: {stream.error}"
    cut = [each["message"] for each in stage.events("DrainTimedOut")]
    assert any("1 request was still in flight" in message for message in cut), cut
    return at


def _counts_a_request(status: Mapping[str, Any]) -> bool:
    waits = status.get("waiting", ())
    return any(
        each["reason"] == "Draining" and "1 request is in flight" in each["message"]
        for each in waits
    )


EVENTS: Mapping[str, Event] = {
    "new_version": Event(_new_version),
    "new_batching": Event(_new_batching),
    "scale_1_3_1": Event(_scale_1_3_1, {"replicas": 1}),
    "pod_deleted": Event(_pod_deleted),
    "pod_killed": Event(_pod_killed, may_cut=True),
    "node_drained": Event(_node_drained),
    "operator_killed": Event(_operator_killed),
    "door_replaced": Event(_door_replaced),
    "failed_version": Event(_failed_version),
    "full_cluster_one_gpu_free": Event(_full_cluster(free=1, replicas=REPLICAS)),
    "full_cluster_none_free": Event(
        _full_cluster(free=0, replicas=1),
        {"replicas": 1, "rollout": {"surgeTimeoutSeconds": SURGE_SECONDS}},
        may_gap=True,
    ),
    "stream_open": Event(_stream_open, {"rollout": {"drainTimeoutSeconds": DRAIN_SECONDS}}),
}
