"""What a person sees while they wait."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from e2e.cluster.layout import ClusterError

Progress = Callable[[str], None]
_REPORT_SECONDS = 15.0


def say(sentence: str) -> None:
    print(sentence, flush=True)


def duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def need_space(folder: Path, needed_bytes: int, purpose: str) -> None:
    """Refuse before the disk is full, and say how much is missing."""
    while not folder.exists():
        folder = folder.parent
    free_bytes = shutil.disk_usage(folder).free
    if free_bytes < needed_bytes:
        raise ClusterError(
            f"{purpose} needs {needed_bytes / 1e9:.1f} GB on the disk of {folder}, and "
            f"{free_bytes / 1e9:.1f} GB are free. Make room, or set XDG_CACHE_HOME to a folder on "
            "a larger disk."
        )


def while_running(process: subprocess.Popen[bytes]) -> Iterator[float]:
    """Every 15 seconds until the process ends: how long it has run."""
    began = time.monotonic()
    while True:
        try:
            process.wait(_REPORT_SECONDS)
        except subprocess.TimeoutExpired:
            yield time.monotonic() - began
        else:
            return
