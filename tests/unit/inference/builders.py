"""Test values about serving: a service, its pods in a revision, the model that it serves."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from lepton_operator import names
from lepton_operator.api.inference import InferenceService, InferenceServiceStatus
from lepton_operator.api.model import LeptonModel
from lepton_operator.build import disruption, serving
from lepton_operator.build.serving import Target
from lepton_operator.conditions import find
from lepton_operator.inference.plan import plan
from lepton_operator.inference.revisions import revision_name
from lepton_operator.plan import Patch, Plan
from lepton_operator.views import (
    ContainerView,
    DoorTold,
    InferenceView,
    ObjectView,
    PodView,
    ServicePort,
    ServiceView,
)
from tests.builders import NAMESPACE, NOW, a_model, ago, defaults, metadata

LONG_AGO_SECONDS = 600
UNSCHEDULABLE = "0/2 nodes are available: 2 Insufficient nvidia.com/gpu."
LOAD_FAILURE = (
    "E1122 04:26:23.3 1 model_lifecycle.cc:642] \"failed to load 'digits' version 1: Internal: "
    'onnx runtime error 1: opset 28 is under development"\n'
    "error: creating server: Internal - failed to load all models\n"
)


def digest(version: int) -> str:
    return f"sha256:{version:064x}"


def a_service(
    replicas: int = 1,
    *,
    version: int | None = None,
    status: Mapping[str, Any] | None = None,
    meta: Mapping[str, Any] | None = None,
    **spec: Any,
) -> InferenceService:
    """A service of the model `digits`; further fields of the spec as in the manifest."""
    reference = {"name": "digits", **({"version": version} if version else {})}
    return InferenceService.model_validate(
        {
            "metadata": metadata("digits", **(meta or {})),
            "spec": {"model": reference, "replicas": replicas, **spec},
            "status": status or {"observedGeneration": -1},
        }
    )


def a_served_model(version: int = 1, *others: int) -> LeptonModel:
    """The model `digits` that serves this version, and lists others too."""
    listed = [{"version": each, "digest": digest(each)} for each in (version, *others)]
    served = {"version": version, "digest": digest(version)}
    return a_model(status={"versions": listed, "served": served})


def revision(version: int = 1, service: InferenceService | None = None) -> str:
    return revision_name(service or a_service(), Target("digits", version, digest(version)))


def a_pod(
    index: int = 0,
    *,
    version: int = 1,
    ready: bool = False,
    ready_seconds: float = LONG_AGO_SECONDS,
    service: InferenceService | None = None,
    **more: Any,
) -> PodView:
    """A serving pod of a version: on a node and starting, unless something else is said."""
    owner = service or a_service()
    name = names.serving_pod("digits", index)
    resolved = serving.resolve(owner, defaults())
    pod = PodView(
        name=name,
        namespace=NAMESPACE,
        uid=f"uid-of-{name}-{version}",
        phase="Running",
        created=ago(LONG_AGO_SECONDS),
        labels={
            **serving.selector(owner),
            names.REVISION: revision(version, owner),
        },
        annotations={names.RESOLVED: resolved.written()},
        owner_uid="uid-of-digits",
        node="node-1",
        ip=f"10.0.0.{index}",
        scheduled=True,
        scheduled_since=ago(LONG_AGO_SECONDS),
        ready=ready,
        ready_since=ago(ready_seconds) if ready else None,
        init_containers=(ContainerView("fetch", "terminated", ready=True, exit_code=0),),
        containers=(ContainerView("triton", "running", ready=ready),),
    )
    return replace(pod, **more)


def crashed(name: str, said: str, *, at: datetime | None = None, **more: Any) -> ContainerView:
    """A container that the kubelet will start again, after what it said when it ended."""
    return ContainerView(
        name,
        "waiting",
        reason="CrashLoopBackOff",
        message="back-off 40s restarting failed container",
        **{
            "restarts": 3,
            "last_exit_code": 1,
            "last_reason": "Error",
            "last_message": said,
            "last_finished": at or ago(5),
            **more,
        },
    )


PORT = 18_231  # of the door, that leads to the service


def service_ports(target: int | str = PORT) -> tuple[ServicePort, ...]:
    return tuple(ServicePort(name, port, target) for name, port in serving.SERVICE_PORTS)


def a_kubernetes_service(**more: Any) -> ServiceView:
    found = ServiceView(
        name="digits",
        namespace=NAMESPACE,
        uid="uid-of-service",
        owner_uid="uid-of-digits",
        created=NOW,
        selector=names.door_labels(),
        ports=service_ports(),
    )
    return replace(found, **more)


def a_budget(service: InferenceService | None = None, max_unavailable: int = 1) -> ObjectView:
    return ObjectView(
        kind="PodDisruptionBudget",
        name="digits-serve",
        namespace=NAMESPACE,
        uid="uid-of-budget",
        owner_uid="uid-of-digits",
        spec=disruption.spec(service or a_service(), max_unavailable),
    )


def a_door(number: int = 0, *, ready: bool = True, **more: Any) -> PodView:
    """A pod of the namespace's door: it runs, and takes requests."""
    found = PodView(
        name=f"lepton-door-{number}",
        namespace=NAMESPACE,
        uid=f"uid-of-door-{number}",
        phase="Running",
        created=ago(LONG_AGO_SECONDS),
        labels=names.door_labels(),
        owner_uid=names.door_uid(NAMESPACE),
        node="node-1",
        ip=f"10.0.9.{number}",
        ready=ready,
        containers=(ContainerView("door", "running", ready=ready),),
    )
    return replace(found, **more)


