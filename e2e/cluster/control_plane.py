"""etcd, the API server, the controller-manager and the scheduler, as plain processes."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any

from e2e.cluster import certificates, tools
from e2e.cluster.api import Api, wait_for
from e2e.cluster.certificates import Pair
from e2e.cluster.cgroup import Cgroup
from e2e.cluster.layout import Layout, write
from e2e.cluster.process import Daemon

_READY_SECONDS = 60.0


@dataclass(frozen=True)
class Place:
    """Where a control plane listens, and what its processes are put into."""

    host: str
    port: int
    etcd_port: int
    etcd_peer_port: int
    controller_manager_port: int
    scheduler_port: int
    services: str
    enter: tuple[str, ...] = ()
    cgroup: Cgroup | None = None
    advertise: bool = True
    """The `kubernetes` Service leads here; an address of the loopback cannot be given to it."""


@dataclass(frozen=True)
class ControlPlane:
    layout: Layout
    place: Place
    audit: bool = True
    controllers: bool = True
    audited_readers: str = ""
    """A group whose reads are in the audit log too; of all others only the writes are."""

    @property
    def kubeconfig(self) -> Path:
        return self.layout.kubeconfig

    @property
    def authority(self) -> Pair:
        return certificates.authority(self.layout.pki, "ca")

    @property
    def api(self) -> Api:
        return Api(self.place.host, self.place.port, self.authority, self._client("admin"))

    def start(self) -> None:
        """Start etcd and the API server; `wait` comes next, so that a node can start meanwhile."""
        self._write_configuration()
        self.etcd.ensure()
        self.api_server.ensure()

    def wait(self) -> None:
        """Until the API server is ready: others die on roles that it has not made yet."""
        api = self.api
        wait_for("The API server's /readyz", lambda: self._ready(api), _READY_SECONDS, self._logs)

    def start_controllers(self) -> None:
        self.controller_manager.ensure()
        self.scheduler.ensure()

    def wait_for_controllers(self) -> None:
        """Until a namespace has its service account: before that no pod can be made in it."""
        account = "/api/v1/namespaces/default/serviceaccounts/default"
        wait_for(
            "The first service account",
            lambda: self.api.get(account),
            _READY_SECONDS,
            lambda: (
                f"The controller-manager's log ends with:\n{self.controller_manager.last_lines()}"
            ),
        )

    def daemons(self) -> list[Daemon]:
        """In the order in which they are stopped."""
        return [self.scheduler, self.controller_manager, self.api_server, self.etcd]

    def _ready(self, api: Api) -> bool:
        for daemon in (self.etcd, self.api_server):
            daemon.check()
        return api.ready()

    def _logs(self) -> str:
        return f"The API server's log ends with:\n{self.api_server.last_lines()}"

    @property
    def etcd(self) -> Daemon:
        client = f"http://127.0.0.1:{self.place.etcd_port}"
        peer = f"http://127.0.0.1:{self.place.etcd_peer_port}"
        return self.daemon(
            "etcd",
            tools.path("etcd"),
            {
                "name": "default",
                "data-dir": self.layout.state / "etcd",
                "listen-client-urls": client,
                "advertise-client-urls": client,
                "listen-peer-urls": peer,
                "initial-advertise-peer-urls": peer,
                "initial-cluster": f"default={peer}",
                # The cluster is thrown away; a crash of the machine starts a new one.
                "unsafe-no-fsync": "true",
                "log-level": "warn",
            },
        )

    @property
    def api_server(self) -> Daemon:
        return self.daemon(
            "kube-apiserver",
            tools.path("kube-apiserver"),
            self._server_flags()
            | self._identity_flags()
            | self._front_proxy_flags()
            | (self._audit_flags() if self.audit else {}),
        )

    def _server_flags(self) -> dict[str, object]:
        flags: dict[str, object] = {
            "etcd-servers": f"http://127.0.0.1:{self.place.etcd_port}",
            "bind-address": self.place.host,
            "secure-port": self.place.port,
            "advertise-address": self.place.host,
            "service-cluster-ip-range": self.place.services,
            "authorization-mode": "Node,RBAC",
            "enable-admission-plugins": "NodeRestriction",
            "allow-privileged": "true",
            "shutdown-delay-duration": "0s",
        }
        if not self.place.advertise:
            flags |= {"endpoint-reconciler-type": "none"}
        if not self.controllers:
            # Nobody makes the service accounts that it would ask for.
            flags |= {"disable-admission-plugins": "ServiceAccount"}
        return flags

    def _identity_flags(self) -> dict[str, object]:
        serving = self._serving()
        kubelet_client = self._client("kube-apiserver-kubelet-client")
        accounts = certificates.signing_key(self.layout.pki, "service-accounts")
        return {
            "client-ca-file": self.authority.certificate,
            "tls-cert-file": serving.certificate,
            "tls-private-key-file": serving.key,
            "kubelet-certificate-authority": self.authority.certificate,
            "kubelet-client-certificate": kubelet_client.certificate,
            "kubelet-client-key": kubelet_client.key,
            "kubelet-preferred-address-types": "InternalIP",
            "service-account-issuer": "https://kubernetes.default.svc.cluster.local",
            "service-account-key-file": accounts.certificate,
            "service-account-signing-key-file": accounts.key,
        }

    def _front_proxy_flags(self) -> dict[str, object]:
        """What aggregated APIs (a metrics server, KEDA) know the API server by."""
        signer = certificates.authority(self.layout.pki, "front-proxy-ca")
        client = certificates.issue(signer, "front-proxy-client", "front-proxy-client")
        return {
            "requestheader-client-ca-file": signer.certificate,
            "requestheader-allowed-names": "front-proxy-client",
            "requestheader-username-headers": "X-Remote-User",
            "requestheader-group-headers": "X-Remote-Group",
            "requestheader-extra-headers-prefix": "X-Remote-Extra-",
            "proxy-client-cert-file": client.certificate,
            "proxy-client-key-file": client.key,
            "enable-aggregator-routing": "true",
        }

    def _audit_flags(self) -> dict[str, object]:
        return {
            "audit-policy-file": self._audit_policy,
            "audit-log-path": self.layout.audit_log,
            "audit-log-maxsize": 200,
            "audit-log-maxbackup": 3,
        }

    @property
    def controller_manager(self) -> Daemon:
        config = self.layout.config / "kube-controller-manager.kubeconfig"
        accounts = certificates.signing_key(self.layout.pki, "service-accounts")
        return self.daemon(
            "kube-controller-manager",
            tools.path("kube-controller-manager"),
            {
                "kubeconfig": config,
                "authentication-kubeconfig": config,
                "authorization-kubeconfig": config,
                "bind-address": "127.0.0.1",
                "secure-port": self.place.controller_manager_port,
                "service-account-private-key-file": accounts.key,
                "root-ca-file": self.authority.certificate,
                "cluster-signing-cert-file": self.authority.certificate,
                "cluster-signing-key-file": self.authority.key,
                "use-service-account-credentials": "true",
                "leader-elect": "false",
                "node-monitor-grace-period": "20s",
                "flex-volume-plugin-dir": self.layout.config / "volume-plugins",
            },
        )

    @property
    def scheduler(self) -> Daemon:
        config = self.layout.config / "kube-scheduler.kubeconfig"
        return self.daemon(
            "kube-scheduler",
            tools.path("kube-scheduler"),
            {
                "kubeconfig": config,
                "authentication-kubeconfig": config,
                "authorization-kubeconfig": config,
                "bind-address": "127.0.0.1",
                "secure-port": self.place.scheduler_port,
                "leader-elect": "false",
            },
        )

    def daemon(self, name: str, program: Path, flags: dict[str, object]) -> Daemon:
        """A process that is started beside the API server, with flags of the form --name=value."""
        return Daemon(
            name=name,
            argv=(str(program), *(f"--{flag}={value}" for flag, value in flags.items())),
            log=self.layout.logs / f"{name}.log",
            record=self.layout.records / f"{name}.json",
            cgroup=self.place.cgroup.child(name) if self.place.cgroup else None,
            prefix=self.place.enter,
        )

    def write_client(self, name: str, user: str, groups: tuple[str, ...] = ()) -> Path:
        """A kubeconfig in the configuration folder for a user of its own."""
        path = self.layout.config / f"{name}.kubeconfig"
        pair = certificates.issue(self.authority, name, user, groups)
        write(path, json.dumps(self.client_configuration(pair, name)))
        return path

    def client_configuration(self, pair: Pair, user: str) -> dict[str, Any]:
        """A kubeconfig; certificates stand in it, so that the file can be copied elsewhere."""
        context = f"lepton-{self.layout.name}"
        server = {
            "server": self.api.url,
            "certificate-authority-data": _base64(self.authority.certificate),
        }
        identity = {
            "client-certificate-data": _base64(pair.certificate),
            "client-key-data": _base64(pair.key),
        }
        return {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": context, "cluster": server}],
            "users": [{"name": user, "user": identity}],
            "contexts": [{"name": context, "context": {"cluster": context, "user": user}}],
            "current-context": context,
        }

    def _write_configuration(self) -> None:
        for component in ("kube-controller-manager", "kube-scheduler"):
            self.write_client(component, f"system:{component}")
        admin = json.dumps(self.client_configuration(self._client("admin"), "admin"), indent=1)
        write(self.layout.kubeconfig, admin)
        write(self._audit_policy, json.dumps(_policy(self.audited_readers)))

    @property
    def _audit_policy(self) -> Path:
        return self.layout.config / "audit-policy.json"

    def _serving(self) -> Pair:
        names = ("kubernetes", "kubernetes.default", "kubernetes.default.svc")
        hosts = (
            *names,
            "kubernetes.default.svc.cluster.local",
            "localhost",
            "127.0.0.1",
            self.place.host,
            str(_first_host(self.place.services)),
        )
        return certificates.issue(self.authority, "kube-apiserver", "kube-apiserver", (), hosts)

    def _client(self, name: str) -> Pair:
        return certificates.issue(self.authority, name, name, ("system:masters",))


_WRITES = ["create", "update", "patch", "delete", "deletecollection"]


def _policy(readers: str) -> dict[str, Any]:
    rules: list[dict[str, Any]] = [{"level": "Metadata", "verbs": _WRITES}, {"level": "None"}]
    if readers:
        rules.insert(0, {"level": "Metadata", "userGroups": [readers]})
    return {
        "apiVersion": "audit.k8s.io/v1",
        "kind": "Policy",
        "omitStages": ["RequestReceived"],
        "rules": rules,
    }


def _first_host(network: str) -> IPv4Address:
    return IPv4Network(network)[1]


def _base64(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()
