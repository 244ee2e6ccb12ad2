"""What every pod of ours has in common: metadata, the restricted security context, volumes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lepton_operator import names
from lepton_operator.api.common import API_VERSION, Metadata, PodSettings, Resources

TEMPORARY_PATH = "/tmp"  # noqa: S108 - a path inside the pod, on an emptyDir
SHARED_MEMORY_PATH = "/dev/shm"  # noqa: S108 - likewise
STORE_PATH = "/etc/lepton/store"
SHARED_MEMORY_VOLUME = "shm"
STORE_VOLUME = "lepton-store"
TEMPORARY_VOLUME = "tmp"


@dataclass(frozen=True, slots=True)
class Identity:
    """The ids that a pod's processes get; None leaves the choice to the cluster (OpenShift)."""

    run_as_user: int | None
    fs_group: int | None


@dataclass(frozen=True, slots=True)
class Avoided:
    """Names of nodes that a pod stays away from: at any price, and if it can."""

    required: Sequence[str] = ()
    preferred: Sequence[str] = ()

    def affinity(self) -> dict[str, Any]:
        """Return the pod's node affinity; by the node's name, which is no label."""
        rules: dict[str, Any] = {}
        if self.required:
            terms = {"nodeSelectorTerms": [_none_of(self.required)]}
            rules["requiredDuringSchedulingIgnoredDuringExecution"] = terms
        if self.preferred:
            term = {"weight": 100, "preference": _none_of(self.preferred)}
            rules["preferredDuringSchedulingIgnoredDuringExecution"] = [term]
        return {"nodeAffinity": rules} if rules else {}


def _none_of(nodes: Sequence[str]) -> dict[str, Any]:
    # The API server takes one value for each of these.
    fields = [{"key": "metadata.name", "operator": "NotIn", "values": [each]} for each in nodes]
    return {"matchFields": fields}


@dataclass(frozen=True, slots=True)
class PodParts:
    """What differs between our pods."""

    name: str
    role: str
    containers: Sequence[Mapping[str, Any]]
    init_containers: Sequence[Mapping[str, Any]] = ()
    volumes: Sequence[Mapping[str, Any]] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    hostname: str | None = None
    grace_seconds: int | None = None
    priority_class: str | None = None
    tolerations: Sequence[Mapping[str, Any]] = ()
    restart_policy: str = "Never"
    spread: Sequence[Mapping[str, Any]] = ()
    affinity: Mapping[str, Any] = field(default_factory=dict)
    temporary_size: str | int | None = None


def pod(
    kind: str, owner: Metadata, settings: PodSettings, identity: Identity, parts: PodParts
) -> dict[str, Any]:
    """Return a pod of this owner; ours wins over the user's wherever both have a word."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": parts.name,
            "namespace": owner.namespace,
            "labels": {
                **settings.pod_labels,
                **names.owner_labels(kind, owner.name),
                names.ROLE: parts.role,
                **parts.labels,
            },
            "annotations": {**settings.pod_annotations, **parts.annotations},
            "ownerReferences": [controller_reference(kind, owner)],
        },
        "spec": _spec(settings, identity, parts),
    }


def controller_reference(kind: str, owner: Metadata) -> dict[str, Any]:
    """Return the owner reference of a child; blockOwnerDeletion would need a right of its own."""
    return {
        "apiVersion": API_VERSION,
        "kind": kind,
        "name": owner.name,
        "uid": owner.uid,
        "controller": True,
    }


def _spec(settings: PodSettings, identity: Identity, parts: PodParts) -> dict[str, Any]:
    spec = {
        "restartPolicy": parts.restart_policy,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": _pod_security(settings, identity),
        "initContainers": [dict(each) for each in parts.init_containers],
        "containers": [dict(each) for each in parts.containers],
        "volumes": [
            empty_volume(TEMPORARY_VOLUME, size=parts.temporary_size),
            *(dict(each) for each in parts.volumes),
        ],
        "hostname": parts.hostname,
        "terminationGracePeriodSeconds": settings.termination_grace_period_seconds
        or parts.grace_seconds,
        "priorityClassName": settings.priority_class_name or parts.priority_class,
        "serviceAccountName": settings.service_account_name,
        "runtimeClassName": settings.runtime_class_name,
        "schedulerName": settings.scheduler_name,
        "nodeSelector": dict(settings.node_selector),
        "imagePullSecrets": [each.model_dump() for each in settings.image_pull_secrets],
        "tolerations": [
            *(each.model_dump(by_alias=True, exclude_none=True) for each in settings.tolerations),
            *(dict(each) for each in parts.tolerations),
        ],
        "topologySpreadConstraints": [dict(each) for each in parts.spread],
        "affinity": dict(parts.affinity),
    }
    return {
        key: value for key, value in spec.items() if value is not None and value not in ([], {})
    }


def _pod_security(settings: PodSettings, identity: Identity) -> dict[str, Any]:
    ids = {
        "runAsUser": settings.run_as_user or identity.run_as_user,
        "fsGroup": settings.fs_group or identity.fs_group,
    }
    return {
        "runAsNonRoot": True,
        "seccompProfile": {"type": "RuntimeDefault"},
        # A large volume is not walked again for each pod that mounts it.
        "fsGroupChangePolicy": "OnRootMismatch",
        **{key: value for key, value in ids.items() if value is not None},
    }


def container(
    name: str,
    image: str,
    *,
    pull_policy: str,
    command: Sequence[str],
    resources: Resources,
    read_only_root: bool = True,
    environment: Mapping[str, str] | None = None,
    mounts: Sequence[Mapping[str, Any]] = (),
    **more: Any,
) -> dict[str, Any]:
    """Return a container under the `restricted` Pod Security Standard; `more` is further fields."""
    every = {"HOME": TEMPORARY_PATH, "TMPDIR": TEMPORARY_PATH, "USER": "lepton"}
    return {
        "name": name,
        "image": image,
        "imagePullPolicy": pull_policy,
        "command": list(command),
        "env": [
            {"name": key, "value": value} for key, value in {**every, **(environment or {})}.items()
        ],
        "resources": resources.model_dump(by_alias=True, exclude_defaults=True),
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": read_only_root,
        },
        "volumeMounts": [
            mount(TEMPORARY_VOLUME, TEMPORARY_PATH),
            *(dict(each) for each in mounts),
        ],
        **more,
    }


def mount(volume: str, path: str, *, read_only: bool = False) -> dict[str, Any]:
    return {"name": volume, "mountPath": path, **({"readOnly": True} if read_only else {})}


def store_mount() -> dict[str, Any]:
    return mount(STORE_VOLUME, STORE_PATH, read_only=True)


def store_volume() -> dict[str, Any]:
    """Return the namespace's store Secret as a volume.

    It is optional, so that its absence is our sentence and not a pod in ContainerCreating.
    """
    return {
        "name": STORE_VOLUME,
        "secret": {"secretName": names.STORE_SECRET, "optional": True, "defaultMode": 0o440},
    }


def empty_volume(
    name: str, *, memory: bool = False, size: str | int | None = None
) -> dict[str, Any]:
    source: dict[str, Any] = {"medium": "Memory"} if memory else {}
    if size is not None:
        source["sizeLimit"] = size
    return {"name": name, "emptyDir": source}
