"""What the door's pod gives its PID 1: every name and every port that others must know.

- environment `XDS_ADDRESS`: host:port of the operators' xDS server; its certificate names the host
- environment `DRAIN_TIMEOUT_SECONDS`: from SIGTERM until the last request is cut; the grace period
  of the pod must be 10 s longer
- `/etc/lepton/door`: ca.crt, tls.crt and tls.key of the Secret `lepton-door`, mounted with
  `optional: true` so that a door without them can say so
- a writable folder for temporary files (TMPDIR)
- memory and CPU limits: the container's own, from its control group

In return it listens on port 9902 (`server`), and on the port of every service.
"""

from __future__ import annotations

import math
import os
import resource
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from images.door.errors import DoorError

XDS_ADDRESS = "XDS_ADDRESS"
DRAIN_TIMEOUT_SECONDS = "DRAIN_TIMEOUT_SECONDS"
CERTIFICATES = Path("/etc/lepton/door")
PORT = 9902
CONTROL_GROUP = Path("/sys/fs/cgroup")

_MIB = 2**20
_OUTSIDE_THE_HEAP_BYTES = 64 * _MIB
"""PID 1, and what Envoy takes beside its heap."""
_SMALLEST_HEAP_BYTES = 64 * _MIB
_BYTES_A_CONNECTION = 2**16
_MOST_CONNECTIONS = 50_000
"""What Envoy's own guide gives to a proxy at the edge."""
_FILES_A_CONNECTION = 4
"""Its own, the one behind it, and as many for services' sockets: Envoy dies if it has none left."""
_MOST_THREADS = 4
"""Without a CPU limit: each thread has a socket for every service, on machines of 100 CPUs too."""


@dataclass(frozen=True)
class Settings:
    xds_host: str
    xds_port: int
    drain_timeout_seconds: float
    heap_bytes: int | None
    """The most that Envoy's heap may take; None where the container has no memory limit."""
    threads: int
    connections: int = _MOST_CONNECTIONS
    """The most that clients may have open at once."""
    endpoints_seconds: float = 5.0
    """So long after SIGTERM new connections may still come: kube-proxies must hear of its end.

    With many services their EndpointSlices take longer, which is added."""
    quiet_seconds: float = 2.0
    """A client that sent nothing for so long is idle: it finds its connection closed, not cut."""
    certificates: Path = CERTIFICATES
    port: int = PORT


def read(environment: Mapping[str, str], control_group: Path = CONTROL_GROUP) -> Settings:
    """Return the settings of this container; a wrong one is a DoorError with a sentence."""
    host, port = _address(_given(environment, XDS_ADDRESS))
    heap_bytes = _heap_bytes(memory_limit_bytes(control_group))
    _, files = resource.getrlimit(resource.RLIMIT_NOFILE)
    return Settings(
        xds_host=host,
        xds_port=port,
        drain_timeout_seconds=_seconds(_given(environment, DRAIN_TIMEOUT_SECONDS)),
        heap_bytes=heap_bytes,
        threads=_threads(cpu_limit(control_group)),
        connections=most_connections(heap_bytes, files),
    )


def memory_limit_bytes(control_group: Path) -> int | None:
    """Return the container's memory limit, if it has one."""
    text = _first(control_group / "memory.max", control_group / "memory/memory.limit_in_bytes")
    # Version 1 has no word for "none": it shows the largest number of whole pages.
    return int(text) if text.isdigit() and int(text) < 2**62 else None


def cpu_limit(control_group: Path) -> float | None:
    """Return the container's CPU limit, if it has one."""
    quota, _, period = _first(control_group / "cpu.max").partition(" ")
    if not quota:
        quota = _first(control_group / "cpu/cpu.cfs_quota_us")
        period = _first(control_group / "cpu/cpu.cfs_period_us")
    return int(quota) / int(period) if quota.isdigit() else None


def most_connections(heap_bytes: int | None, files: int) -> int:
    """Return how many connections fit into the heap and into the files that may be open."""
    fit_heap = _MOST_CONNECTIONS if heap_bytes is None else heap_bytes // _BYTES_A_CONNECTION
    unlimited = files == resource.RLIM_INFINITY
    return min(_MOST_CONNECTIONS, fit_heap, *([] if unlimited else [files // _FILES_A_CONNECTION]))


def _first(*files: Path) -> str:
    return next((file.read_text().strip() for file in files if file.exists()), "")


def _heap_bytes(limit_bytes: int | None) -> int | None:
    if limit_bytes is None:
        return None
    heap_bytes = limit_bytes - _OUTSIDE_THE_HEAP_BYTES
    if heap_bytes < _SMALLEST_HEAP_BYTES:
        least = (_OUTSIDE_THE_HEAP_BYTES + _SMALLEST_HEAP_BYTES) // _MIB
        raise DoorError(
            f"The memory limit of {limit_bytes // _MIB} MiB is too small for Envoy: set "
            f"door.resources.limits.memory to {least}Mi or more."
        )
    return heap_bytes


def _threads(cpus: float | None) -> int:
    if cpus is not None:
        return math.ceil(cpus)
    return min(len(os.sched_getaffinity(0)), _MOST_THREADS)


def _given(environment: Mapping[str, str], name: str) -> str:
    value = environment.get(name, "")
    if not value:
        raise DoorError(f"{name} is not set: the manifest of the door's pods must give it.")
    return value


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not host or not port.isdigit():
        raise DoorError(f"{XDS_ADDRESS} is {text!r}, but must be host:port.")
    return host, int(port)


def _seconds(text: str) -> float:
    if not text.isdigit():
        raise DoorError(f"{DRAIN_TIMEOUT_SECONDS} is {text!r}, but must be a number of seconds.")
    return float(text)
