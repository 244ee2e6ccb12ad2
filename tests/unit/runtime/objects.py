"""API objects as the API server sends them, in a few words."""

from __future__ import annotations

from typing import Any

from lepton_operator import names

CREATED = "2026-11-22T04:00:00Z"


def metadata(name: str, uid: str, version: int | str, **extra: Any) -> dict[str, Any]:
    return {
        "name": name,
        "namespace": "team",
        "uid": uid,
        "resourceVersion": str(version),
        "creationTimestamp": CREATED,
        **extra,
    }


def job(
    name: str = "digits",
    uid: str = "job-1",
    version: int | str = 1,
    model: str | None = None,
    generation: int = 1,
    **extra: Any,
) -> dict[str, Any]:
    spec: dict[str, Any] = {"entrypoint": ["train.py"]}
    if model:
        spec["output"] = {"model": model}
    return {"metadata": metadata(name, uid, version, generation=generation), "spec": spec} | extra


def model(name: str = "digits", uid: str = "model-1", version: int | str = 1) -> dict[str, Any]:
    return {"metadata": metadata(name, uid, version, generation=1), "spec": {}}


def service(
    name: str = "digits", uid: str = "svc-1", version: int | str = 1, model: str = "digits"
) -> dict[str, Any]:
    return {
        "metadata": metadata(name, uid, version, generation=1),
        "spec": {"model": {"name": model}},
    }


def pod(
    name: str = "digits-train-1-0",
    uid: str = "pod-1",
    version: int | str = 1,
    *,
    owner: str = "job-1",
    phase: str = "Pending",
    node: str | None = None,
) -> dict[str, Any]:
    reference = {"kind": "TrainingJob", "name": "digits", "uid": owner, "controller": True}
    return {
        "metadata": metadata(name, uid, version, ownerReferences=[reference]),
        "spec": {"nodeName": node} if node else {},
        "status": {"phase": phase},
    }


def node(name: str, version: int | str = 1, *, ready: bool = True) -> dict[str, Any]:
    condition = {"type": "Ready", "status": str(ready), "lastTransitionTime": CREATED}
    return {
        "metadata": {"name": name, "uid": f"node-{name}", "resourceVersion": str(version)},
        "spec": {},
        "status": {"conditions": [condition], "allocatable": {"nvidia.com/gpu": "8"}},
    }


def door_pod(
    name: str = "lepton-door-1",
    uid: str = "door-1",
    version: int | str = 1,
    *,
    ready: bool = True,
    address: str = "127.0.0.1",
) -> dict[str, Any]:
    """A pod of a ReplicaSet that the door's Deployment made."""
    reference = {"kind": "ReplicaSet", "name": "lepton-door", "uid": "rs-1", "controller": True}
    labels = names.owner_labels("Door", "lepton-door")
    running = {"name": "door", "state": {"running": {}}, "ready": ready}
    return {
        "metadata": metadata(name, uid, version, ownerReferences=[reference], labels=labels),
        "spec": {"nodeName": "node-1"},
        "status": {
            "phase": "Running",
            "podIP": address,
            "conditions": [{"type": "Ready", "status": str(ready)}],
            "containerStatuses": [running],
        },
    }


def serving_pod(
    uid: str = "pod-1", version: int | str = 1, *, ip: str = "10.0.0.1", since: str | None = None
) -> dict[str, Any]:
    """A pod of the service, which drains since that time if it does."""
    reference = {"kind": "InferenceService", "name": "digits", "uid": "svc-1", "controller": True}
    marks = {names.DRAINING: since} if since else {}
    name = f"digits-serve-{uid}"
    return {
        "metadata": metadata(name, uid, version, ownerReferences=[reference], annotations=marks),
        "spec": {},
        "status": {"phase": "Running", "podIP": ip},
    }
