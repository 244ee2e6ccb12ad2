"""A node: a containerd and a kubelet of its own, with GPUs that are only advertised."""

from __future__ import annotations

import json
import shutil
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from e2e.cluster import certificates, images, mounts, tools
from e2e.cluster.api import wait_for
from e2e.cluster.cgroup import Cgroup
from e2e.cluster.control_plane import ControlPlane
from e2e.cluster.layout import write
from e2e.cluster.network import Network
from e2e.cluster.process import Daemon

GPU = "nvidia.com/gpu"
_SOCKET_SECONDS = 30.0
_READY_SECONDS = 60.0
_OF_LATE = timedelta(minutes=5)
_CNI_PLUGINS = Path("/usr/lib/cni")
_CNI_RESULTS = Path("/var/lib/cni/results")
_CONTAINER_LOGS = Path("/var/log/containers")
_CAP_SYS_RESOURCE = 1 << 24


@dataclass(frozen=True)
class Node:
    """The node of this number, counted from 1."""

    plane: ControlPlane
    network: Network
    number: int
    gpus: int

    @property
    def name(self) -> str:
        return f"node-{self.number}"

    @property
    def folder(self) -> Path:
        return self.plane.layout.nodes / self.name

    @property
    def containerd_root(self) -> Path:
        return self.folder / "containerd"

    @property
    def kubelet_root(self) -> Path:
        return self.folder / "kubelet"

    @property
    def run(self) -> Path:
        return self.plane.layout.run / self.name

    @property
    def socket(self) -> Path:
        return self.run / "containerd.sock"

    @property
    def store(self) -> images.Store:
        return images.Store(self.socket, self.containerd_root)

    @property
    def cgroup(self) -> Cgroup:
        """Holds containerd, its shims, the kubelet and, in `pods`, every container."""
        return Cgroup(f"lepton-{self.plane.layout.name}").child(self.name)

    @property
    def path(self) -> str:
        return f"/api/v1/nodes/{self.name}"

    @property
    def containerd(self) -> Daemon:
        return self._daemon(
            "containerd",
            ("/usr/bin/containerd", f"--config={self.folder / 'containerd.toml'}"),
        )

    @property
    def kubelet(self) -> Daemon:
        flags = (
            f"--config={self.folder / 'kubelet.json'}",
            f"--kubeconfig={self._kubeconfig}",
            f"--root-dir={self.kubelet_root}",
            f"--hostname-override={self.name}",
            f"--node-ip={self.network.node_address(self.number)}",
            "--node-labels=node.lepton.ai/e2e=true",
        )
        return self._daemon("kubelet", (str(tools.path("kubelet")), *flags))

    def _daemon(self, program: str, argv: tuple[str, ...]) -> Daemon:
        name = f"{self.name}-{program}"
        return Daemon(
            name=name,
            argv=argv,
            log=self.plane.layout.logs / f"{name}.log",
            record=self.plane.layout.records / f"{name}.json",
            cgroup=self.cgroup.child(program),
            prefix=self.network.enter,
        )

    def start_runtime(self) -> None:
        """Start containerd over a copy of the imported images."""
        for folder in (self.folder, self.run, self.kubelet_root):
            folder.mkdir(parents=True, exist_ok=True)
        images.copy_template(self.containerd_root)
        self._write_configuration()
        self.containerd.ensure()

    def start_kubelet(self) -> None:
        """The kubelet gives up on a runtime that does not answer."""
        self.wait_for_runtime()
        self.cgroup.child("pods").create()
        self.kubelet.ensure()

    def wait_for_runtime(self) -> None:
        wait_for(
            f"containerd of {self.name}",
            self._runtime_answers,
            _SOCKET_SECONDS,
            lambda: f"Its log ends with:\n{self.containerd.last_lines()}",
        )

    def wait(self) -> None:
        """Until it is Ready, with its GPUs."""
        wait_for(
            f"Node {self.name} becoming Ready",
            lambda: self._stays_up() and self._ready() and self._advertise_gpus(),
            _READY_SECONDS,
            lambda: f"Its kubelet's log ends with:\n{self.kubelet.last_lines()}",
        )

    def kill(self) -> None:
        """End it as a machine that loses power: its pods' processes too, with no word to anyone."""
        self.cgroup.kill()
        for daemon in (self.kubelet, self.containerd):
            daemon.kill()
        for socket in self._shim_sockets():
            socket.unlink(missing_ok=True)

    def remove(self) -> None:
        """Leave nothing of it on the machine."""
        self.kill()
        for folder in (self.run, self.folder):
            mounts.remove_below(folder)
        for leftover in [*self._cni_results(), *self._log_links()]:
            leftover.unlink(missing_ok=True)
        self.cgroup.remove()
        for folder in (self.run, self.folder):
            if folder.exists():
                shutil.rmtree(folder)

    def _ready(self) -> bool:
        """Whether the kubelet that runs now has said so, and of late.

        Beats are told in whole seconds: one of the second in which this kubelet was started may be
        its predecessor's.
        """
        since = max(self.kubelet.began(), datetime.now(UTC) - _OF_LATE)
        node = self.plane.api.get(self.path) or {}
        for condition in node.get("status", {}).get("conditions", []):
            if condition["type"] == "Ready" and condition["status"] == "True":
                return datetime.fromisoformat(condition["lastHeartbeatTime"]) > since
        return False

    def _stays_up(self) -> bool:
        """A kubelet ends if the runtime answers before its part for Kubernetes does."""
        return not self.kubelet.ensure()

    def _advertise_gpus(self) -> bool:
        """A kubelet that starts sets unknown resources to zero; it does so once."""
        node = self.plane.api.get(self.path) or {}
        if node["status"]["allocatable"].get(GPU) == str(self.gpus):
            return True
        self.advertise_gpus(self.gpus)
        return False

    def advertise_gpus(self, count: int) -> None:
        """Say in the node's status that it has so many."""
        amount = {GPU: str(count)}
        status = {"status": {"capacity": amount, "allocatable": amount}}
        self.plane.api.patch(f"{self.path}/status", status)

    def _runtime_answers(self) -> bool:
        self.containerd.check()
        return self.socket.exists() and images.answers(self.socket)

    def _write_configuration(self) -> None:
        write(self.folder / "containerd.toml", _toml(self._containerd_configuration()))
        write(self.folder / "kubelet.json", json.dumps(self._kubelet_configuration(), indent=1))
        network = self.folder / "cni" / "10-lepton.conflist"
        network.parent.mkdir(exist_ok=True)
        write(network, json.dumps(self._cni_configuration(), indent=1))
        signer = self.plane.authority
        user = f"system:node:{self.name}"
        certificates.issue(
            signer, f"{self.name}-serving", user, (), (self.name, str(self._address))
        )
        self.plane.write_client(self.name, user, ("system:nodes",))

    @property
    def _kubeconfig(self) -> Path:
        return self.plane.layout.config / f"{self.name}.kubeconfig"

    @property
    def _address(self) -> object:
        return self.network.node_address(self.number)

    def _containerd_configuration(self) -> dict[str, Any]:
        cri = 'plugins."io.containerd.grpc.v1.cri"'
        return {
            "version": 2,
            "root": str(self.containerd_root),
            "state": str(self.run / "containerd"),
            "grpc.address": str(self.socket),
            f"{cri}.sandbox_image": images.pause_reference(),
            f"{cri}.restrict_oom_score_adj": not _may_lower_oom_score(),
            f"{cri}.netns_mounts_under_state_dir": True,
            f"{cri}.cni.bin_dir": str(_CNI_PLUGINS),
            f"{cri}.cni.conf_dir": str(self.folder / "cni"),
        }

    def _cni_configuration(self) -> dict[str, Any]:
        """Each pod has a wire of its own to the node: no bridge that could pass by its rules."""
        return {
            "cniVersion": "0.4.0",
            "name": self._cni_name,
            "plugins": [
                {
                    "type": "ptp",
                    "ipMasq": False,
                    "ipam": {
                        "type": "host-local",
                        "dataDir": str(self.run / "addresses"),
                        "ranges": [[{"subnet": str(self.network.node_pods(self.number))}]],
                        "routes": [{"dst": "0.0.0.0/0"}],
                    },
                },
                {"type": "portmap", "capabilities": {"portMappings": True}},
            ],
        }

    @property
    def _cni_name(self) -> str:
        return f"lepton.{self.plane.layout.name}.{self.name}"

    def _kubelet_configuration(self) -> dict[str, Any]:
        endpoint = f"unix://{self.socket}"
        serving = certificates.Pair(self.plane.layout.pki, f"{self.name}-serving")
        return {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "address": str(self._address),
            "healthzBindAddress": str(self._address),
            "tlsCertFile": str(serving.certificate),
            "tlsPrivateKeyFile": str(serving.key),
            "authentication": {
                "anonymous": {"enabled": False},
                "webhook": {"enabled": True},
                "x509": {"clientCAFile": str(self.plane.authority.certificate)},
            },
            "authorization": {"mode": "Webhook"},
            "containerRuntimeEndpoint": endpoint,
            "imageServiceEndpoint": endpoint,
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": f"/{self.cgroup.child('pods').path}",
            "failCgroupV1": False,
            "failSwapOn": False,
            "clusterDNS": [str(self.network.dns_address)],
            "clusterDomain": "cluster.local",
            "resolvConf": "",
            "maxPods": 110,
            "podLogsDir": str(self.folder / "logs"),
            "volumePluginDir": str(self.folder / "volume-plugins"),
            "staticPodPath": "",
            "makeIPTablesUtilChains": False,
            "oomScoreAdj": 0,
            "nodeStatusUpdateFrequency": "2s",
            "nodeStatusReportFrequency": "10s",
            "nodeLeaseDurationSeconds": 20,
        } | _NO_CLEANING

    def _shim_sockets(self) -> list[Path]:
        """containerd keeps the sockets of its shims in a folder that the whole machine shares."""
        tasks = self.run / "containerd" / "io.containerd.runtime.v2.task"
        addresses = [file.read_text() for file in tasks.glob("*/*/address")]
        return [Path(address.removeprefix("unix://")) for address in addresses]

    def _cni_results(self) -> list[Path]:
        """What CNI remembers of pods that never left: a file for our network and for loopback."""
        ours = f"{self._cni_name}-"
        sandboxes = {
            file.name.removeprefix(ours).partition("-")[0] for file in _CNI_RESULTS.glob(f"{ours}*")
        }
        every = list(_CNI_RESULTS.glob("*"))
        return [file for file in every if any(f"-{it}-" in file.name for it in sandboxes)]

    def _log_links(self) -> list[Path]:
        """The kubelet links every container's log into a folder that the whole machine shares."""
        return [link for link in _CONTAINER_LOGS.glob("*.log") if leads_into(link, self.folder)]


_NO_CLEANING = {
    "imageMaximumGCAge": "0s",
    "imageGCHighThresholdPercent": 100,
    "evictionHard": {
        "memory.available": "0%",
        "nodefs.available": "0%",
        "nodefs.inodesFree": "0%",
        "imagefs.available": "0%",
        "imagefs.inodesFree": "0%",
    },
    "shutdownGracePeriod": "0s",
    "shutdownGracePeriodCriticalPods": "0s",
}
"""All nodes share the machine's disk: a full one must not make them evict and delete."""


def leads_into(link: Path, folder: Path) -> bool:
    """Whether a link leads there; other clusters' come and go, and a file is none."""
    with suppress(OSError):
        return link.readlink().is_relative_to(folder)
    return False


def _toml(settings: dict[str, Any]) -> str:
    """Dotted keys with JSON values are TOML."""
    return "".join(f"{key} = {json.dumps(value)}\n" for key, value in settings.items())


def _may_lower_oom_score() -> bool:
    status = Path("/proc/self/status").read_text()
    bounding = next(line for line in status.splitlines() if line.startswith("CapBnd:"))
    return bool(int(bounding.split()[1], 16) & _CAP_SYS_RESOURCE)
