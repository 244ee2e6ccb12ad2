"""Whether ranks that ended badly are started again in their pod, and after how long: no I/O."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lepton_launcher.records import Record

LONGEST_DELAY_SECONDS = 60.0
_TOLD = 20
_MESSAGE_CHARACTERS = 256
_OF_RANKS = ("UserError", "Hang")
_FACTS = ("rank", "reason", "exitCode", "signal", "step")


def is_of_ranks(record: Record) -> bool:
    """Whether it tells of what a rank did, which may not come again."""
    return record.get("reason") in _OF_RANKS and "rank" in record


class Restarts:
    """The budget of one pod's attempt, and what it was spent on.

    A generation that got beyond the furthest step that any before it had reported or saved was
    worth its start, and costs nothing. A budget of 0 means that the launcher restarts nothing.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._furthest = -1
        self._in_a_row = 0
        self._counted = 0
        self._told: list[dict[str, Any]] = []

    @property
    def counted(self) -> int:
        """How many restarts were taken from the budget."""
        return self._counted

    @property
    def told(self) -> list[dict[str, Any]]:
        """The last restarts, as progress.json tells them."""
        return list(self._told)

    def delay_seconds(self, generation: int, record: Record, furthest: int) -> float | None:
        """How long to wait before the next generation; None if there is none."""
        if not is_of_ranks(record):
            return None
        moved = furthest > self._furthest
        self._furthest = max(furthest, self._furthest)
        if not self._most or (not moved and self._counted == self._most):
            return None
        self._in_a_row = 0 if moved else self._in_a_row + 1
        self._counted += not moved
        self._tell(generation, record)
        # The first one costs no time: most failures do not come twice.
        doublings = self._in_a_row - 2
        return 0.0 if doublings < 0 else min(2.0**doublings, LONGEST_DELAY_SECONDS)

    def _tell(self, generation: int, record: Record) -> None:
        facts = {name: record[name] for name in _FACTS if name in record}
        message = str(record.get("message", ""))[:_MESSAGE_CHARACTERS]
        self._told = [*self._told, {"generation": generation, **facts, "message": message}][-_TOLD:]
