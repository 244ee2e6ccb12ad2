"""Why the last step of a training is not as safe as it should be: what /progress tells of it."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Protocol

from lepton_ai.progress import CHECKPOINT_PROBLEM, Progress

MAX_PROBLEM_BYTES = 1000


class Relay(Protocol):
    """What hands checkpoints on to an object store."""

    uri: str
    was_asked: bool


def problem(exchange: Path, progress: Progress, relay: Relay | None) -> str | None:
    """Return why the last step is not as safe as it should be: a sentence, if there is one."""
    told = _told(exchange / CHECKPOINT_PROBLEM)
    if told or relay is None or relay.was_asked or not progress.step:
        return told
    if progress.checkpoint is not None or progress.resumed_from is not None:
        return None  # by a sidecar before this one
    return (
        f"The script trains and saves nothing at {relay.uri}: only the SDK's Checkpointer reaches "
        "an object store through the sidecar. Use it, or name a volume in checkpoint.volume and "
        "save there."
    )


def _told(file: Path) -> str | None:
    try:
        # A script may have put a link there, to what it cannot read itself.
        opened = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with os.fdopen(opened, "rb") as content:
            if not stat.S_ISREG(os.fstat(opened).st_mode):
                return None
            return content.read(MAX_PROBLEM_BYTES).decode(errors="replace").strip() or None
    except OSError:
        return None
