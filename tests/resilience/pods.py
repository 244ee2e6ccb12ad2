"""How pods behave on nodes that are not there: kwok's stages, with recorded endings.

A scenario says when a pod ends and how, by naming a recorded ending in an annotation of the pod;
kwok then writes the status that the kubelet wrote when that ending was recorded.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

RECORDED = Path(__file__).parent / "recorded"
ENDING = "resilience.test/ending"
SERVING_START_MILLISECONDS = 200
LATE_START_MILLISECONDS = 5000
LATE_CPUS = "7"
"""A serving pod with this limit starts late: so late that no operator is slower."""

_ROLE = "lepton.ai/role"
_NOW = "{{ Now }}"
_IP = "{{ PodIPWith .spec.nodeName false .metadata.uid .metadata.name .metadata.namespace }}"

CONTAINERS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "train": ("train", ("prepare", "sidecar")),
    "import": ("step", ()),
    "index": ("step", ()),
    "evaluate": ("step", ()),
    "serve": ("triton", ("fetch",)),
    "door": ("door", ()),
}
_NATIVE_SIDECARS = frozenset({"sidecar"})


@dataclass(frozen=True, slots=True)
class Ending:
    """How a container of ours ended: what the kubelet wrote, as it was recorded."""

    name: str
    role: str
    exit_code: int
    reason: str
    message: str


def endings() -> list[Ending]:
    """Return all recorded endings; their names are unique."""
    return [
        Ending(**each)
        for file in sorted(RECORDED.glob("*.json"))
        for each in json.loads(file.read_text())["endings"]
    ]


def write_stages(path: Path) -> None:
    """Write kwok's configuration: pods start, end as they are told to, and go when deleted."""
    stages = [*_starts(), *_serving_ready(), *map(_end, endings()), *_removals()]
    path.write_text("\n---\n".join(json.dumps(each, indent=1) for each in stages))


def _starts() -> Iterator[dict[str, Any]]:
    for role in CONTAINERS:
        status = _status(role, "Running", {"running": {"startedAt": _NOW}}, ready=role != "serve")
        status |= {"podIP": _IP, "podIPs": [{"ip": _IP}], "startTime": _NOW}
        yield _stage(f"start-{role}", [_has_role(role), _ALIVE, _without(".status.podIP")], status)


def _serving_ready() -> Iterator[dict[str, Any]]:
    status = _status("serve", "Running", {"running": {"startedAt": _NOW}}, ready=True)
    starting = '.status.conditions.[] | select(.type == "Ready") | .status'
    selector = [
        *(_has_role("serve"), _ALIVE, _without(f'.metadata.annotations["{ENDING}"]')),
        *(_in(".status.phase", "Running"), _in(starting, "False")),
    ]
    cpus = ".spec.containers.[].resources.limits.cpu"
    usual = {"key": cpus, "operator": "NotIn", "values": [LATE_CPUS]}
    yield _stage("serve-ready", [*selector, usual], status, SERVING_START_MILLISECONDS)
    late = _in(cpus, LATE_CPUS)
    yield _stage("serve-ready-late", [*selector, late], status, LATE_START_MILLISECONDS)


def _end(ending: Ending) -> dict[str, Any]:
    chosen = [_in(f'.metadata.annotations["{ENDING}"]', ending.name), _ALIVE]
    running = _in(".status.phase", "Running")
    if ending.role == "serve":
        first = _without(".status.containerStatuses.[].lastState.terminated")
        return _stage(f"end-{ending.name}", [*chosen, running, first], _crashed(ending))
    phase = "Failed" if ending.exit_code else "Succeeded"
    status = _status(ending.role, phase, {"terminated": _terminated(ending)}, ready=False)
    return _stage(f"end-{ending.name}", [*chosen, running], status)


def _terminated(ending: Ending) -> dict[str, Any]:
    return {
        "exitCode": ending.exit_code,
        "reason": ending.reason,
        "message": ending.message,
        "startedAt": _NOW,
        "finishedAt": _NOW,
    }


def _crashed(ending: Ending) -> dict[str, Any]:
    """A server's container is started again, for ever: the pod goes on."""
    waiting = {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 10s"}}
    status = _status(ending.role, "Running", waiting, ready=False)
    (container,) = status["containerStatuses"]
    container |= {"restartCount": 1, "lastState": {"terminated": _terminated(ending)}}
    return status


def _removals() -> Iterator[dict[str, Any]]:
    """A deleted pod writes its last status, as the kubelet does, and is removed."""
    deleted = _exists(".metadata.deletionTimestamp")
    for role in CONTAINERS:
        terminated = {"exitCode": 143, "reason": "Error", "startedAt": _NOW, "finishedAt": _NOW}
        status = _status(role, "Failed", {"terminated": terminated}, ready=False)
        running = _in(".status.phase", "Running", "Pending")
        yield _stage(f"stop-{role}", [deleted, _has_role(role), running], status, milliseconds=100)
    ended = _in(".status.phase", "Failed", "Succeeded")
    selector = {"matchExpressions": [deleted, ended]}
    yield _manifest("remove", selector, {"finalizers": {"empty": True}, "delete": True})


def _status(role: str, phase: str, state: dict[str, Any], *, ready: bool) -> dict[str, Any]:
    container, init_containers = CONTAINERS[role]
    conditions = {"Initialized": True, "ContainersReady": ready, "Ready": ready}
    return {
        "phase": phase,
        "conditions": [
            {"type": kind, "status": str(holds), "lastTransitionTime": _NOW}
            for kind, holds in conditions.items()
        ],
        "containerStatuses": [_container(container, state, ready=ready)],
        "initContainerStatuses": [
            _container(each, _init_state(each, state), ready=True) for each in init_containers
        ],
    }


def _init_state(name: str, state: dict[str, Any]) -> dict[str, Any]:
    if name in _NATIVE_SIDECARS and "running" in state:
        return state
    done = {"exitCode": 0, "reason": "Completed", "startedAt": _NOW, "finishedAt": _NOW}
    return {"terminated": done}


def _container(name: str, state: dict[str, Any], *, ready: bool) -> dict[str, Any]:
    return {
        "name": name,
        "image": "played-by-kwok",
        "imageID": "",
        "ready": ready,
        "started": "running" in state,
        "restartCount": 0,
        "state": state,
    }


def _stage(
    name: str, selector: Iterable[dict[str, Any]], status: dict[str, Any], milliseconds: int = 0
) -> dict[str, Any]:
    # JSON is YAML, and Go's templates leave alone what is not between their braces.
    template = {"statusTemplate": json.dumps(status)}
    delay = {"durationMilliseconds": milliseconds}
    return _manifest(name, {"matchExpressions": list(selector)}, template, delay=delay)


def _manifest(
    name: str, selector: dict[str, Any], following: dict[str, Any], **more: Any
) -> dict[str, Any]:
    return {
        "apiVersion": "kwok.x-k8s.io/v1alpha1",
        "kind": "Stage",
        "metadata": {"name": name},
        "spec": {
            "resourceRef": {"apiGroup": "v1", "kind": "Pod"},
            "selector": selector,
            "next": following,
            **more,
        },
    }


def _in(key: str, *values: str) -> dict[str, Any]:
    return {"key": key, "operator": "In", "values": list(values)}


def _exists(key: str) -> dict[str, Any]:
    return {"key": key, "operator": "Exists"}


def _without(key: str) -> dict[str, Any]:
    return {"key": key, "operator": "DoesNotExist"}


def _has_role(role: str) -> dict[str, Any]:
    return _in(f'.metadata.labels["{_ROLE}"]', role)


_ALIVE = _without(".metadata.deletionTimestamp")
