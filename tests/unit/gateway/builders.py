"""Test values about the door of a namespace."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lepton_operator import names
from lepton_operator.gateway.plan import plan
from lepton_operator.settings import Door, Settings
from lepton_operator.views import GatewayView, ObjectView
from tests.builders import NAMESPACE, NOW, defaults

OPERATOR_LABELS = {"app.kubernetes.io/component": "operator"}
DOOR = Door.model_validate(
    {
        "operator": {
            "namespaceLabels": {"kubernetes.io/metadata.name": "lepton-system"},
            "podLabels": OPERATOR_LABELS,
        }
    }
)


def settings(**changes: Any) -> Settings:
    return Settings(defaults=defaults(), door=DOOR.model_copy(update=changes))


def as_seen(manifest: Mapping[str, Any]) -> ObjectView:
    """What the operator keeps of an object that was made from this manifest."""
    kind, metadata = manifest["kind"], manifest["metadata"]
    return ObjectView(
        kind=kind,
        name=metadata["name"],
        namespace=metadata["namespace"],
        uid=f"uid-of-{kind}-{metadata['name']}",
        owner_uid=names.door_uid(NAMESPACE),
        annotations=metadata.get("annotations", {}),
        spec=manifest["spec"] if kind != "Deployment" else {},
    )


def a_view(
    *objects: ObjectView, needed: bool = True, bypassed: bool = False, **changes: Any
) -> GatewayView:
    return GatewayView(NAMESPACE, needed, settings(**changes), objects, bypassed=bypassed)


def manifests(**changes: Any) -> list[Mapping[str, Any]]:
    """Everything that a door is made of."""
    return [each.manifest for each in plan(a_view(**changes), NOW).create]


def made(**changes: Any) -> tuple[ObjectView, ...]:
    return tuple(as_seen(each) for each in manifests(**changes))
