"""What the launcher sees of its ranks from outside: their boards, step files and /proc."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from lepton_launcher import board
from lepton_launcher.rank import board_of, step_file_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lepton_launcher.stderr import RankStderr

_SECOND = 1_000_000_000
_STEP_FILE_BYTES = 32
_STOPPED = ("T", "t")
_GONE = ("X", "Z")
_COUNTED_IO = ("rchar", "wchar")


class Sighting(NamedTuple):
    """One rank at one moment. Times are monotonic seconds; 0 is never."""

    rank: int
    standing: board.Standing
    pid: int = 0
    is_stopped: bool = False
    is_gone: bool = False
    """Its process has ended; the board tells where it stood then."""
    active_at: float = 0.0
    """When it last wrote to a log, or read or wrote anything."""

    @property
    def step_at(self) -> float:
        return self.standing.step_at / _SECOND

    @property
    def phase_at(self) -> float:
        return self.standing.phase_at / _SECOND

    @property
    def collective_at(self) -> float:
        return self.standing.collective_at / _SECOND

    @property
    def alive_at(self) -> float:
        return self.standing.alive_at / _SECOND


class RankWatch:
    """The eyes on one rank."""

    def __init__(self, folder: Path, rank: int, local_rank: int, stderr: RankStderr) -> None:
        self.rank = rank
        self.local_rank = local_rank
        self._board = board_of(folder, local_rank)
        self._step_file = step_file_of(folder, local_rank)
        self._stderr = stderr
        self._told_step = -1
        self._told_step_at = 0
        self._began_at = 0
        self._io: tuple[int, ...] = ()
        self._active_at = 0.0

    def look(self) -> Sighting | None:
        """How the rank stands now; None before it has begun."""
        found = board.read(self._board)
        if found is None:
            return None
        now, state = time.monotonic_ns(), _state(found.pid)
        return Sighting(
            rank=self.rank,
            standing=self._with_step_file(found.standing, now),
            pid=found.pid,
            is_stopped=state in _STOPPED,
            is_gone=state in _GONE,
            active_at=max(self._stderr.heard_at, self._active(found.pid, now / _SECOND)),
        )

    def _with_step_file(self, standing: board.Standing, now: int) -> board.Standing:
        """The step that the script wrote into its file, if it did, in place of a counted one."""
        step = _whole_number(self._step_file)
        if step is not None and step != self._told_step:
            self._began_at = self._began_at or now
            self._told_step, self._told_step_at = step, now
        if self._told_step < 0:
            return standing
        told = standing._replace(step=self._told_step, step_at=self._told_step_at, is_reported=True)
        if standing.phase in ("starting", "rendezvous"):
            return told._replace(phase="training", phase_at=self._began_at)
        return told

    def _active(self, pid: int, now: float) -> float:
        io = _io(pid)
        if io != self._io:
            self._io, self._active_at = io, now
        return self._active_at


def look_at(watches: Sequence[RankWatch]) -> list[Sighting]:
    """All ranks that have begun."""
    return [sighting for each in watches if (sighting := each.look()) is not None]


def _whole_number(path: Path) -> int | None:
    try:
        with path.open("rb") as file:
            number = int(file.read(_STEP_FILE_BYTES))
    except (OSError, ValueError):
        return None
    return number if 0 <= number < 2**63 else None


def _state(pid: int) -> str:
    """The letter of the process's state, X if there is none; empty where there is no /proc."""
    try:
        status = Path(f"/proc/{pid}/stat").read_bytes()
    except FileNotFoundError:
        return "X" if Path("/proc/self").exists() else ""
    except OSError:
        return ""
    return status.rpartition(b")")[2].split()[0].decode()


def _io(pid: int) -> tuple[int, ...]:
    """What the process has read and written; empty where that is not told."""
    try:
        lines = Path(f"/proc/{pid}/io").read_text().splitlines()
    except OSError:
        return ()
    pairs = (line.partition(":") for line in lines)
    return tuple(int(value) for name, _, value in pairs if name in _COUNTED_IO)
