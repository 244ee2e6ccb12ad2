"""Whether ranks that ended badly are started again in their pod, and after how long: no I/O."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable
    from collections.abc import Set as AbstractSet

    from lepton_launcher.records import Record

LONGEST_DELAY_SECONDS = 60.0
_TOLD = 20
_MESSAGE_CHARACTERS = 256
_SAME_STEP = 1  # ranks that end are not all counted at the same moment
_SIGNAL_EXIT_CODE = 128
_FACTS = ("rank", "reason", "exitCode", "signal", "step")

OF_RANKS = ("UserError", "OutOfMemory", "Hang")
"""The reasons of what ranks do themselves: those after which they may be started again."""


def is_of_ranks(record: Record) -> bool:
    """Whether it tells of what a rank did, which may not come again."""
    return record.get("reason") in OF_RANKS and "rank" in record


class Final(NamedTuple):
    """Ends of ranks after which the operator decides, by a rule of the user's."""

    exit_codes: AbstractSet[int] = frozenset()
    signals: AbstractSet[int] = frozenset()

    def covers(self, record: Record) -> bool:
        """Whether this failure is such an end; its pod's exit code is 128 + the signal, or 1."""
        number = record.get("signal")
        code = record.get("exitCode") or (number and _SIGNAL_EXIT_CODE + number) or 1
        ended_by = number or code - _SIGNAL_EXIT_CODE
        return code in self.exit_codes or ended_by in self.signals


_NOTHING_IS_FINAL = Final()


def _no_saves() -> int:
    return 0


class Restarts:
    """The budget of one pod's attempt, and what it was spent on.

    A generation that got beyond the furthest step that any before it had reported or saved was
    worth its start, and costs nothing; nor does one beyond those of the attempts before. A budget
    of 0 means that the launcher restarts nothing. The same error at the same step a second time is
    not tried again here: the operator may move the pod, or end the job.
    """

    def __init__(
        self,
        most: int,
        furthest: int = -1,
        *,
        final: Final = _NOTHING_IS_FINAL,
        saves: Callable[[], int] = _no_saves,
    ) -> None:
        """`saves` tells how many files were completed where a script saves by itself."""
        self._most = most
        self._furthest = furthest
        self._final = final
        self._saves = saves
        self._saves_before = saves()
        self._saves_at_first = self._saves_before
        self._reached = -1  # by a generation of this attempt
        self._is_repeated = False
        self._in_a_row = 0
        self._counted = 0
        self._told: list[dict[str, Any]] = []

    @property
    def may_come(self) -> bool:
        """Whether there may be any."""
        return self._most > 0

    @property
    def spent(self) -> dict[str, Any]:
        """What the pod's record says of them, and of the generations before the last one."""
        reached = max(self._reached, 0)
        facts = {
            "restarts": self._counted,
            "repeated": self._is_repeated,
            "furthest": reached,
            "saved": self._saves() > self._saves_at_first,
        }
        return {name: value for name, value in facts.items() if value}

    @property
    def told(self) -> list[dict[str, Any]]:
        """The last restarts, as progress.json tells them."""
        return list(self._told)

    def delay_seconds(self, generation: int, record: Record, furthest: int) -> float | None:
        """How long to wait before the next generation; None if there is none."""
        if not is_of_ranks(record) or self._final.covers(record):
            return None
        moved = furthest > self._furthest or self._has_saved(furthest)
        self._furthest = max(furthest, self._furthest)
        self._reached = max(furthest, self._reached)
        self._is_repeated = any(_is_same(earlier, record) for earlier in self._told)
        if not self._most or self._is_repeated or (not moved and self._counted == self._most):
            return None
        self._in_a_row = 0 if moved else self._in_a_row + 1
        self._counted += not moved
        self._tell(generation, record)
        # The first one costs no time: most failures do not come twice.
        doublings = self._in_a_row - 2
        return 0.0 if doublings < 0 else min(2.0**doublings, LONGEST_DELAY_SECONDS)

    def _has_saved(self, furthest: int) -> bool:
        """Whether a script that tells no steps completed a file since the last restart."""
        before, self._saves_before = self._saves_before, self._saves()
        return max(furthest, self._furthest) < 0 and self._saves_before > before

    def _tell(self, generation: int, record: Record) -> None:
        facts = {name: record[name] for name in _FACTS if name in record}
        told = {"generation": generation, **facts, "message": _message_of(record)}
        self._told = [*self._told, told][-_TOLD:]


def _is_same(earlier: Record, record: Record) -> bool:
    """Whether one error came twice at one step; without steps nothing can be told apart."""
    if "step" not in earlier or "step" not in record:
        return False
    if any(earlier.get(name) != record.get(name) for name in ("reason", "exitCode", "signal")):
        return False
    if _wording(_message_of(earlier)) != _wording(_message_of(record)):
        return False
    return bool(abs(earlier["step"] - record["step"]) <= _SAME_STEP)


def _wording(message: str) -> str:
    """The message without its figures: ranks, addresses and times differ each time."""
    return "".join(each for each in message if not each.isdigit())


def _message_of(record: Record) -> str:
    return str(record.get("message", ""))[:_MESSAGE_CHARACTERS]
