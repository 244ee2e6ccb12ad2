"""What the API server says about a service and what belongs to it."""

from __future__ import annotations

from typing import Any

from lepton_operator import names
from tests.unit.runtime import objects

TEAM = "team"


def inference_service(
    name: str = "digits", uid: str = "svc-1", generation: int = 1, **spec: Any
) -> dict[str, Any]:
    return {
        "metadata": objects.metadata(name, uid, 1, generation=generation),
        "spec": {"model": {"name": "digits"}, **spec},
    }


def kubernetes_service(
    name: str = "digits",
    owner: str = "svc-1",
    port: int | str = 18_231,
    created: str = objects.CREATED,
) -> dict[str, Any]:
    reference = {"kind": "InferenceService", "name": name, "uid": owner, "controller": True}
    found = objects.metadata(name, f"service-of-{owner}", 1, ownerReferences=[reference])
    ports = [{"name": each, "port": 8000, "targetPort": port} for each in ("http", "grpc")]
    return {"metadata": found | {"creationTimestamp": created}, "spec": {"ports": ports}}


def serving_pod(
    name: str = "digits-serve-0",
    owner: str = "svc-1",
    service: str = "digits",
    *,
    ready: bool = True,
    address: str = "10.0.0.1",
    phase: str = "Running",
    annotations: dict[str, str] | None = None,
    reason: str = "",
) -> dict[str, Any]:
    reference = {"kind": "InferenceService", "name": service, "uid": owner, "controller": True}
    labels = {**names.owner_labels("InferenceService", service), names.ROLE: "serve"}
    status = {
        "phase": phase,
        "reason": reason,
        "podIP": address,
        "conditions": [{"type": "Ready", "status": str(ready)}],
    }
    metadata = objects.metadata(
        name,
        f"uid-of-{name}",
        1,
        ownerReferences=[reference],
        labels=labels | {names.REVISION: "a1b2c3"},
        annotations=annotations or {},
    )
    return {"metadata": metadata, "spec": {}, "status": status}
