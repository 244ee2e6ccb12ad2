"""Mounts that containers and kubelets leave behind when they are killed."""

from __future__ import annotations

import subprocess
from pathlib import Path

from e2e.cluster.layout import ClusterError


def below(folder: Path) -> list[Path]:
    """The mount points in a folder, the last one made first."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    points = [Path(line.split()[4].replace("\\040", " ")) for line in lines]
    return [point for point in reversed(points) if point.is_relative_to(folder)]


def remove_below(folder: Path) -> None:
    """Detach them: those whose users are gone vanish at once, the others with their last user."""
    for point in below(folder):
        done = subprocess.run(
            ["umount", "--lazy", str(point)], capture_output=True, text=True, check=False
        )
        if done.returncode and point in below(folder):
            raise ClusterError(f"{point} cannot be unmounted: {done.stderr.strip()}")
