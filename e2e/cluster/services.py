"""What runs once in a cluster: Service rules, DNS, fake nodes, a volume."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from e2e.cluster import tools
from e2e.cluster.control_plane import ControlPlane
from e2e.cluster.layout import write
from e2e.cluster.network import Network
from e2e.cluster.node import GPU
from e2e.cluster.process import Daemon

STORE_VOLUME = "lepton-store"
STORE_CLASS = "lepton-local"
_DNS_PORT = 53
_RBAC = "rbac.authorization.k8s.io"
_RBAC_PATH = f"/apis/{_RBAC}/v1"
_VOLUME_PATH = f"/api/v1/persistentvolumes/{STORE_VOLUME}"


@dataclass(frozen=True)
class Services:
    plane: ControlPlane
    network: Network

    @property
    def proxy(self) -> Daemon:
        configuration = self.plane.layout.config / "kube-proxy.json"
        return self.plane.daemon("kube-proxy", tools.path("kube-proxy"), {"config": configuration})

    @property
    def dns(self) -> Daemon:
        corefile = self.plane.layout.config / "Corefile"
        return self.plane.daemon("coredns", tools.path("coredns"), {"conf": corefile})

    def start(self) -> None:
        layout = self.plane.layout
        self.plane.write_client("kube-proxy", "system:kube-proxy")
        write(layout.config / "kube-proxy.json", json.dumps(self._proxy_configuration()))
        self.plane.write_client("coredns", "system:coredns")
        write(layout.config / "Corefile", self._corefile())
        self._allow_dns()
        self.proxy.ensure()
        self.dns.ensure()

    def make_volume(self) -> None:
        """The store's volume, on node 1; one that a claim has left is emptied and offered again."""
        store = self.plane.layout.store
        phase = self._volume_phase()
        if phase is None:
            self.plane.api.apply(_VOLUME_PATH, _store_volume(store))
        elif phase == "Released":
            shutil.rmtree(store)
            store.mkdir()
            self.plane.api.patch(_VOLUME_PATH, {"spec": {"claimRef": None}})

    def volume_is_bound(self) -> bool:
        return self._volume_phase() == "Bound"

    def _volume_phase(self) -> str | None:
        volume = self.plane.api.get(_VOLUME_PATH)
        return str(volume["status"].get("phase", "Pending")) if volume else None

    def _proxy_configuration(self) -> dict[str, Any]:
        return {
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
            "kind": "KubeProxyConfiguration",
            "mode": "iptables",
            "hostnameOverride": "node-1",
            "clusterCIDR": str(self.network.pods),
            "clientConnection": {
                "kubeconfig": str(self.plane.layout.config / "kube-proxy.kubeconfig")
            },
            "iptables": {"minSyncPeriod": "100ms", "syncPeriod": "30s"},
            # The limit on connections is the machine's, not a namespace's.
            "conntrack": {"maxPerCore": 0},
            "oomScoreAdj": 0,
        }

    def _corefile(self) -> str:
        """Its own format: one server block with a plugin a line."""
        kubeconfig = self.plane.layout.config / "coredns.kubeconfig"
        plugins = (
            f"bind {self.network.dns_address}",
            "errors",
            f"kubernetes cluster.local in-addr.arpa {{\n kubeconfig {kubeconfig}\n }}",
        )
        return f".:{_DNS_PORT} {{\n" + "".join(f" {plugin}\n" for plugin in plugins) + "}\n"

    def _allow_dns(self) -> None:
        name = "system:coredns"
        read = ["list", "watch"]
        rules = [
            {"apiGroups": [""], "resources": ["services", "pods", "namespaces"], "verbs": read},
            {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": read},
        ]
        common = {"apiVersion": f"{_RBAC}/v1", "metadata": {"name": name}}
        role = common | {"kind": "ClusterRole", "rules": rules}
        binding = common | {
            "kind": "ClusterRoleBinding",
            "roleRef": {"apiGroup": _RBAC, "kind": "ClusterRole", "name": name},
            "subjects": [{"apiGroup": _RBAC, "kind": "User", "name": name}],
        }
        self.plane.api.apply(f"{_RBAC_PATH}/clusterroles/{name}", role)
        self.plane.api.apply(f"{_RBAC_PATH}/clusterrolebindings/{name}", binding)


@dataclass(frozen=True)
class FakeNodes:
    """Nodes that only kwok keeps alive; pods on them are Running and Ready at once."""

    plane: ControlPlane
    network: Network
    count: int
    gpus: int
    stages: Path | None = None
    """A file of kwok's Stage objects that replaces its own: how nodes and pods behave."""

    @property
    def names(self) -> list[str]:
        return [f"fake-{number}" for number in range(1, self.count + 1)]

    @property
    def kwok(self) -> Daemon:
        flags: dict[str, object] = {
            "kubeconfig": self.plane.layout.config / "kwok.kubeconfig",
            "manage-all-nodes": "false",
            "manage-nodes-with-label-selector": "type=kwok",
            "cidr": self.network.fake_pods,
            "node-ip": self.network.fake_node_address,
            "node-lease-duration-seconds": 40,
        }
        if self.stages:
            flags["config"] = self.stages
        return self.plane.daemon("kwok", tools.path("kwok"), flags)

    def start(self) -> None:
        existing = self._existing()
        if self.count:
            self.plane.write_client("kwok", "system:kwok", ("system:masters",))
            self.kwok.ensure()
        else:
            self.kwok.stop()
        for name in set(self.names) - existing:
            self.plane.api.apply(f"/api/v1/nodes/{name}", self._manifest(name))
        for name in existing - set(self.names):
            self.plane.api.delete(f"/api/v1/nodes/{name}")

    def ready(self) -> bool:
        return len(self._ready_names()) == self.count

    def _existing(self) -> set[str]:
        return {node["metadata"]["name"] for node in self._list()}

    def _ready_names(self) -> Sequence[str]:
        return [
            node["metadata"]["name"]
            for node in self._list()
            for condition in node.get("status", {}).get("conditions", [])
            if condition["type"] == "Ready" and condition["status"] == "True"
        ]

    def _list(self) -> list[dict[str, Any]]:
        nodes = self.plane.api.get("/api/v1/nodes?labelSelector=type%3Dkwok") or {}
        return list(nodes.get("items", []))

    def _manifest(self, name: str) -> dict[str, Any]:
        capacity = {"cpu": "32", "memory": "256Gi", "pods": "110", GPU: str(self.gpus)}
        return {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {
                "name": name,
                "labels": {"type": "kwok", "kubernetes.io/hostname": name},
                "annotations": {"kwok.x-k8s.io/node": "fake"},
            },
            "spec": {
                "taints": [{"key": "kwok.x-k8s.io/node", "value": "fake", "effect": "NoSchedule"}]
            },
            "status": {"capacity": capacity, "allocatable": capacity},
        }


def _store_volume(folder: Path) -> dict[str, Any]:
    hostname = {"key": "kubernetes.io/hostname", "operator": "In", "values": ["node-1"]}
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": STORE_VOLUME},
        "spec": {
            "capacity": {"storage": "10Gi"},
            "accessModes": ["ReadWriteOnce"],
            "persistentVolumeReclaimPolicy": "Retain",
            "storageClassName": STORE_CLASS,
            "local": {"path": str(folder)},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [hostname]}]}},
        },
    }
