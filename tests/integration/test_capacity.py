"""Free GPUs are counted on a real API server: over the pods of everybody, and only when asked."""

from __future__ import annotations

from typing import Any

from lepton_operator import names
from lepton_operator.cache import Cache, Key
from lepton_operator.capacity import LOOK_SECONDS, Capacity
from lepton_operator.cluster import Cluster
from tests.integration.conftest import Namespace

GPU = "nvidia.com/gpu"
NODE = "gpu-node"


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def node() -> dict[str, Any]:
    metadata = {"name": NODE, "uid": "node-1", "resourceVersion": "1"}
    ready = {"type": "Ready", "status": "True", "lastTransitionTime": "2026-11-22T04:00:00Z"}
    return {
        "metadata": metadata,
        "status": {"allocatable": {GPU: "8"}, "conditions": [ready]},
    }


def occupy(namespace: Namespace, name: str, gpus: int, *, start: int = 0) -> None:
    """A pod of somebody else's is on the node."""
    main = {"name": "main", "image": "x", "resources": {"limits": {GPU: gpus}}}
    first = {"name": "first", "image": "x", "resources": {"limits": {GPU: start}}}
    spec = {"nodeName": NODE, "containers": [main], "initContainers": [first] if start else []}
    namespace.apply("Pod", name, spec=spec)


def a_waiting_pod(namespace: Namespace) -> dict[str, Any]:
    """One of ours, as a watch tells of it: no node has room."""
    owner = {"kind": "TrainingJob", "name": "digits", "uid": "job-1", "controller": True}
    unschedulable = {
        "type": "PodScheduled",
        "status": "False",
        "reason": "Unschedulable",
        "message": "0/1 nodes are available: 1 Insufficient nvidia.com/gpu.",
    }
    return {
        "metadata": {
            "name": "digits-train-1-0",
            "namespace": namespace.name,
            "uid": "pod-1",
            "resourceVersion": "1",
            "creationTimestamp": "2026-11-22T04:00:00Z",
            "ownerReferences": [owner],
            "labels": names.owner_labels("TrainingJob", "digits"),
        },
        "spec": {},
        "status": {"phase": "Pending", "conditions": [unschedulable]},
    }


def a_cache(namespace: Namespace) -> Cache:
    cache = Cache(GPU)
    cache.put("Node", node())
    metadata = {"name": "digits", "namespace": namespace.name, "uid": "job-1"}
    cache.put("TrainingJob", {"metadata": {**metadata, "resourceVersion": "1"}, "spec": {}})
    return cache


async def test_free_gpus_are_counted_while_a_pod_waits(
    client: Cluster, namespace: Namespace
) -> None:
    cache, clock, woken = a_cache(namespace), Clock(), list[Key]()
    capacity = Capacity(client, cache, GPU, clock)
    occupy(namespace, "one", 3)
    occupy(namespace, "two", 1, start=2)
    occupy(namespace, "done", 2)
    namespace.end_pod("done")

    await capacity.look(woken.append)
    assert [each.free_gpus for each in capacity.of(cache.nodes())] == [None]

    cache.put("Pod", a_waiting_pod(namespace))
    await capacity.look(woken.append)
    assert [each.free_gpus for each in capacity.of(cache.nodes())] == [3]
    assert woken == [Key("TrainingJob", namespace.name, "digits")]

    occupy(namespace, "three", 1)
    await capacity.look(woken.append)
    assert len(woken) == 1
    clock.now = LOOK_SECONDS
    await capacity.look(woken.append)
    assert [each.free_gpus for each in capacity.of(cache.nodes())] == [2]

    cache.vanish("pod-1")
    await capacity.look(woken.append)
    assert [each.free_gpus for each in capacity.of(cache.nodes())] == [None]
