"""Requests that change something, named so that the same write has the same name in every run."""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import dataclass
from typing import Any

VERBS = {"POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}
NO_KILL_POINTS = frozenset({"leases", "events"})

_PATH = re.compile(
    r"/(?:api/v1|apis/[^/]+/[^/]+)/namespaces/(?P<namespace>[^/]+)"
    r"/(?P<resource>[^/]+)(?:/(?P<name>[^/]+))?(?:/(?P<subresource>[^/]+))?"
)
_FREE_NUMBER = re.compile(r"-(serve|index|import|evaluate-[0-9]+)-[0-9]+")
# What a Deployment's controllers add to the names of the door's ReplicaSets and pods.
_OF_THE_DOOR = re.compile(r"lepton-door-[0-9a-f]{6,10}(-[0-9a-z]{5})?")


@dataclass(frozen=True, slots=True, order=True)
class Target:
    """What a write does to which object. `resource` has the subresource: trainingjobs/status."""

    verb: str
    resource: str
    name: str

    def __str__(self) -> str:
        return f"{self.verb} {self.resource} {self.name}"


@dataclass(frozen=True, slots=True, order=True)
class Write:
    """The n-th time that this is done in a run."""

    target: Target
    occurrence: int

    def __str__(self) -> str:
        return f"{self.target} #{self.occurrence}"


def normal_name(name: str) -> str:
    """Return a child's name without what may differ between two runs that are both right.

    Serving pods and steps take the lowest number that no other pod has at that moment.
    """
    return _OF_THE_DOOR.sub("lepton-door-N", _FREE_NUMBER.sub(r"-\1-N", name))


def parse(method: str, path: str, body: bytes) -> tuple[str, Target] | None:
    """Return the namespace and the target of a write; None for all that is no kill point."""
    found = _PATH.fullmatch(path)
    if found is None or method not in VERBS or found["resource"] in NO_KILL_POINTS:
        return None
    name = found["name"] or _name_in(body)
    resource = "/".join(filter(None, (found["resource"], found["subresource"])))
    return found["namespace"], Target(VERBS[method], resource, normal_name(name))


def _name_in(body: bytes) -> str:
    manifest: dict[str, Any] = json.loads(body)
    return str(manifest["metadata"]["name"])


class Occurrences:
    """Counts writes of the same target."""

    def __init__(self) -> None:
        self._seen: Counter[Target] = Counter()

    def next(self, target: Target) -> Write:
        self._seen[target] += 1
        return Write(target, self._seen[target])
