"""Label and annotation keys, and the names of children.

A child's name says what it is, so that making it twice is refused by the API server. The owner's
name has at most 40 characters (CEL on the CRD), so every name here fits into the 63 of a DNS label.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection, Mapping
from typing import Any

MANAGED_BY = "app.kubernetes.io/managed-by"
OPERATOR = "lepton-operator"

KIND = "lepton.ai/kind"
NAME = "lepton.ai/name"
ROLE = "lepton.ai/role"
ATTEMPT = "lepton.ai/attempt"  # a label (the number), and the annotation the launcher reads
TOLD_AGAIN = "lepton.ai/told-again"  # of what a kubelet was reminded
RANK = "lepton.ai/rank"
REVISION = "lepton.ai/revision"
IMAGE_ID = "lepton.ai/image-id"  # of the training container, as the kubelet tells it
STEP = "lepton.ai/step"  # JSON: what a step pod works on
RESOLVED = "lepton.ai/resolved"
RESOLVED_HASH = "lepton.ai/resolved-hash"
GENERATION = "lepton.ai/generation"  # of the owner's spec, when the child was made

DRAINING = "lepton.ai/draining"  # since when a serving pod is to get no new requests

# A namespace's door is no object of ours: its objects belong to it by this kind and name.
DOOR_KIND = "Door"
DOOR = "lepton-door"
DOOR_PORT = "lepton.ai/door-port"  # of a Service that does not lead to the doors yet
SERVING_POLICY = "lepton-serve"

STORE_SECRET = "lepton-store"  # noqa: S105 - the name of a Secret, not a secret

# Of the door's listeners, one a service: below are ports of our own, above those of Kubernetes'
# nodes and of connections that are being made.
DOOR_PORTS = range(10_000, 30_000)

# Nine digits: a stranger's pod may have more, and no status has room for such a number.
_ATTEMPT_AND_RANK = re.compile(r"([1-9][0-9]{0,8})-(0|[1-9][0-9]{0,8})")


def training_pod(job: str, attempt: int, rank: int) -> str:
    return f"{job}-train-{attempt}-{rank}"


def parse_training_pod(job: str, pod: str) -> tuple[int, int] | None:
    """Return the rank in a training pod's name, and the attempt that it was made for."""
    prefix = f"{job}-train-"
    found = (
        _ATTEMPT_AND_RANK.fullmatch(pod.removeprefix(prefix)) if pod.startswith(prefix) else None
    )
    return (int(found[1]), int(found[2])) if found else None


def made_for(training_pod: str) -> int:
    """Return the attempt in the name of a pod that is known to be one of a gang."""
    return int(training_pod.rsplit("-", 2)[1])


def training_hostname(job: str, rank: int) -> str:
    """Return the host name of a rank: the same in every attempt."""
    return f"{job}-train-{rank}"


def step_pod(model: str, step: str, number: int, version: int | None = None) -> str:
    middle = step if version is None else f"{step}-{version}"
    return f"{model}-{middle}-{number}"


def door_uid(namespace: str) -> str:
    """Return what stands for the UID of an owner in the objects of a namespace's door."""
    return f"{DOOR_KIND}/{namespace}"


def serving_pod(service: str, index: int) -> str:
    return f"{service}-serve-{index}"


def budget(service: str) -> str:
    return f"{service}-serve"


def free_indexes(service: str, taken: Collection[str], count: int) -> list[int]:
    """Return the lowest `count` indexes whose serving pods' names are not taken."""
    found: list[int] = []
    index = 0
    while len(found) < count:
        if serving_pod(service, index) not in taken:
            found.append(index)
        index += 1
    return found


def owner_labels(kind: str, name: str) -> dict[str, str]:
    """Return the labels that exactly this owner's children carry."""
    return {MANAGED_BY: OPERATOR, KIND: kind, NAME: name}


def door_labels() -> dict[str, str]:
    """Return the labels that exactly the doors' pods carry, in each namespace."""
    return {**owner_labels(DOOR_KIND, DOOR), ROLE: "door"}


def selector(labels: Mapping[str, str]) -> str:
    return ",".join(f"{key}={labels[key]}" for key in sorted(labels))


def canonical(value: Any) -> str:
    """Return one and the same JSON text for equal values."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def short_hash(value: Any) -> str:
    """Return ten hex digits that name a value."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()[:10]
