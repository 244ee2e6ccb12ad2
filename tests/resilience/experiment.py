"""One run of a scenario in a namespace: which fault is due, and what the operator wrote."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.resilience.faults import Fault, WatchFault, WriteFault
from tests.resilience.writes import Occurrences, Target, Write

_FIRST_ERROR_STATUS = 400
_FORBIDDEN = 403


@dataclass(slots=True)
class Sent:
    """A write as the proxy saw it; `status` is None until the API server has answered."""

    write: Write
    status: int | None = None
    uid: str = ""  # of the object that was created, changed or deleted
    fault: str = ""

    @property
    def committed(self) -> bool:
        return self.status is not None and self.status < _FIRST_ERROR_STATUS

    @property
    def forbidden(self) -> bool:
        return self.status == _FORBIDDEN

    def __str__(self) -> str:
        said = f"{self.write}: {self.status or 'not sent'}"
        return f"{said}   <-- {self.fault}" if self.fault else said


@dataclass(slots=True)
class Experiment:
    """`kill` ends the operator at once, and has it started again."""

    namespace: str
    fault: Fault | None
    kill: Callable[[], None]
    sent: list[Sent] = field(default_factory=list)
    armed: bool = False
    fired: bool = False
    last_write: float = field(default_factory=time.monotonic)
    _occurrences: Occurrences = field(default_factory=Occurrences)
    _prepared: int = 0

    def arm(self) -> None:
        """From here on writes are kill points; what was written before is preparation."""
        self.armed = True
        self._occurrences = Occurrences()
        self._prepared = len(self.sent)

    def note(self, target: Target) -> Sent:
        """Take note of a write that arrived."""
        self.last_write = time.monotonic()
        noted = Sent(self._occurrences.next(target))
        self.sent.append(noted)
        return noted

    def due(self, write: Write) -> WriteFault | None:
        """Return the fault that this write is to meet. Each fault comes once."""
        fault = self.fault
        if not self.armed or self.fired or not isinstance(fault, WriteFault):
            return None
        if fault.write != write:
            return None
        self.fired = True
        return fault

    def due_on_watch(self, resource: str, line: bytes) -> WatchFault | None:
        """Return the fault that this line of a watch is to meet."""
        fault = self.fault
        if not self.armed or self.fired or not isinstance(fault, WatchFault):
            return None
        about_us = f'"namespace":"{self.namespace}"'.encode() in line
        if fault.resource != resource or not about_us:
            return None
        if not line.startswith(f'{{"type":"{fault.event}"'.encode()):
            return None
        self.fired = True
        return fault

    def kill_points(self) -> list[Write]:
        """Return the writes since the experiment was armed, in order."""
        return [each.write for each in self.sent[self._prepared :]]

    def effects(self) -> Counter[Target]:
        """Return how many objects were created and deleted, by the API server's own answers.

        To delete the same object again, because the first answer was lost, does no harm.
        """
        return Counter(target for target, _ in self._effects())

    def _effects(self) -> set[tuple[Target, str]]:
        return {
            (each.write.target, each.uid)
            for each in self.sent
            if each.committed and each.write.target.verb in ("create", "delete")
        }
