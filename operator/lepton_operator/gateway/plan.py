"""plan(view, now): what the door of a namespace needs done.

There is one while the namespace has InferenceServices. It is no custom resource, so it has no
status: what is wrong with it is in the status of those services, and in its own Deployment's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

from pydantic import ValidationError

from lepton_operator import names
from lepton_operator.build import door, network
from lepton_operator.plan import Create, Delete, Patch, Plan, replacing
from lepton_operator.views import GatewayView, ObjectView


def plan(view: GatewayView, now: datetime) -> Plan:  # noqa: ARG001 - every plan's signature
    """Return what to do for this door now."""
    if not view.needed:
        return _removed(view)
    found = {(each.kind, each.name): each for each in view.objects}
    wanted = {(each["kind"], each["metadata"]["name"]): each for each in _manifests(view)}
    # Where Services still lead past the door it would keep their requests out.
    early = {("NetworkPolicy", names.SERVING_POLICY)} if view.bypassed else set()
    create = [manifest for key, manifest in wanted.items() if key not in found and key not in early]
    patch = [
        patch
        for key, manifest in wanted.items()
        if key in found and (patch := _mended(found[key], manifest)) is not None
    ]
    because = [
        *(f"create {each['kind']} {each['metadata']['name']}" for each in create),
        *(f"change {each.target.kind} {each.target.name}" for each in patch),
    ]
    return Plan(
        because="; ".join(because),
        create=tuple(Create(each) for each in create),
        patch=tuple(patch),
    )


def _removed(view: GatewayView) -> Plan:
    return Plan(
        because="; ".join(f"delete {each.kind} {each.name}" for each in view.objects),
        delete=tuple(Delete(each.reference) for each in view.objects),
        # What goes here goes for every service of the namespace.
        relist=bool(view.objects),
    )


def _manifests(view: GatewayView) -> Iterator[dict[str, Any]]:
    settings = view.settings
    # Policies first: no pod is to run without them.
    yield network.serving_policy(view.namespace, settings.door)
    yield network.door_policy(view.namespace, settings.door)
    yield door.deployment(view.namespace, door.resolve(settings))
    yield door.budget(view.namespace)


def _mended(found: ObjectView, manifest: Mapping[str, Any]) -> Patch | None:
    """Return what turns an object into what it is to be; of a Deployment by what it records."""
    if found.kind != "Deployment":
        spec = manifest["spec"]
        changed = found.spec != spec
        return Patch(found.reference, {"spec": replacing(found.spec, spec)}) if changed else None
    annotations = manifest["metadata"]["annotations"]
    before = found.annotations.get(names.RESOLVED)
    if before == annotations[names.RESOLVED]:
        return None
    spec = replacing(_recorded(found.namespace, before), manifest["spec"])
    return Patch(found.reference, {"metadata": {"annotations": annotations}, "spec": spec})


def _recorded(namespace: str, resolved: str | None) -> Mapping[str, Any]:
    """Return the spec that a Deployment was made with."""
    try:
        before = door.ResolvedDoor.model_validate_json(resolved or "")
    except ValidationError:
        return {}
    spec: Mapping[str, Any] = door.deployment(namespace, before)["spec"]
    return spec
