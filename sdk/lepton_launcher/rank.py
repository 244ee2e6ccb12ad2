"""One rank: its stderr goes to PID 1's pipe, it gets a board, then it becomes the user's script."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path
from typing import NoReturn

from lepton_launcher import board
from lepton_launcher.hooks import LOADED, STACKS_VARIABLE
from lepton_launcher.site_folder import python_path


def rank_command(folder: Path, entrypoint: list[str]) -> list[str]:
    """The command that becomes a rank; LOCAL_RANK, which torchrun sets, says what is its own."""
    return [*launcher_command(), "rank", str(folder), *entrypoint]


def pipe_of(folder: Path, local_rank: int) -> Path:
    """Where the rank writes its stderr."""
    return folder / f"stderr-{local_rank}"


def board_of(folder: Path, local_rank: int) -> Path:
    """Where the rank's hooks and the SDK say how far it is."""
    return folder / f"board-{local_rank}"


def step_file_of(folder: Path, local_rank: int) -> Path:
    """Where any other script may write the number of the step that it has done."""
    return folder / f"step-{local_rank}"


def stacks_of(folder: Path, local_rank: int) -> Path:
    """Where the rank writes its stacks when it is asked to."""
    return folder / f"stacks-{local_rank}"


def has_loaded(folder: Path, local_rank: int) -> bool:
    """Whether the rank read what others had written to its checkpoint place, as its hooks say."""
    return Path(f"{stacks_of(folder, local_rank)}{LOADED}").exists()


def site_of(folder: Path) -> Path:
    """What goes first on the PYTHONPATH of all ranks, whose folders lie beside it."""
    return folder / "site"


def launcher_command() -> list[str]:
    """How to start this launcher once more: from its archive, or as an installed module."""
    archive = Path(__file__).parents[1]
    program = [str(archive)] if archive.is_file() else ["-m", "lepton_launcher"]
    return [sys.executable, *program]


def main(arguments: list[str]) -> NoReturn:
    """Replace this process by the entrypoint, as torchrun starts it: python -u ENTRYPOINT."""
    told, *entrypoint = arguments
    folder, local_rank = Path(told), int(os.environ["LOCAL_RANK"])
    with contextlib.suppress(OSError):
        pipe = os.open(pipe_of(folder, local_rank), os.O_WRONLY)
        os.dup2(pipe, 2)
        os.close(pipe)
    command = [sys.executable, "-u", *entrypoint]
    os.execve(sys.executable, command, {**os.environ, **_watched(folder, local_rank)})  # noqa: S606


def _watched(folder: Path, local_rank: int) -> dict[str, str]:
    """The environment by which the rank is watched; nothing where its board cannot be made."""
    path = board_of(folder, local_rank)
    try:
        board.create(path, os.getpid())
    except OSError as error:
        print(f"lepton: the rank is not watched: {error}", file=sys.stderr)
        return {}
    return {
        board.BOARD_VARIABLE: str(path),
        STACKS_VARIABLE: str(stacks_of(folder, local_rank)),
        "LEPTON_STEP_FILE": str(step_file_of(folder, local_rank)),
        "PYTHONPATH": python_path(site_of(folder.parent)),
    }
