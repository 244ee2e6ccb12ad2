"""torch's flight recorder: the last collectives of a rank, and which of them never ended.

The launcher asks with a file, and the rank's pulse answers with another: it runs while the main
thread waits in a collective. Torch keeps the record by itself where TORCH_FR_BUFFER_SIZE is not 0.
"""

from __future__ import annotations

import contextlib
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lepton_launcher.exchange import write_atomically
from lepton_launcher.hooks import WANTED

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lepton_launcher.sightings import Sighting

LIMIT_BYTES = 4 * 1024 * 1024
_MOST_ENTRIES = 4000
_ANSWER_SECONDS = 2.5
_POLL_SECONDS = 0.02
_PULSES_SECONDS = 3.0
# Of gloo and of whatever else goes through torch's dispatcher; and NCCL's own, which asks the GPU,
# and so comes last. As JSON: to name the frames of every entry takes torch ten seconds.
_RECORDERS = {"torch": "_dump_fr_trace_json", "nccl": "_dump_nccl_trace_json"}


def ask(ranks: Sequence[tuple[Sighting, Path]]) -> dict[int, Path]:
    """Ask the ranks that can answer, which are named with the file of their stacks."""
    asked = {sighting.rank: path for sighting, path in ranks if _may_answer(sighting)}
    for path in asked.values():
        with contextlib.suppress(OSError):
            _request_of(path).touch()
    return asked


def gather(asked: dict[int, Path]) -> dict[int, bytes]:
    """What the ranks answered in time."""
    deadline = time.monotonic() + _ANSWER_SECONDS
    while time.monotonic() < deadline and any(
        _request_of(each).exists() for each in asked.values()
    ):
        time.sleep(_POLL_SECONDS)
    found = {rank: _read(_record_of(path)) for rank, path in asked.items()}
    return {rank: content for rank, content in found.items() if content}


def answer(stacks: str, c10d: Any) -> None:
    """In the rank: leave what torch has recorded, if the launcher has asked for it."""
    request = _request_of(Path(stacks))
    if not request.exists():
        return
    records: dict[str, Any] = {}
    for name, function in _RECORDERS.items():
        dump = getattr(c10d, function, None)
        found = json.loads(dump()) if dump else {}
        if found.get("entries"):
            found["entries"] = found["entries"][-_MOST_ENTRIES:]
            records[name] = found
            write_atomically(_record_of(Path(stacks)), json.dumps(records).encode())
    request.unlink()


def _may_answer(sighting: Sighting) -> bool:
    """Whether it used collectives, and its interpreter runs (or will, once it is continued)."""
    standing = sighting.standing
    if sighting.is_gone or not (standing.collectives or standing.is_waiting):
        return False
    return sighting.is_stopped or time.monotonic() - sighting.alive_at < _PULSES_SECONDS


def _request_of(stacks: Path) -> Path:
    return stacks.with_name(f"{stacks.name}{WANTED}")


def _record_of(stacks: Path) -> Path:
    return stacks.with_name(f"{stacks.name}.flight")


def _read(path: Path) -> bytes:
    """The record; nothing of one that is too long, since half a document is none."""
    try:
        with path.open("rb") as file:
            content = file.read(LIMIT_BYTES + 1)
    except OSError:
        return b""
    return content if len(content) <= LIMIT_BYTES else b""
