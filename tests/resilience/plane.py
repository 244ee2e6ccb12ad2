"""The cluster that the kill points run against: a real control plane, and nodes played by kwok.

etcd, API server, controller-manager (garbage collection) and scheduler are real. The chart is
rendered and applied without its workloads, so the operator has just the rights that it gets there.
"""

from __future__ import annotations

import asyncio
import json
import os
import ssl
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from e2e.cluster import ControlPlane, control_plane, tool
from e2e.cluster.api import wait_for
from e2e.cluster.ports import free_port
from e2e.cluster.tools import KUBERNETES_VERSION
from e2e.installation import CHART, RELEASE, TRITON
from e2e.kubectl import Kubectl
from tests.resilience.api import Api
from tests.resilience.doors import Doors
from tests.resilience.history import History
from tests.resilience.pods import write_stages
from tests.resilience.process import SYSTEM_NAMESPACE, Operator, Setup, nursery
from tests.resilience.proxy import FaultProxy

OPERATOR = "lepton_operator.__main__"
NODES = ("fake-1", "fake-2", "fake-3")
_GPU = "nvidia.com/gpu"
_WORKLOADS = frozenset({"Deployment", "PodDisruptionBudget"})
_TOKEN_SECONDS = 6 * 3600
_READY_SECONDS = 30.0
_FIRST_NETWORK, _NETWORKS = 64, 128


@dataclass(frozen=True, slots=True)
class Plane:
    """What stays up from the first kill point to the last."""

    control: ControlPlane
    folder: Path
    api: Api
    history: History
    setup: Setup
    trust: ssl.SSLContext
    doors: Doors

    @asynccontextmanager
    async def operator(self, module: str = OPERATOR) -> AsyncIterator[tuple[Operator, FaultProxy]]:
        """An operator of this module behind a proxy of its own, started and ready."""
        forking = await nursery(module)
        proxy = FaultProxy(self.control.api.url, self._anonymous())
        operator = Operator(self.setup, proxy, forking)
        try:
            await operator.start()
            yield operator, proxy
        finally:
            operator.kill()
            await proxy.close()
            _close(forking)
            await forking.wait()

    def _anonymous(self) -> ssl.SSLContext:
        """Trust in the server, and no certificate: who asks is told by the operator's token."""
        return ssl.create_default_context(cafile=str(self.control.authority.certificate))


@asynccontextmanager
async def running(folder: Path) -> AsyncIterator[Plane]:
    """The control plane with nodes, CRDs and rights; it is gone afterwards."""
    with control_plane(folder / "cluster", controllers=True) as control:
        trust = _admin_trust(control)
        api = Api(control.api.url, trust)
        history = History(control.api.url, trust)
        try:
            doors = Doors(folder / "doors", free_port())
            setup = _install(control, folder, doors)
            _start_nodes(control, folder)
            await history.start()
            await doors.start()
            yield Plane(control, folder, api, history, setup, trust, doors)
            await doors.close()
        finally:
            await history.close()
            await api.close()
            _kwok(control, folder).kill()


def _admin_trust(control: ControlPlane) -> ssl.SSLContext:
    trust = ssl.create_default_context(cafile=str(control.authority.certificate))
    admin = control.api.admin
    trust.load_cert_chain(admin.certificate, admin.key)
    return trust


def _install(control: ControlPlane, folder: Path, doors: Doors) -> Setup:
    kubectl = Kubectl(control.kubeconfig, "lepton-bare", SYSTEM_NAMESPACE)
    kubectl.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": SYSTEM_NAMESPACE}})
    rendered = [each for each in _rendered() if each["kind"] not in _WORKLOADS]
    kubectl.apply(*rendered)
    kinds = "trainingjobs,leptonmodels,inferenceservices"
    wait_for("The CRDs", lambda: _known(kubectl, kinds), _READY_SECONDS)
    token = kubectl.run("create", "token", RELEASE, "--duration", f"{_TOKEN_SECONDS}s").strip()
    port = free_port()
    settings = folder / "settings.json"
    changed = {"httpPort": port, "logLevel": "DEBUG", "xds": doors.settings}
    settings.write_text(json.dumps(_settings(rendered) | changed))
    return Setup(folder, settings, port, token)


def _rendered() -> Iterator[dict[str, Any]]:
    """The chart as helm would send it, with its default values and the Triton of our image."""
    argv = (
        *(str(tool("helm")), "template", RELEASE, str(CHART)),
        *("--set", f"triton.minimumVersion={TRITON['minimumVersion']}"),
        *("--namespace", SYSTEM_NAMESPACE, "--kube-version", KUBERNETES_VERSION),
    )
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    yield from filter(None, yaml.safe_load_all(done.stdout))


def _settings(rendered: list[dict[str, Any]]) -> dict[str, Any]:
    maps = (each for each in rendered if each["kind"] == "ConfigMap")
    text = next(each["data"]["settings.json"] for each in maps if "settings.json" in each["data"])
    return dict(json.loads(text))


def _known(kubectl: Kubectl, kinds: str) -> bool:
    try:
        kubectl.run("get", kinds, "--all-namespaces")
    except RuntimeError:
        return False
    return True


def _start_nodes(control: ControlPlane, folder: Path) -> None:
    write_stages(folder / "stages.yaml")
    control.write_client("kwok", "system:kwok", ("system:masters",))
    _kwok(control, folder).ensure()
    for name in NODES:
        control.api.apply(f"/api/v1/nodes/{name}", _node(name))
    wait_for("Ready nodes", lambda: all(map(_is_ready, _nodes(control))), _READY_SECONDS)


def _kwok(control: ControlPlane, folder: Path) -> Any:
    return control.daemon(
        "kwok",
        tool("kwok"),
        {
            "kubeconfig": control.layout.config / "kwok.kubeconfig",
            "config": folder / "stages.yaml",
            "manage-all-nodes": "true",
            # Of this machine only, so that doors can be played at the addresses of their pods; by
            # the process, so that two planes do not meet.
            "cidr": f"127.{_FIRST_NETWORK + os.getpid() % _NETWORKS}.0.1/16",
            "node-ip": "10.61.0.1",
            "node-lease-duration-seconds": 40,
        },
    )


def _nodes(control: ControlPlane) -> list[dict[str, Any]]:
    return list((control.api.get("/api/v1/nodes") or {})["items"])


def _is_ready(node: dict[str, Any]) -> bool:
    conditions = node.get("status", {}).get("conditions", [])
    return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)


def _node(name: str) -> dict[str, Any]:
    capacity = {"cpu": "64", "memory": "512Gi", "pods": "110", _GPU: "32"}
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
        "status": {"capacity": capacity, "allocatable": capacity},
    }


def _close(process: asyncio.subprocess.Process) -> None:
    if process.stdin is not None:
        process.stdin.close()
