"""Prometheus, built with the cluster's own Go tools."""

from __future__ import annotations

import shutil
from pathlib import Path

from e2e.cluster.progress import Progress
from e2e.cluster.tools import tool

DECIDED_BY = ("e2e/cluster/go/prometheus",)


def make(folder: Path, progress: Progress) -> None:
    """Write `prometheus` into the folder."""
    shutil.copy2(tool("prometheus", progress), folder / "prometheus")
