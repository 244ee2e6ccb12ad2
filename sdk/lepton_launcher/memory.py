"""Whether the kernel ended a process of this container because its memory was used up."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

# Of the container's own group, which is the root of what it sees: cgroup v2, then v1.
COUNTERS = (
    Path("/sys/fs/cgroup/memory.events"),
    Path("/sys/fs/cgroup/memory/memory.oom_control"),
)


def oom_kills(counters: Sequence[Path] = COUNTERS) -> int:
    """How many processes the kernel has ended for it so far; 0 where nobody counts."""
    for path in counters:
        with contextlib.suppress(OSError):
            for line in path.read_text("utf-8", "replace").splitlines():
                name, _, count = line.partition(" ")
                if name == "oom_kill" and count.isdecimal():
                    return int(count)
    return 0
