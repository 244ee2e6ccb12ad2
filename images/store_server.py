"""The S3 server of the embedded object store, built with the cluster's own Go tools."""

from __future__ import annotations

import shutil
from pathlib import Path

from e2e.cluster.progress import Progress
from e2e.cluster.tools import tool

DECIDED_BY = ("e2e/cluster/go/versitygw",)


def make(folder: Path, progress: Progress) -> None:
    """Write `versitygw` into the folder."""
    shutil.copy2(tool("versitygw", progress), folder / "versitygw")
