"""One rank: its stderr goes to PID 1's pipe, then this process becomes the user's."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path
from typing import NoReturn


def rank_command(pipes: Path, entrypoint: list[str]) -> list[str]:
    """The command that becomes a rank; LOCAL_RANK, which torchrun sets, says which pipe is its."""
    return [*launcher_command(), "rank", str(pipes), *entrypoint]


def pipe_of(pipes: Path, local_rank: int) -> Path:
    """Where the rank writes its stderr."""
    return pipes / f"stderr-{local_rank}"


def launcher_command() -> list[str]:
    """How to start this launcher once more: from its archive, or as an installed module."""
    archive = Path(__file__).parents[1]
    program = [str(archive)] if archive.is_file() else ["-m", "lepton_launcher"]
    return [sys.executable, *program]


def main(arguments: list[str]) -> NoReturn:
    """Replace this process by the entrypoint, as torchrun starts it: python -u ENTRYPOINT."""
    pipes, *entrypoint = arguments
    with contextlib.suppress(OSError):
        pipe = os.open(pipe_of(Path(pipes), int(os.environ["LOCAL_RANK"])), os.O_WRONLY)
        os.dup2(pipe, 2)
        os.close(pipe)
    os.execv(sys.executable, [sys.executable, "-u", *entrypoint])  # noqa: S606
