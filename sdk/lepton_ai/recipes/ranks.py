"""Where a process stands in its gang, and how many cores it may use."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Rank:
    """One process of a gang, numbered as torchrun numbers it."""

    rank: int = 0
    local_rank: int = 0
    world_size: int = 1

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Self:
        """Read what torchrun says; without it the process is a gang of one."""
        return cls(
            rank=int(environment.get("RANK", "0")),
            local_rank=int(environment.get("LOCAL_RANK", "0")),
            world_size=int(environment.get("WORLD_SIZE", "1")),
        )

    @property
    def leads(self) -> bool:
        """Whether this is the rank that prints, and leaves the model."""
        return self.rank == 0


def machine() -> str:
    """Identify the kernel that runs this process: pods of one machine share it, and its cores."""
    return BOOT_ID.read_text().strip() if BOOT_ID.exists() else os.uname().nodename


def available_cores(cgroup: Path = CGROUP) -> int:
    """Count the cores that this process may keep busy: its affinity, within its cgroup's limit."""
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    quota = _cgroup_v2_cores(cgroup) or _cgroup_v1_cores(cgroup) or math.inf
    return max(1, math.floor(min(affinity or 1, quota)))


def threads_per_rank(cores: int, ranks_on_machine: int) -> int:
    """Share cores out: ranks with more threads than cores between them spin, many times slower."""
    return max(1, cores // ranks_on_machine)


def _cgroup_v2_cores(cgroup: Path) -> float | None:
    limit = cgroup / "cpu.max"
    if not limit.exists():
        return None
    quota, period = limit.read_text().split()
    return None if quota == "max" else int(quota) / int(period)


def _cgroup_v1_cores(cgroup: Path) -> float | None:
    quota, period = cgroup / "cpu/cpu.cfs_quota_us", cgroup / "cpu/cpu.cfs_period_us"
    if not (quota.exists() and period.exists()) or int(quota.read_text()) <= 0:
        return None
    return int(quota.read_text()) / int(period.read_text())
