"""Where every rank of this pod stands in its code, gathered before ranks that hang are killed."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

from lepton_launcher.hooks import STACKS_SIGNAL

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lepton_launcher.sightings import Sighting

LIMIT_BYTES = 262144
_DUMP_SECONDS = 2.0
_PY_SPY_SECONDS = 5.0
_POLL_SECONDS = 0.02


def gather(ranks: Sequence[tuple[Sighting, Path]]) -> dict[int, bytes]:
    """The stacks of each rank, which writes them into the path beside it; as text, by rank.

    A stopped process answers nothing, so it is continued first. py-spy also sees what native code
    does; it is asked where the image has it, and may be refused.
    """
    living = [(sighting, path) for sighting, path in ranks if not sighting.is_gone]
    for sighting, _ in living:
        _send(sighting.pid, signal.SIGCONT)
    asked = [(sighting, path) for sighting, path in living if _listens(sighting.pid)]
    for sighting, _ in asked:
        _send(sighting.pid, STACKS_SIGNAL)
    _wait_for([path for _, path in asked])
    py_spy_by = time.monotonic() + _PY_SPY_SECONDS
    return {sighting.rank: _text(sighting, path, py_spy_by) for sighting, path in living}


def _text(sighting: Sighting, path: Path, py_spy_by: float) -> bytes:
    standing = sighting.standing
    about = (
        f"rank {sighting.rank}, process {sighting.pid}, {standing.phase}, step {standing.step}"
        f"{', stopped' if sighting.is_stopped else ''}\n\n"
    ).encode()
    said = _read(path) or b"It left no stacks: it ended, or its Python was started without ours.\n"
    return b"".join([about, said, _py_spy(sighting.pid, py_spy_by)])[:LIMIT_BYTES]


def _listens(pid: int) -> bool:
    """Whether the process handles the signal; it would end one that does not."""
    if STACKS_SIGNAL is None:
        return False
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False
    caught = int(status.partition("SigCgt:")[2].split()[0], 16)
    return bool(caught >> (STACKS_SIGNAL - 1) & 1)


def _send(pid: int, number: int | None) -> None:
    if number is not None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)


def _wait_for(paths: list[Path]) -> None:
    """Until all have been written and no longer grow, or two seconds."""
    deadline = time.monotonic() + _DUMP_SECONDS
    sizes: list[int] = []
    while time.monotonic() < deadline:
        before, sizes = sizes, [len(_read(path)) for path in paths]
        if all(sizes) and sizes == before:
            return
        time.sleep(_POLL_SECONDS)


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(LIMIT_BYTES)
    except OSError:
        return b""


def _py_spy(pid: int, until: float) -> bytes:
    """What py-spy sees; of many ranks, of as many as there is time for."""
    program, seconds = shutil.which("py-spy"), until - time.monotonic()
    if program is None or seconds <= 0:
        return b""
    try:
        seen = subprocess.run(
            [program, "dump", "--nonblocking", "--pid", str(pid)],
            capture_output=True,
            timeout=seconds,
            check=False,
        )
    except (OSError, subprocess.SubprocessError) as error:
        return f"\npy-spy: {error}\n".encode()
    return b"\npy-spy:\n" + seen.stdout + seen.stderr
