"""What is kept of the API server's objects: views of children, trimmed bodies of our own kinds.

Conversion runs in event handlers, so it reads plain dicts and validates nothing: these are objects
of the API server's own schemas.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any

from lepton_operator import names
from lepton_operator.views import (
    ContainerView,
    NodeFault,
    NodeView,
    ObjectView,
    PodView,
    ScalerView,
    ServicePort,
    ServiceView,
    Taint,
    Toleration,
    VersionUse,
)

Body = Mapping[str, Any]

_OURS = "lepton.ai/"
_KARPENTER = "karpenter.sh/nodepool"
_SMALL_KINDS = frozenset({"PodDisruptionBudget", "NetworkPolicy"})
_KEEPS_PODS_AWAY = frozenset({"NoSchedule", "NoExecute"})
# A node short of room is no broken node: the kubelet evicts whom it must, and says so in the pod.
_PRESSURES = frozenset({"MemoryPressure", "DiskPressure", "PIDPressure"})
_PRESSURE_TAINTS = frozenset(
    f"node.kubernetes.io/{name}-pressure" for name in ("memory", "disk", "pid")
)
# Conditions that are True while all is well; others (Xid errors, dead links) are it in a fault.
_GOOD_WHILE_TRUE = ("Ready", "Healthy")
_MAX_FAULT_TEXT = 256
_DIGITS_OF_A_PORT = 5  # of the doors'
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
    """Return the UID of the object that controls this one; or what stands for a door's."""
    metadata = body["metadata"]
    labels = metadata.get("labels") or {}
    if (labels.get(names.MANAGED_BY), labels.get(names.KIND)) == (names.OPERATOR, names.DOOR_KIND):
        return sys.intern(names.door_uid(metadata["namespace"]))
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


def version_uses(body: Body) -> frozenset[VersionUse]:
    """Return the versions of its model that a service uses."""
    named = ((body.get("spec") or {}).get("model") or {}).get("version")
    revisions = (body.get("status") or {}).get("revisions") or ()
    running = (VersionUse(each["version"], pinned=False) for each in revisions)
    return frozenset((*running, *([VersionUse(named, pinned=True)] if named else ())))


def pod_view(body: Body) -> PodView:
    """Return what plans read of a pod."""
    metadata, spec, status = body["metadata"], body.get("spec") or {}, body.get("status") or {}
    conditions: dict[str, Body] = {each["type"]: each for each in status.get("conditions") or ()}
    ready = conditions.get("Ready", {})
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
        disruption=_disruption(conditions),
        leaves_by=_leaves_by(metadata, spec, conditions),
        node=spec.get("nodeName"),
        ip=status.get("podIP"),
        ready=ready.get("status") == "True",
        ready_since=_true_since(ready),
        unready_since=_since(ready, "False"),
        scheduled=conditions.get("PodScheduled", {}).get("status") == "True",
        scheduled_since=_true_since(conditions.get("PodScheduled", {})),
        sandbox_since=_true_since(conditions.get("PodReadyToStartContainers", {})),
        unschedulable_message=_unschedulable(conditions.get("PodScheduled", {})),
        reason=status.get("reason", ""),
        message=status.get("message", ""),
        containers=tuple(map(_container, status.get("containerStatuses") or ())),
        init_containers=tuple(map(_container, status.get("initContainerStatuses") or ())),
        tolerations=_tolerations(spec),
    )


def service_view(body: Body) -> ServiceView:
    """Return what plans read of a Service."""
    metadata, spec = body["metadata"], body.get("spec") or {}
    return ServiceView(
        name=metadata["name"],
        namespace=metadata["namespace"],
        uid=metadata["uid"],
        owner_uid=owner_uid(body),
        created=_time(metadata["creationTimestamp"]),
        selector=spec.get("selector") or {},
        ports=tuple(
            ServicePort(each.get("name", ""), each["port"], each.get("targetPort", each["port"]))
            for each in spec.get("ports") or ()
        ),
        announced_port=_announced_port(metadata),
    )


def _announced_port(metadata: Body) -> int | None:
    written = _own_annotations(metadata).get(names.DOOR_PORT, "")
    if not written.isdecimal() or len(written) != _DIGITS_OF_A_PORT:
        return None
    return int(written) if int(written) in names.DOOR_PORTS else None


