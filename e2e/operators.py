"""The operator's processes on the embedded cluster, and their sudden end."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from e2e.installation import SYSTEM
from e2e.kubectl import Kubectl
from e2e.waiting import wait_until

LEASE = "lepton-operator"


def leader_uid(kubectl: Kubectl) -> str:
    """Return the UID of the pod that holds the Lease; empty if nobody does."""
    lease = kubectl.within(SYSTEM).get("lease", LEASE) or {}
    return str(lease.get("spec", {}).get("holderIdentity") or "")


def kill_leader(kubectl: Kubectl) -> None:
    """End the active operator by SIGKILL, as a node that is out of memory would."""
    uid = wait_until(lambda: leader_uid(kubectl), bool, "the operator leads")
    (pid,) = [pid for pid in _processes_of(uid) if b"lepton_operator" in _command(pid)]
    os.kill(pid, signal.SIGKILL)


def _processes_of(pod_uid: str) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and pod_uid in (entry / "cgroup").read_text():
                found.append(int(entry.name))
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""
