"""A control plane without nodes, for tests that need an API server and nothing that runs pods."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from e2e.cluster import tools
from e2e.cluster.control_plane import ControlPlane, Place
from e2e.cluster.layout import Layout
from e2e.cluster.ports import free_ports
from e2e.cluster.process import DIE_WITH_PARENT

_LOCALHOST = "127.0.0.1"


@contextmanager
def control_plane(
    folder: Path, *, controllers: bool = False, audit: bool = False, audited_readers: str = ""
) -> Iterator[ControlPlane]:
    """An API server over etcd on free ports of 127.0.0.1, ready in 2 to 3 s; root is not needed.

    With `controllers` the controller-manager and the scheduler run too: garbage collection,
    service accounts, placement. Without them pods need no service account. The folder holds its
    state, logs and `kubeconfig`. Its processes end with the thread that entered this context.
    """
    tools.build(["kubernetes", "etcd"])
    layout = Layout("bare", folder, folder / "run")
    layout.make_folders()
    ports = free_ports(5)
    place = Place(
        host=_LOCALHOST,
        port=ports[0],
        etcd_port=ports[1],
        etcd_peer_port=ports[2],
        controller_manager_port=ports[3],
        scheduler_port=ports[4],
        services="10.63.0.0/16",
        enter=DIE_WITH_PARENT,
        advertise=False,
    )
    plane = ControlPlane(layout, place, audit, controllers, audited_readers)
    try:
        plane.start()
        plane.wait()
        if controllers:
            plane.start_controllers()
            plane.wait_for_controllers()
        yield plane
    finally:
        for daemon in plane.daemons():
            daemon.kill()
