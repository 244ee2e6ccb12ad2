"""What can go wrong between the operator and the API server, each as a value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from tests.resilience.writes import Write

Moment = Literal["before", "after"]
EventType = Literal["ADDED", "MODIFIED", "DELETED"]


@dataclass(frozen=True, slots=True)
class Kill:
    """SIGKILL at a write: before the API server sees it, or when it is stored and not answered."""

    write: Write
    moment: Moment

    def __str__(self) -> str:
        return f"kill {self.moment} {self.write}"


@dataclass(frozen=True, slots=True)
class LostAnswer:
    """The write is stored, and the connection breaks instead of an answer."""

    write: Write

    def __str__(self) -> str:
        return f"lose the answer to {self.write}"


@dataclass(frozen=True, slots=True)
class Answer:
    """The write never reaches the API server: this status is answered in its place."""

    write: Write
    status: int
    headers: Mapping[str, str] = field(default_factory=dict, hash=False)

    def __str__(self) -> str:
        return f"answer {self.status} to {self.write}"

    def body(self) -> dict[str, Any]:
        """Return the metav1.Status that the API server would send."""
        return {
            "kind": "Status",
            "apiVersion": "v1",
            "status": "Failure",
            "reason": _REASONS[self.status],
            "message": f"the fault proxy says {_REASONS[self.status]}",
            "code": self.status,
        }


@dataclass(frozen=True, slots=True)
class CutWatch:
    """The connection of a watch breaks instead of telling the first event of this type."""

    resource: str
    event: EventType

    def __str__(self) -> str:
        return f"cut the watch of {self.resource} at the first {self.event}"


@dataclass(frozen=True, slots=True)
class DelayedWatch:
    """The first event of this type comes so much later, and all others after it."""

    resource: str
    event: EventType
    seconds: float

    def __str__(self) -> str:
        return f"delay the watch of {self.resource} by {self.seconds} s at the first {self.event}"


@dataclass(frozen=True, slots=True)
class ExpiredWatch:
    """The first event of this type is lost: the watch ends with 410 Gone in its place."""

    resource: str
    event: EventType

    def __str__(self) -> str:
        return f"410 on the watch of {self.resource} at the first {self.event}"


WriteFault = Kill | LostAnswer | Answer
WatchFault = CutWatch | DelayedWatch | ExpiredWatch
Fault = WriteFault | WatchFault

GONE: Mapping[str, Any] = {
    "type": "ERROR",
    "object": {
        "kind": "Status",
        "apiVersion": "v1",
        "status": "Failure",
        "reason": "Expired",
        "message": "too old resource version",
        "code": 410,
    },
}

_REASONS = {409: "Conflict", 429: "TooManyRequests", 500: "InternalError"}
