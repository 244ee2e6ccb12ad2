"""What is kept of the API server's objects: views of children, trimmed bodies of our own kinds.

Conversion runs in event handlers, so it reads plain dicts and validates nothing: these are objects
of the API server's own schemas.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

from lepton_operator import names
from lepton_operator.views import ContainerView, NodeView, PodView, ServiceView

Body = Mapping[str, Any]

_OURS = "lepton.ai/"
_KEPT_METADATA = (
    "name",
    "namespace",
    "uid",
    "generation",
    "resourceVersion",
    "creationTimestamp",
    "deletionTimestamp",
    "labels",
)


def trimmed(body: Body) -> dict[str, Any]:
    """Return the parts of one of our own objects that plans read."""
    metadata = body["metadata"]
    kept = {name: metadata[name] for name in _KEPT_METADATA if name in metadata}
    return {"metadata": kept, "spec": body.get("spec") or {}, "status": body.get("status") or {}}


def owner_uid(body: Body) -> str | None:
    """Return the UID of the object that controls this one."""
    controller = _controller(body)
    return str(controller["uid"]) if controller else None


def owner_name(body: Body) -> tuple[str, str] | None:
    """Return the kind and the name of the object that controls this one."""
    controller = _controller(body)
    return (str(controller["kind"]), str(controller["name"])) if controller else None


def _controller(body: Body) -> Body | None:
    references = body["metadata"].get("ownerReferences") or ()
    return next((each for each in references if each.get("controller")), None)


def model_name(kind: str, body: Body) -> str | None:
    """Return the LeptonModel that a job hands its result to, or that a service serves."""
    spec = body.get("spec") or {}
    if kind == "TrainingJob":
        return (spec.get("output") or {}).get("model")
    if kind == "InferenceService":
        return (spec.get("model") or {}).get("name")
    return None


def pod_view(body: Body) -> PodView:
    """Return what plans read of a pod."""
    metadata, spec, status = body["metadata"], body.get("spec") or {}, body.get("status") or {}
    conditions: dict[str, Body] = {each["type"]: each for each in status.get("conditions") or ()}
    ready = conditions.get("Ready", {})
    is_ready = ready.get("status") == "True"
    return PodView(
        name=metadata["name"],
        namespace=metadata["namespace"],
        uid=metadata["uid"],
        phase=sys.intern(status.get("phase", "Pending")),
        created=_time(metadata["creationTimestamp"]),
        labels=_interned(metadata.get("labels") or {}),
        annotations=_own_annotations(metadata),
        owner_uid=owner_uid(body),
        deleting="deletionTimestamp" in metadata,
        deleted_by_eviction=_disrupted(status, conditions),
        node=spec.get("nodeName"),
        ip=status.get("podIP"),
        ready=is_ready,
        ready_since=_optional_time(ready.get("lastTransitionTime")) if is_ready else None,
        scheduled=conditions.get("PodScheduled", {}).get("status") == "True",
        unschedulable_message=_unschedulable(conditions.get("PodScheduled", {})),
        reason=status.get("reason", ""),
        message=status.get("message", ""),
        containers=tuple(map(_container, status.get("containerStatuses") or ())),
        init_containers=tuple(map(_container, status.get("initContainerStatuses") or ())),
    )


def service_view(body: Body) -> ServiceView:
    """Return what plans read of a Service."""
    metadata, spec = body["metadata"], body.get("spec") or {}
    return ServiceView(
        name=metadata["name"],
        namespace=metadata["namespace"],
        uid=metadata["uid"],
        owner_uid=owner_uid(body),
        selector=spec.get("selector") or {},
        ports=tuple((each.get("name", ""), each["port"]) for each in spec.get("ports") or ()),
    )


def node_view(body: Body, gpu_resource: str) -> NodeView:
    """Return what plans read of a node."""
    status = body.get("status") or {}
    conditions = status.get("conditions") or ()
    ready: Body = next((each for each in conditions if each["type"] == "Ready"), {})
    return NodeView(
        name=body["metadata"]["name"],
        ready=ready.get("status") == "True",
        ready_changed=_optional_time(ready.get("lastTransitionTime")),
        gpus=_count((status.get("allocatable") or {}).get(gpu_resource, "0")),
    )


def _container(status: Body) -> ContainerView:
    state, present = _state(status.get("state") or {})
    _, last = _state(status.get("lastState") or {})
    return ContainerView(
        name=sys.intern(status["name"]),
        state=state,
        ready=bool(status.get("ready")),
        restarts=int(status.get("restartCount", 0)),
        exit_code=present.get("exitCode"),
        signal=present.get("signal"),
        reason=present.get("reason", ""),
        message=present.get("message", ""),
        finished=_optional_time(present.get("finishedAt")),
        last_exit_code=last.get("exitCode"),
        last_reason=last.get("reason", ""),
        last_message=last.get("message", ""),
        last_finished=_optional_time(last.get("finishedAt")),
    )


def _state(state: Body) -> tuple[Any, Body]:
    for name in ("terminated", "running", "waiting"):
        if name in state:
            return name, state[name] or {}
    return "waiting", {}


def _own_annotations(metadata: Body) -> Mapping[str, str]:
    every = metadata.get("annotations") or {}
    return {key: value for key, value in every.items() if key.startswith(_OURS)}


def _interned(labels: Mapping[str, str]) -> Mapping[str, str]:
    """Return our labels; their texts recur in thousands of pods."""
    return dict(_intern(labels))


def _intern(labels: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    for key, value in labels.items():
        if key.startswith(_OURS) or key == names.MANAGED_BY:
            yield sys.intern(key), sys.intern(value)


def _disrupted(status: Body, conditions: Mapping[str, Body]) -> bool:
    target = conditions.get("DisruptionTarget", {})
    return target.get("status") == "True" or status.get("reason") == "Evicted"


def _unschedulable(condition: Body) -> str:
    if condition.get("status") == "False" and condition.get("reason") == "Unschedulable":
        return str(condition.get("message", ""))
    return ""


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text)


def _optional_time(text: str | None) -> datetime | None:
    return _time(text) if text else None


def _count(quantity: Any) -> int:
    """Return a whole number of devices; the API server accepts no other quantity for them."""
    text = str(quantity)
    return int(text) if text.isdigit() else 0
