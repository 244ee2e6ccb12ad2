"""A Kubernetes cluster on this machine: up, looked at, broken on purpose, down."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from e2e.cluster import images as node_images
from e2e.cluster import layout as layouts
from e2e.cluster import packages, tools
from e2e.cluster.api import wait_for
from e2e.cluster.cgroup import Cgroup
from e2e.cluster.control_plane import ControlPlane, Place
from e2e.cluster.layout import ClusterError, Layout, PartEndedError, lock, write
from e2e.cluster.network import Network, free_index
from e2e.cluster.node import Node
from e2e.cluster.process import Daemon, boot_id
from e2e.cluster.progress import Progress, duration, need_space, say
from e2e.cluster.services import FakeNodes, Services

DEFAULT_NAME = "dev"
MAX_NODES = 8
_STARTS = 3
_NO_INDEX = -1
# Each kubelet, containerd and door takes some; Linux allows a user 128, too few for four clusters.
_INOTIFY = Path("/proc/sys/fs/inotify/max_user_instances")
_INOTIFY_INSTANCES = 1024
_BYTES_PER_NODE = 1 << 30
_FAKE_NODES_SECONDS = 60.0
_RELEASED_SECONDS = 30.0


@dataclass(frozen=True)
class Spec:
    """What a cluster was asked to be; it lies in the state folder."""

    index: int
    boot: str
    nodes: int
    fake_nodes: int
    gpus_per_node: int
    audit: bool
    stages: str | None = None


@dataclass(frozen=True)
class Cluster:
    layout: Layout
    spec: Spec

    @property
    def name(self) -> str:
        return self.layout.name

    @property
    def kubeconfig(self) -> Path:
        return self.layout.kubeconfig

    @property
    def context(self) -> str:
        return f"lepton-{self.name}"

    @property
    def network(self) -> Network:
        return Network(self.name, self.spec.index)

    @property
    def plane(self) -> ControlPlane:
        network = self.network
        place = Place(
            host=str(network.server_address),
            port=6443,
            etcd_port=2379,
            etcd_peer_port=2380,
            controller_manager_port=10257,
            scheduler_port=10259,
            services=str(network.services),
            enter=network.enter,
            cgroup=self.cgroup,
        )
        return ControlPlane(self.layout, place, self.spec.audit)

    @property
    def cgroup(self) -> Cgroup:
        return Cgroup(f"lepton-{self.name}")

    @property
    def nodes(self) -> list[str]:
        return [node.name for node in self._nodes()]

    @property
    def services(self) -> Services:
        return Services(self.plane, self.network)

    @property
    def fake_nodes(self) -> FakeNodes:
        stages = Path(self.spec.stages) if self.spec.stages else None
        spec = self.spec
        return FakeNodes(self.plane, self.network, spec.fake_nodes, spec.gpus_per_node, stages)

    def stop_kubelet(self, name: str) -> None:
        """Its pods run on; the node is NotReady after the grace period of 20 s."""
        self._node(name).kubelet.stop()

    def start_kubelet(self, name: str) -> None:
        node = self._node(name)
        node.start_kubelet()
        node.wait()

    def kill_node(self, name: str) -> None:
        """As a machine that loses power: kubelet, containerd and all containers end at once."""
        self._node(name).kill()

    def offer_gpus(self, name: str, count: int) -> None:
        """Advertise so many GPUs on a node from now on; pods that have theirs keep them."""
        self._node(name).advertise_gpus(count)

    def partition_node(self, name: str) -> None:
        """Its pods live on, and reach no pod of another node, nor are they reached by one."""
        self.network.cut(self._node(name).number)

    def rejoin_node(self, name: str) -> None:
        self.network.mend(self._node(name).number)

    def start_node(self, name: str) -> None:
        node = self._node(name)
        node.start_runtime()
        node.start_kubelet()
        node.wait()

    def load(self, references: Sequence[str], progress: Progress = say) -> None:
        """Import images from buildah's storage into the nodes that run."""
        for node in self._nodes():
            present = node.store.listed()
            for reference in references:
                if reference not in present:
                    progress(f"Importing {reference} into {node.name} ...")
                    node_images.load(node.store, reference, progress)

    def release_store(self) -> None:
        """Empty the store's volume for the next claim, once the last one is deleted."""
        wait_for(
            "The release of the store's volume (delete the claim that holds it)",
            lambda: not self.services.volume_is_bound(),
            _RELEASED_SECONDS,
            interval_seconds=0.2,
        )
        self.services.make_volume()

    def daemons(self) -> list[Daemon]:
        nodes = [daemon for node in self._nodes() for daemon in (node.kubelet, node.containerd)]
        services = self.services
        fake = [self.fake_nodes.kwok] if self.spec.fake_nodes else []
        return [*nodes, services.dns, services.proxy, *fake, *self.plane.daemons()]

    def start(self, references: Sequence[str], progress: Progress) -> None:
        """Start what does not run, and import the images that nodes have not got."""
        progress(f"Starting Kubernetes {tools.KUBERNETES_VERSION} for cluster {self.name!r} ...")
        for starts_left in reversed(range(_STARTS)):
            try:
                self._start_parts(progress)
                break
            except PartEndedError:
                if not starts_left:
                    raise
        self.load(references, progress)

    def _start_parts(self, progress: Progress) -> None:
        """Every step looks first whether it is needed.

        A part that was just killed may still look alive: then this ends with PartEndedError, and
        the caller begins again.
        """
        began = datetime.now(UTC)
        self._make_network()
        self.plane.start()
        for node in self._nodes():
            node.start_runtime()
        self.plane.wait()
        progress(f"  control plane ready after {_seconds(began)}")
        self.plane.start_controllers()
        for node in self._nodes():
            node.start_kubelet()
        self.services.start()
        self.services.make_volume()
        self._remove_surplus_nodes()
        self.fake_nodes.start()
        for node in self._nodes():
            node.wait()
        self._wait_for_fake_nodes()
        self.plane.wait_for_controllers()
        for daemon in self.daemons():
            daemon.check()
        progress(f"  {self._count()} ready after {_seconds(began)}")

    def stop(self) -> None:
        """Leave nothing of it on the machine."""
        self.layout.make_folders()  # of a half one, or a half removed one, some are missing
        for daemon in self.daemons():
            daemon.kill()
        self.cgroup.kill()
        for number in range(1, MAX_NODES + 1):
            self._node_of(number).remove()
        self.cgroup.remove()
        self.network.remove()
        for folder in (self.layout.run, self.layout.state):
            if folder.exists():
                shutil.rmtree(folder)

    def _make_network(self) -> None:
        """What still runs in a network that is gone cannot be reached any more."""
        pids = [pid for daemon in self.daemons() if (pid := daemon.pid) is not None]
        if not all(self.network.holds(pid) for pid in pids):
            for node in self._nodes():
                node.kill()
            self.cgroup.kill()
        self.network.create(self.spec.nodes)

    def _count(self) -> str:
        fake = f" and {self.spec.fake_nodes} fake nodes" if self.spec.fake_nodes else ""
        return f"{self.spec.nodes} node{'s' * (self.spec.nodes > 1)}{fake}"

    def _wait_for_fake_nodes(self) -> None:
        fake = self.fake_nodes
        wait_for(
            f"{fake.count} fake nodes becoming Ready",
            fake.ready,
            _FAKE_NODES_SECONDS,
            lambda: f"kwok's log ends with:\n{fake.kwok.last_lines()}",
            interval_seconds=0.2,
        )

    def _remove_surplus_nodes(self) -> None:
        """Nodes of a larger cluster that this one was before."""
        for number in range(self.spec.nodes + 1, MAX_NODES + 1):
            node = self._node_of(number)
            if node.folder.exists():
                node.remove()
                self.plane.api.delete(node.path)

    def _nodes(self) -> list[Node]:
        return [self._node_of(number) for number in range(1, self.spec.nodes + 1)]

    def _node_of(self, number: int) -> Node:
        return Node(self.plane, self.network, number, self.spec.gpus_per_node)

    def _node(self, name: str) -> Node:
        for node in self._nodes():
            if node.name == name:
                return node
        raise ClusterError(f"Cluster {self.name!r} has no node {name!r}, only {self.nodes}.")