def object_view(kind: str, body: Body) -> ObjectView:
    """Return what plans read of a child of another kind."""
    metadata = body["metadata"]
    return ObjectView(
        kind=kind,
        name=metadata["name"],
        namespace=metadata["namespace"],
        uid=metadata["uid"],
        owner_uid=owner_uid(body),
        annotations=_own_annotations(metadata),
        spec=(body.get("spec") or {}) if kind in _SMALL_KINDS else {},
    )


def gpus_of_pod(body: Body, gpu_resource: str) -> int:
    """Return the GPUs that a pod holds: those of all its containers, or of its largest start."""
    spec = body["spec"]

    def asked(kind: str) -> list[int]:
        limits = (
            (each.get("resources") or {}).get("limits") or {} for each in spec.get(kind) or ()
        )
        return [_count(each.get(gpu_resource, "0")) for each in limits]

    return max(sum(asked("containers")), *asked("initContainers"), 0)


def node_view(body: Body, gpu_resource: str) -> NodeView:
    """Return what plans read of a node."""
    spec, status = body.get("spec") or {}, body.get("status") or {}
    conditions = status.get("conditions") or ()
    ready: Body = next((each for each in conditions if each["type"] == "Ready"), {})
    return NodeView(
        name=body["metadata"]["name"],
        ready=ready.get("status") == "True",
        ready_changed=_optional_time(ready.get("lastTransitionTime")),
        gpus=_count((status.get("allocatable") or {}).get(gpu_resource, "0")),
        schedulable=not spec.get("unschedulable", False),
        taints=tuple(_taints(spec)),
        faults=tuple(_faults(conditions)),
        replaceable=_KARPENTER in (body["metadata"].get("labels") or {}),
    )


def _taints(spec: Body) -> Iterator[Taint]:
    for each in spec.get("taints") or ():
        if each["effect"] in _KEEPS_PODS_AWAY and each["key"] not in _PRESSURE_TAINTS:
            yield Taint(each["key"], each.get("value", ""), each["effect"])


def scaler_view(body: Body) -> ScalerView:
    """Return what there is to know of a HorizontalPodAutoscaler: whom it scales."""
    metadata, target = body["metadata"], body["spec"]["scaleTargetRef"]
    ours = target.get("apiVersion", "").startswith(_OURS)
    return ScalerView(
        name=metadata["name"],
        namespace=metadata["namespace"],
        uid=metadata["uid"],
        kind=sys.intern(target["kind"]) if ours else "",
        target=target["name"],
    )


def _faults(conditions: Iterable[Body]) -> Iterator[NodeFault]:
    for each in conditions:
        kind, since = each["type"], _optional_time(each.get("lastTransitionTime"))
        if kind == "Ready" or kind in _PRESSURES or since is None:
            continue
        if each["status"] == ("False" if kind.endswith(_GOOD_WHILE_TRUE) else "True"):
            yield NodeFault(kind, each.get("message", "")[:_MAX_FAULT_TEXT], since)


def _tolerations(spec: Body) -> tuple[Toleration, ...]:
    return _shared(
        tuple(
            Toleration(
                each.get("key", ""),
                each.get("operator", "Equal"),
                each.get("value", ""),
                each.get("effect", ""),
            )
            for each in spec.get("tolerations") or ()
        )
    )


@lru_cache(maxsize=256)
def _shared(tolerations: tuple[Toleration, ...]) -> tuple[Toleration, ...]:
    """Return one and the same tuple for equal ones; they recur in thousands of pods."""
    return tolerations


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
        image_id=sys.intern(status.get("imageID", "")),
        started=_optional_time(present.get("startedAt")),
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


def _disruption(conditions: Mapping[str, Body]) -> str:
    target = conditions.get("DisruptionTarget", {})
    return sys.intern(target.get("reason", "")) if target.get("status") == "True" else ""


def _true_since(condition: Body) -> datetime | None:
    return _since(condition, "True")


def _since(condition: Body, status: str) -> datetime | None:
    is_so = condition.get("status") == status
    return _optional_time(condition.get("lastTransitionTime")) if is_so else None


def _leaves_by(metadata: Body, spec: Body, conditions: Mapping[str, Body]) -> datetime | None:
    """Return when the grace period ends; the condition says it before the pod is deleted."""
    if "deletionTimestamp" in metadata:
        return _time(metadata["deletionTimestamp"])
    target = conditions.get("DisruptionTarget", {})
    asked = _optional_time(target.get("lastTransitionTime"))
    if asked is None or target.get("status") != "True":
        return None
    return asked + timedelta(seconds=spec.get("terminationGracePeriodSeconds", 0))


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
