"""Processes of the embedded cluster's pods, as this machine sees them."""

from __future__ import annotations

from pathlib import Path


def processes_of(pod_uid: str, *, running: bytes) -> list[int]:
    """Return the pids of a pod whose command line contains these bytes."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            is_its = entry.name.isdigit() and pod_uid in (entry / "cgroup").read_text()
            if is_its and running in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
        except (FileNotFoundError, ProcessLookupError):
            continue
    return sorted(found)