def _allow_watches(progress: Progress) -> None:
    """Let root have inotify instances enough, until the machine starts anew."""
    if int(_INOTIFY.read_text()) < _INOTIFY_INSTANCES:
        progress(f"{_INOTIFY.name} is raised to {_INOTIFY_INSTANCES}: kubelets need them.")
        _INOTIFY.write_text(str(_INOTIFY_INSTANCES))


def up(
    name: str = DEFAULT_NAME,
    nodes: int = 1,
    fake_nodes: int = 0,
    *,
    gpus_per_node: int = 8,
    images: Sequence[str] = (),
    audit: bool = True,
    stages: Path | None = None,
    progress: Progress = say,
) -> Cluster:
    """Have this cluster run, whatever is left of it: start all of it, or only what is missing.

    `images` are references in buildah's storage that every node shall have; `stages` is a file of
    kwok Stage objects in place of kwok's own.
    """
    layout = Layout.of(name)
    if not 1 <= nodes <= MAX_NODES:
        raise ClusterError(f"A cluster has 1 to {MAX_NODES} nodes, not {nodes}.")
    packages.need_root()
    packages.install(progress)
    _allow_watches(progress)
    tools.build(tools.OF_A_CLUSTER, progress)
    node_images.prepare(images, progress)
    with layout.locked():
        _remove_after_crash(layout, progress)
        need_space(layouts.CLUSTERS, nodes * _BYTES_PER_NODE, f"A cluster of {nodes} nodes")
        spec = _recorded_spec(layout)
        wanted = Spec(
            index=spec.index if spec else _NO_INDEX,
            boot=boot_id(),
            nodes=nodes,
            fake_nodes=fake_nodes,
            gpus_per_node=gpus_per_node,
            audit=audit,
            stages=str(stages.resolve()) if stages else None,
        )
        cluster = Cluster(layout, _record(layout, wanted))
        cluster.start(images, progress)
        return cluster


