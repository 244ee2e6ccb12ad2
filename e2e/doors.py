"""The doors of a namespace on the embedded cluster, asked and measured from this machine."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote
from urllib.request import urlopen

from e2e.kubectl import Kubectl
from e2e.processes import processes_of
from images.door.admin import Admin
from images.door.bootstrap import admin_socket
from images.door.settings import PORT
from lepton_operator import names

_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_NUMBER = re.compile(r"^(\S+): (\d+)$", re.MULTILINE)
_PATIENCE_SECONDS = 30.0
_ENVOY, _PID_ONE = b"--config-path", b"images.door"


def cpu_seconds(*pids: int) -> float:
    """Return the CPU time that processes have used so far."""
    found = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        found += int(fields[11]) + int(fields[12])  # utime, stime: proc(5)
    return found / _TICKS_PER_SECOND


@dataclass(frozen=True, slots=True)
class Door:
    """One pod of a door: its Envoy and its PID 1."""

    address: str
    envoy: int
    pid_one: int

    def counters(self, pattern: str) -> Mapping[str, int]:
        """Return the counters whose names match a regular expression."""
        return self._numbers("Counters", pattern)

    def gauges(self, pattern: str) -> Mapping[str, int]:
        return self._numbers("Gauges", pattern)

    def _numbers(self, kind: str, pattern: str) -> Mapping[str, int]:
        found = self._admin.text(f"/stats?type={kind}&filter={quote(pattern)}")
        return {name: int(value) for name, value in _NUMBER.findall(found)}

    def pods_of(self, service: str) -> set[str]:
        """Return the addresses of the pods to which this door sends a service's requests."""
        return {
            place.address.rpartition(":")[0]
            for place, host in self._admin.hosts().items()
            if place.cluster == f"{service}/http" and not (host.draining or host.ejected)
        }

    def scrape_seconds(self) -> float:
        """Return how long Prometheus waits for all that this door tells it."""
        began = time.monotonic()
        with urlopen(f"http://{self.address}:{PORT}/metrics") as answer:
            answer.read()
        return time.monotonic() - began

    def resident_bytes(self) -> int:
        pages = (
            int(Path(f"/proc/{pid}/statm").read_text().split()[1])
            for pid in (self.envoy, self.pid_one)
        )
        return sum(pages) * _PAGE_BYTES

    def cpu_seconds(self) -> float:
        return cpu_seconds(self.envoy, self.pid_one)

    @property
    def _admin(self) -> Admin:
        """Envoy's own socket, which nobody but root on the node reaches."""
        words = Path(f"/proc/{self.envoy}/cmdline").read_text().split("\0")
        folder = Path(words[words.index(_ENVOY.decode()) + 1]).parent
        return Admin(
            Path(f"/proc/{self.envoy}/root") / admin_socket(folder).relative_to("/"),
            _PATIENCE_SECONDS,
        )


def doors_of(namespace: Kubectl) -> list[Door]:
    """Return the doors that run in a namespace."""
    found = []
    for pod in namespace.list("pods", names.selector(names.door_labels())):
        uid = pod["metadata"]["uid"]
        envoys = processes_of(uid, running=_ENVOY)
        first = processes_of(uid, running=_PID_ONE)
        if envoys and first:
            found.append(Door(pod["status"]["podIP"], envoys[0], first[0]))
    return found