def in_flight(*doors: Mapping[str, int], seconds_ago: float = 0) -> dict[str, DoorTold]:
    """What the doors told of pods that drain, by their addresses."""
    asked = ago(seconds_ago)
    return {f"uid-of-door-{i}": DoorTold(asked, each) for i, each in enumerate(doors)}


def marked(pod: PodView, seconds: float = 1) -> PodView:
    """The pod, which has been draining for so long."""
    since = (NOW - timedelta(seconds=seconds)).isoformat()
    return replace(pod, annotations={**pod.annotations, names.DRAINING: since})


def a_view(service: InferenceService | None = None, *pods: PodView, **more: Any) -> InferenceView:
    """What the plan reads: version 1 is served, and the Service is there."""
    return InferenceView(
        service=service or a_service(),
        pods=pods,
        **{
            "defaults": defaults(),
            "model": a_served_model(),
            "kubernetes_service": a_kubernetes_service(),
            "budget": a_budget(service, 1 if more.get("nodes") is None else 0),
            "doors": (a_door(),),
            **more,
        },
    )


def after(view: InferenceView, found: Plan) -> InferenceView:
    """The view once the plan's status was written."""
    if found.status is None:
        return view
    status = json.loads(json.dumps(found.status))
    body = {**view.service.model_dump(mode="json", by_alias=True), "status": status}
    return replace(view, service=InferenceService.model_validate(body))


def created(found: Plan) -> list[str]:
    return [each.manifest["metadata"]["name"] for each in found.create]


def pods_of(found: Plan) -> list[str]:
    return [
        each.manifest["metadata"]["name"] for each in found.create if each.manifest["kind"] == "Pod"
    ]


def drained(found: Plan) -> list[str]:
    """Pods that are marked to get no new requests."""
    return [each.target.name for each in found.patch if _mark(each)]


def restored(found: Plan) -> list[str]:
    return [each.target.name for each in found.patch if _mark(each) is None]


def _mark(patch: Patch) -> str | None:
    marks: Mapping[str, str | None] = patch.body.get("metadata", {}).get("annotations", {})
    return marks.get(names.DRAINING, "")


def status(found: Plan) -> InferenceServiceStatus:
    assert found.status is not None
    return InferenceServiceStatus.model_validate(found.status)


def message(found: Plan) -> str:
    ready = find(status(found).conditions, "Ready")
    assert ready is not None
    return ready.message


def settled(view: InferenceView) -> InferenceView:
    return after(view, plan(view, NOW))


def unschedulable(pod: PodView, seconds: float = LONG_AGO_SECONDS) -> PodView:
    """The pod, for which there has been no room for so long."""
    return replace(
        pod,
        phase="Pending",
        scheduled=False,
        node=None,
        ready=False,
        ready_since=None,
        created=ago(seconds),
        containers=(),
        init_containers=(),
        unschedulable_message=UNSCHEDULABLE,
    )


def failing_triton(pod: PodView, said: str = LOAD_FAILURE, **more: Any) -> PodView:
    return replace(pod, ready=False, containers=(crashed("triton", said, **more),))