def down(name: str = DEFAULT_NAME, progress: Progress = say) -> None:
    """Remove a cluster, whole or half, and every trace of it; imported images are kept."""
    layout = Layout.of(name)
    packages.need_root()
    with layout.locked():
        cluster = _existing(layout)
        if cluster is None:
            progress(f"There is no cluster {name!r}.")
            return
        began = time.monotonic()
        cluster.stop()
        progress(f"Cluster {name!r} is gone ({duration(time.monotonic() - began)}).")


def find(name: str = DEFAULT_NAME) -> Cluster:
    """A cluster that was started earlier."""
    layout = Layout.of(name)
    spec = _recorded_spec(layout)
    if spec is None:
        raise ClusterError(
            f"There is no cluster {name!r}. Start it with `make cluster-up NAME={name}`."
        )
    return Cluster(layout, spec)


def _record(layout: Layout, wanted: Spec) -> Spec:
    """Write down what is wanted, with addresses that nobody else has."""
    with lock(layouts.LOCKS / ".addresses"):
        if wanted.index == _NO_INDEX:
            taken = {
                spec.index
                for name in layouts.names()
                if (spec := _recorded_spec(Layout.of(name))) is not None
            }
            wanted = Spec(**asdict(wanted) | {"index": free_index(taken)})
        layout.make_folders()
        write(layout.spec, json.dumps(asdict(wanted)))
    return wanted


def _recorded_spec(layout: Layout) -> Spec | None:
    with suppress(FileNotFoundError, json.JSONDecodeError, TypeError):
        return Spec(**json.loads(layout.spec.read_text()))
    return None


def _existing(layout: Layout) -> Cluster | None:
    """What is there of a cluster, even if its folder is all."""
    spec = _recorded_spec(layout)
    if spec is None and not layout.state.exists():
        return None
    nobodys = Spec(_NO_INDEX, boot_id(), nodes=1, fake_nodes=0, gpus_per_node=0, audit=False)
    return Cluster(layout, spec or nobodys)


def _remove_after_crash(layout: Layout, progress: Progress) -> None:
    """etcd does not sync to disk, so what it wrote before the machine went down is not to trust."""
    spec = _recorded_spec(layout)
    if spec and spec.boot != boot_id():
        progress(f"The machine was restarted since cluster {layout.name!r} was; starting afresh.")
        Cluster(layout, spec).stop()


def _seconds(began: datetime) -> str:
    return f"{(datetime.now(UTC) - began).total_seconds():.1f} s"
