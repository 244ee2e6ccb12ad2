"""The folder that the launcher shares with its sidecar: files that are renamed into place."""

from __future__ import annotations

import contextlib
import json
import os
from typing import TYPE_CHECKING, Any

from lepton_launcher.records import Record, is_record, to_line

if TYPE_CHECKING:
    from pathlib import Path

    from lepton_launcher.succession import Loss

_NOT_BEGUN = {"generation": 0, "phase": "starting"}
_LIMIT_BYTES = 65536


class Exchange:
    """start.json and answer.json come from the sidecar, the rest goes to it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def started(self) -> bool | None:
        """True once the sidecar has looked for finished records; None until then."""
        return self._read("start.json") is not None or None

    def found(self) -> Record | None:
        """The record of this run or attempt that the store already holds."""
        start = self._read("start.json")
        found = start.get("found") if isinstance(start, dict) else None
        return found if is_record(found) else None

    def leave_tail(self, text: bytes) -> None:
        """Leave the end of what the ranks wrote, for the sidecar to look for patterns in."""
        write_atomically(self._folder / "log-tail", text)

    def tell(self, record: Record) -> None:
        """Hand the record to the sidecar; an answer from before it is nobody's answer."""
        (self._folder / "answer.json").unlink(missing_ok=True)
        write_atomically(self._folder / "record.json", to_line(record))

    def tell_progress(self, document: dict[str, Any]) -> None:
        """Leave how far the ranks are. A full disk is no reason to stop them: the next may fit."""
        with contextlib.suppress(OSError):
            write_atomically(self._folder / "progress.json", json.dumps(document).encode())

    def tell_loss(self, attempt: int, loss: Loss) -> None:
        """Leave that the ranks have ended and the gang lost a node, beside how far they came."""
        told = self._read("progress.json")
        begun = told if isinstance(told, dict) and told.get("attempt") == attempt else _NOT_BEGUN
        lost = {"node": loss.node, "message": loss.why, "seconds": loss.seconds}
        self.tell_progress({**begun, "attempt": attempt, "lost": lost})

    def ask_to_save(self, step: int) -> None:
        """Ask the ranks to save at the end of this step, and to leave."""
        write_atomically(self._folder / "save", json.dumps({"step": step}).encode())

    def begin_anew(self) -> None:
        """Take back what was asked of the ranks of an earlier attempt."""
        (self._folder / "save").unlink(missing_ok=True)

    def leave_stacks(self, name: str, text: bytes) -> None:
        """Leave the stacks of a rank, which the sidecar keeps in the store."""
        folder = self._folder / "stacks"
        folder.mkdir(exist_ok=True)
        write_atomically(folder / name, text)

    def answer(self) -> Record | None:
        """The record to end with; None until the sidecar has written one that can be read."""
        answer = self._read("answer.json")
        return answer if is_record(answer) else None

    def _read(self, name: str) -> Any:
        try:
            with (self._folder / name).open("rb") as file:
                return json.loads(file.read(_LIMIT_BYTES))
        except (OSError, ValueError, RecursionError):
            return None


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file that no reader ever sees half of."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    unfinished.write_bytes(content)
    unfinished.replace(path)
