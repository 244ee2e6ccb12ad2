"""What a pass wants done: a value that can explain itself. `execute` carries it out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

Manifest = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Reference:
    """An object as it was seen: acting on another one of the same name then fails harmlessly."""

    kind: str
    namespace: str
    name: str
    uid: str


@dataclass(frozen=True, slots=True)
class Delete:
    """Delete exactly the object that was seen (UID precondition); gone already is fine."""

    target: Reference
    grace_seconds: int | None = None


@dataclass(frozen=True, slots=True)
class Patch:
    """A JSON merge patch of exactly the object that was seen."""

    target: Reference
    body: Manifest


def replacing(found: Manifest, wanted: Manifest) -> Manifest:
    """Return the merge patch that turns what was found into what is wanted, whole lists at once."""
    patch: dict[str, Any] = dict.fromkeys(set(found) - set(wanted))
    for key, value in wanted.items():
        before = found.get(key)
        if isinstance(value, Mapping) and isinstance(before, Mapping):
            patch[key] = replacing(before, value)
        else:
            patch[key] = value
    return patch


@dataclass(frozen=True, slots=True)
class Create:
    """POST a manifest; our own object under that name is fine, a stranger's is NameTaken.

    With `shared` whatever stands there is fine: the object belongs to nobody in particular.
    """

    manifest: Manifest
    shared: bool = False


@dataclass(frozen=True, slots=True)
class Event:
    """A Kubernetes Event about the object, posted after the status was written."""

    type: Literal["Normal", "Warning"]
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do now, why, and when to ask again.

    `status` is the whole wanted status as stored; it is written only if it differs.
    `relist` marks a plan that acts on the absence of something: it is made again from a live list.
    """

    because: str = ""
    delete: tuple[Delete, ...] = ()
    create: tuple[Create, ...] = ()
    patch: tuple[Patch, ...] = ()
    status: Manifest | None = None
    events: tuple[Event, ...] = ()
    due: datetime | None = None
    relist: bool = False
