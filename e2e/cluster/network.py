"""A network namespace for each cluster, joined to the host by one pair of virtual devices.

Two kube-proxies in one namespace delete each other's rules, and two clusters would fight for ports;
in a namespace of its own each has them all, and removing it removes every rule and route.
"""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

from e2e.cluster.layout import ClusterError
from e2e.cluster.process import DIE_WITH_PARENT

SPACE = IPv4Network("10.64.0.0/10")
_NAMESPACES = Path("/run/netns")
_FORWARD = Path("/proc/sys/net/ipv4/ip_forward")


@dataclass(frozen=True)
class Network:
    """The addresses of the cluster with this index: one /16, cut into fixed parts."""

    name: str
    index: int

    @property
    def whole(self) -> IPv4Network:
        return _subnets()[self.index]

    @property
    def services(self) -> IPv4Network:
        return self._part(0, 18)

    @property
    def pods(self) -> IPv4Network:
        return self._part(64, 18)

    @property
    def fake_pods(self) -> IPv4Network:
        return self._part(128, 18)

    def node_pods(self, node: int) -> IPv4Network:
        return self._part(64 + node, 24)

    def node_address(self, node: int) -> IPv4Address:
        return self._part(254, 24)[node]

    @property
    def dns_address(self) -> IPv4Address:
        return self._part(254, 24)[253]

    @property
    def fake_node_address(self) -> IPv4Address:
        return self._part(254, 24)[254]

    @property
    def host_address(self) -> IPv4Address:
        return self._part(255, 30)[1]

    @property
    def server_address(self) -> IPv4Address:
        """Where the API server listens; host, nodes and pods all reach it."""
        return self._part(255, 30)[2]

    @property
    def namespace(self) -> str:
        return f"lepton-{self.name}"

    @property
    def namespace_file(self) -> Path:
        return _NAMESPACES / self.namespace

    @property
    def device(self) -> str:
        return f"lepton{self.index}"

    @property
    def enter(self) -> tuple[str, ...]:
        """What stands before a command to run it inside; `ip netns exec` hides /sys/fs/cgroup."""
        return ("nsenter", f"--net={self.namespace_file}", "--")

    def exists(self) -> bool:
        return (
            _is_mounted(self.namespace_file)
            and Path("/sys/class/net", self.device).exists()
            and str(self.whole) in _ip("route", "show", str(self.whole))
        )

    def holds(self, pid: int) -> bool:
        """Whether a process is in this very namespace, not in one that had its name before."""
        try:
            inside = Path(f"/proc/{pid}/ns/net").stat()
        except FileNotFoundError:
            return True  # it is ending, and its namespace with it
        return self.exists() and inside.st_ino == self.namespace_file.stat().st_ino

    def create(self, nodes: int) -> None:
        """Make it if it is not there, and give it the addresses of so many nodes."""
        if not self.exists():
            self.remove()
            self._create_devices()
        addresses = [self.node_address(node) for node in range(1, nodes + 1)]
        for address in (self.dns_address, self.fake_node_address, *addresses):
            _ip("-n", self.namespace, "address", "replace", f"{address}/32", "dev", "lo")

    def _create_devices(self) -> None:
        inside = ("-n", self.namespace)
        _ip("netns", "add", self.namespace)
        _ip("link", "add", self.device, "type", "veth", "peer", "uplink", "netns", self.namespace)
        _ip("address", "add", f"{self.host_address}/30", "dev", self.device)
        _ip("link", "set", self.device, "up")
        _ip(*inside, "address", "add", f"{self.server_address}/30", "dev", "uplink")
        _ip(*inside, "link", "set", "uplink", "up")
        _ip(*inside, "link", "set", "lo", "up")
        _ip("route", "replace", str(self.whole), "via", str(self.server_address))
        _run(*self.enter, "sh", "-c", f"echo 1 > {_FORWARD}")

    def cut(self, node: int) -> None:
        """Drop whatever pods of this node and pods of others send to each other."""
        for rule in self._rules_between(node):
            _run(*self.enter, "iptables", "--wait", "--insert", *rule)

    def mend(self, node: int) -> None:
        """Undo `cut`."""
        for rule in self._rules_between(node):
            _run(*self.enter, "iptables", "--wait", "--delete", *rule)

    def _rules_between(self, node: int) -> list[tuple[str, ...]]:
        pods = str(self.node_pods(node))
        forward, drop = ("FORWARD",), ("--jump", "DROP")
        return [
            (*forward, "--source", pods, "!", "--destination", pods, *drop),
            (*forward, "--destination", pods, "!", "--source", pods, *drop),
        ]

    def remove(self) -> None:
        """Removing one end of the pair removes the other, and with it the routes."""
        if Path("/sys/class/net", self.device).exists():
            _ip("link", "delete", self.device)
        if self.namespace_file.exists():
            _ip("netns", "delete", self.namespace)

    def _part(self, third_octet: int, prefix: int) -> IPv4Network:
        return IPv4Network((int(self.whole.network_address) + (third_octet << 8), prefix))


def free_index(taken: set[int]) -> int:
    """The first index that no cluster has and whose addresses the host routes nowhere yet."""
    routed = [IPv4Network(line.split()[0]) for line in _routes()]
    for index, subnet in enumerate(_subnets()):
        if index not in taken and not any(subnet.overlaps(network) for network in routed):
            return index
    raise ClusterError(
        f"Every subnet of {SPACE} is taken, by clusters or by the host's own routes. "
        "Stop a cluster with `make cluster-down NAME=...` (`make cluster-status` lists them)."
    )


def _subnets() -> list[IPv4Network]:
    return list(SPACE.subnets(new_prefix=16))


def _is_mounted(file: Path) -> bool:
    """`ip netns add` makes a file and mounts the namespace on it."""
    return file.exists() and file.stat().st_dev != file.parent.stat().st_dev


def _routes() -> list[str]:
    return [line for line in _ip("route", "show").splitlines() if line[0].isdigit()]


def _ip(*arguments: str) -> str:
    return _run("ip", *arguments)


def _run(*argv: str) -> str:
    whole = [*DIE_WITH_PARENT, *argv]
    done = subprocess.run(whole, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ClusterError(f"`{' '.join(argv)}` failed: {done.stderr.strip()}")
    return done.stdout
