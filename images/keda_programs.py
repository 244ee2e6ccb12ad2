"""KEDA's two programs, built with the cluster's own Go tools."""

from __future__ import annotations

import shutil
from pathlib import Path

from e2e.cluster.progress import Progress
from e2e.cluster.tools import tool

DECIDED_BY = ("e2e/cluster/go/keda",)


def make(folder: Path, progress: Progress) -> None:
    """Write `keda` and `keda-adapter` into the folder."""
    for command in ("keda", "keda-adapter"):
        shutil.copy2(tool(command, progress), folder / command)
