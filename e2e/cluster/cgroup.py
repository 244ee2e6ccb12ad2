"""Control groups: what belongs to a cluster is in its group, and so can always be found."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from e2e.cluster.layout import ClusterError

ROOT = Path("/sys/fs/cgroup")
_KILL_SECONDS = 60.0
"""What is killed gives gigabytes back with its own share of a CPU, of which many may want one."""


@cache
def hierarchies() -> tuple[Path, ...]:
    """The mounted hierarchies: one on v2, one per controller on v1 and often a v2 one beside."""
    mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    return tuple(Path(mount[1]) for mount in mounts if mount[2] in {"cgroup", "cgroup2"})


@cache
def _with_controllers() -> tuple[Path, ...]:
    """Without those of v2 that stand beside v1: runc makes groups there, nobody else does."""
    v1 = tuple(root for root in hierarchies() if not _is_v2(root))
    return v1 or hierarchies()


@dataclass(frozen=True)
class Cgroup:
    """A group of the same path in every hierarchy, such as `lepton-dev/node-1`."""

    path: str

    def child(self, name: str) -> Cgroup:
        return Cgroup(f"{self.path}/{name}")

    def folders(self) -> list[Path]:
        return [root / self.path for root in hierarchies()]

    def create(self) -> None:
        for root in _with_controllers():
            folder = root
            for part in self.path.split("/"):
                _pass_controllers_down(folder)
                folder /= part
                folder.mkdir(exist_ok=True)
                _inherit_cpuset(folder)

    def member_files(self) -> list[str]:
        """Writing a pid to each of these makes it a member."""
        return [str(root / self.path / "cgroup.procs") for root in _with_controllers()]

    def processes(self) -> set[int]:
        """Every process of this group and of those below; groups come and go meanwhile."""
        return {
            int(pid)
            for top in self.folders()
            for folder in _folders_below(top)
            for pid in _lines(folder / "cgroup.procs")
        }

    def kill(self) -> None:
        """SIGKILL until nobody is left; members that fork meanwhile are caught by the next look."""
        deadline = time.monotonic() + _KILL_SECONDS
        while pids := self.processes() - {os.getpid()}:
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            if time.monotonic() > deadline:
                raise ClusterError(
                    f"Processes {sorted(pids)} of control group {self.path} do not end although "
                    "they were killed; see `ps -o pid,stat,wchan,cmd` for what they wait for."
                )
            time.sleep(0.02)

    def remove(self) -> None:
        """Remove the group and those below; it has to be empty."""
        for top in self.folders():
            for folder in sorted(_folders_below(top), key=lambda it: len(it.parts), reverse=True):
                _remove_folder(folder)


def _folders_below(top: Path) -> list[Path]:
    """Those that are there: unlike `rglob`, `walk` passes over what vanishes under its eyes."""
    return [Path(path) for path, _, _ in os.walk(top)]


def _remove_folder(folder: Path) -> None:
    """The kernel lets go of a group a moment after its last process."""
    deadline = time.monotonic() + _KILL_SECONDS
    while True:
        try:
            folder.rmdir()
        except FileNotFoundError:
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)


def _pass_controllers_down(folder: Path) -> None:
    """On v2 a group has only the controllers that its parent hands down; on v1 there is no file."""
    available = folder / "cgroup.controllers"
    if available.exists():
        wanted = " ".join(f"+{name}" for name in available.read_text().split())
        (folder / "cgroup.subtree_control").write_text(wanted)


def _inherit_cpuset(folder: Path) -> None:
    """On v1 a new cpuset is empty, and no process may enter an empty one."""
    for name in ("cpuset.cpus", "cpuset.mems"):
        file = folder / name
        if file.exists() and not file.read_text().strip() and not _is_v2(folder):
            file.write_text((folder.parent / name).read_text())


def _is_v2(folder: Path) -> bool:
    return (folder / "cgroup.controllers").exists()


def _lines(file: Path) -> list[str]:
    with suppress(OSError):
        return file.read_text().split()
    return []
