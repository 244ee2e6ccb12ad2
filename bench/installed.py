"""A cluster with the chart installed while a benchmark runs; and what the operator used."""

from __future__ import annotations

import json
import os
import secrets
import signal
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from e2e import installation
from e2e.cluster import down
from e2e.cluster.target import Target
from e2e.installation import RELEASE, SYSTEM
from e2e.jobs import model
from e2e.kubectl import Kubectl
from e2e.models import upload_digits
from e2e.operators import OPERATORS

FIXTURE = "fixture"
FAKE_NODE = {"key": "kwok.x-k8s.io/node", "operator": "Exists", "effect": "NoSchedule"}
ON_FAKE_NODES: Mapping[str, Any] = {
    "tolerations": [FAKE_NODE],
    "nodeSelector": {"type": "kwok"},
}
_ACCOUNT = f"system:serviceaccount:{SYSTEM}:{RELEASE}"
_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Usage:
    """What the active operator's process has used so far."""

    rss_mb: float
    cpu_s: float


@dataclass(frozen=True, slots=True)
class Bench:
    """A cluster of the benchmark's own, and a namespace in it."""

    target: Target
    kubectl: Kubectl

    def accepted_model(self) -> dict[str, Any]:
        """Put a real model into the namespace's store; return the LeptonModel that takes it."""
        return model(FIXTURE, source=upload_digits(self.kubectl))

    def usage(self) -> Usage:
        """Read memory and CPU time of the leader from its own /proc."""
        system = self.kubectl.within(SYSTEM)
        lease = system.get("lease", "lepton-operator") or {}
        holder = lease.get("spec", {}).get("holderIdentity")
        pods = system.list("pods", OPERATORS)
        leader = next(pod for pod in pods if pod["metadata"]["uid"] == holder)
        name = leader["metadata"]["name"]
        status = system.run("exec", name, "--", "cat", "/proc/1/status")
        rss_kb = next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS"))
        fields = system.run("exec", name, "--", "cat", "/proc/1/stat").rpartition(")")[2].split()
        ticks = int(fields[11]) + int(fields[12])  # utime, stime: proc(5)
        return Usage(round(int(rss_kb) / 1000, 1), round(ticks / _TICKS_PER_SECOND, 2))

    def writes(self, since: datetime, until: datetime) -> list[str]:
        """Return verb and resource of each write of the operator, the Lease left out."""
        assert self.target.embedded is not None
        found = []
        for event in self.target.embedded.layout.audit_events():
            when = datetime.fromisoformat(event["stageTimestamp"])
            resource = event.get("objectRef", {}).get("resource", "")
            ours = event["user"]["username"] == _ACCOUNT and resource != "leases"
            if ours and event["stage"] == "ResponseComplete" and since <= when <= until:
                found.append(f"{event['verb']} {resource}")
        return found


@contextmanager
def installed(
    fake_nodes: int = 0,
    nodes: int = 1,
    *,
    values: Mapping[str, Any] | None = None,
    images: Sequence[str] = (),
) -> Iterator[Bench]:
    """A cluster with the chart and a namespace with a store; all of it ends with the block.

    `images` are further ones that its nodes are to have.
    """
    name = f"bench-{os.getpid()}"
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("The benchmark was ended."))
    try:
        target = installation.target(name, nodes=nodes, fake_nodes=fake_nodes)
        assert target.embedded is not None
        target.embedded.load(images)
        installation.install(target, values=values)
        namespace = f"bench-{secrets.token_hex(3)}"
        kubectl = installation.kubectl(target, namespace)
        installation.make_namespace(kubectl, namespace)
        installation.give_store(kubectl)
        installation.give_door(kubectl)
        yield Bench(target, kubectl)
    finally:
        down(name)


def missed(bars: Iterable[str]) -> None:
    """Print a sentence for each bar that was missed."""
    for sentence in bars:
        print(f"NOT AS IT SHOULD BE: {sentence}")


def last_line(figures: Mapping[str, object]) -> None:
    """Print the figures as one JSON object."""
    print(json.dumps(figures))
