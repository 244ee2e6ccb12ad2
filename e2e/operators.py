"""The operator's processes on the embedded cluster, and their sudden end."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

from e2e.installation import RELEASE, SYSTEM
from e2e.kubectl import Kubectl
from e2e.processes import processes_of
from e2e.waiting import wait_until

LEASE = "lepton-operator"
OPERATORS = "app.kubernetes.io/component=operator"
REPLICAS = 2


def leader_uid(kubectl: Kubectl) -> str:
    """Return the UID of the pod that holds the Lease; empty if nobody does."""
    lease = kubectl.within(SYSTEM).get("lease", LEASE) or {}
    return str(lease.get("spec", {}).get("holderIdentity") or "")


def kill_leader(kubectl: Kubectl) -> None:
    """End the active operator by SIGKILL, as a node that is out of memory would."""
    uid = wait_until(lambda: leader_uid(kubectl), bool, "the operator leads")
    (pid,) = processes_of(uid, running=b"lepton_operator")
    os.kill(pid, signal.SIGKILL)


@contextmanager
def without_operator(kubectl: Kubectl) -> Iterator[None]:
    """No operator lives in the block; afterwards they start again."""
    system = kubectl.within(SYSTEM)
    system.run("scale", "deployment", RELEASE, "--replicas=0")
    try:
        wait_until(lambda: system.list("pods", OPERATORS), lambda it: not it, "a pod is gone")
        yield
    finally:
        system.run("scale", "deployment", RELEASE, f"--replicas={REPLICAS}")
