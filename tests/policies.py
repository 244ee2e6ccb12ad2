"""Evaluates NetworkPolicies over flows, as the API's documentation says an enforcing network does.

No network that enforces policies runs here, so this tells what one would let through. A kubelet's
probes are let through by every network and are no flows here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

Policy = Mapping[str, Any]
Labels = Mapping[str, str]


@dataclass(frozen=True)
class Endpoint:
    """A pod, or with no labels at all something outside of the cluster."""

    namespace: str = ""
    labels: Labels = field(default_factory=dict)
    namespace_labels: Labels = field(default_factory=dict)

    @property
    def is_pod(self) -> bool:
        return bool(self.namespace)

    @property
    def every_namespace_label(self) -> Labels:
        return {"kubernetes.io/metadata.name": self.namespace, **self.namespace_labels}


@dataclass(frozen=True)
class Flow:
    """A connection to a port of a pod."""

    source: Endpoint
    target: Endpoint
    port: int
    protocol: str = "TCP"


def is_allowed(flow: Flow, policies: Iterable[Policy]) -> bool:
    """Whether the flow may leave its source and may reach its target."""
    every = list(policies)
    return all(_passes(flow, every, direction) for direction in (_OUT, _IN))


@dataclass(frozen=True)
class _Direction:
    """A kind of rules, and where they name the other end of a flow."""

    kind: str
    side: str

    def ends(self, flow: Flow) -> tuple[Endpoint, Endpoint]:
        """Return the pod whose policies decide, and its peer."""
        ends = flow.source, flow.target
        return ends if self.kind == "Egress" else ends[::-1]


_OUT, _IN = _Direction("Egress", "to"), _Direction("Ingress", "from")


def _passes(flow: Flow, policies: list[Policy], direction: _Direction) -> bool:
    """A pod that no policy of this kind selects is open; else any rule may let a flow through."""
    pod, peer = direction.ends(flow)
    kind = direction.kind
    chosen = [each for each in policies if pod.is_pod and _selects(each, pod, kind)]
    rules = [rule for each in chosen for rule in each["spec"].get(kind.lower()) or ()]
    return not chosen or any(
        _speaks_of(rule.get(direction.side), peer, pod.namespace)
        and _opens(rule.get("ports"), flow)
        for rule in rules
    )


def _selects(policy: Policy, pod: Endpoint, kind: str) -> bool:
    spec = policy["spec"]
    same_namespace = policy["metadata"]["namespace"] == pod.namespace
    selected = _matches(spec["podSelector"], pod.labels)
    return kind in spec["policyTypes"] and same_namespace and selected


def _speaks_of(peers: list[Mapping[str, Any]] | None, peer: Endpoint, namespace: str) -> bool:
    return not peers or any(_is_peer(each, peer, namespace) for each in peers)


def _is_peer(wanted: Mapping[str, Any], peer: Endpoint, namespace: str) -> bool:
    if not peer.is_pod:
        return False
    if "namespaceSelector" in wanted:
        in_namespace = _matches(wanted["namespaceSelector"], peer.every_namespace_label)
    else:
        in_namespace = peer.namespace == namespace
    return in_namespace and _matches(wanted.get("podSelector", {}), peer.labels)


def _opens(ports: list[Mapping[str, Any]] | None, flow: Flow) -> bool:
    return not ports or any(
        each["protocol"] == flow.protocol
        and each["port"] <= flow.port <= each.get("endPort", each["port"])
        for each in ports
    )


def _matches(selector: Mapping[str, Any], labels: Labels) -> bool:
    assert set(selector) <= {"matchLabels"}, "only labels are evaluated here"
    wanted: Labels = selector.get("matchLabels", {})
    return wanted.items() <= labels.items()
