"""NetworkPolicies of a namespace with services: who may talk to its door and its serving pods.

One for all serving pods and one for the door. A kubelet's probes are always let through: they come
from the pod's own node.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from lepton_operator import names
from lepton_operator.build import door, serving
from lepton_operator.settings import Door, Peer

_DNS_PORT = 53


def serving_policy(namespace: str, settings: Door) -> dict[str, Any]:
    """Return who may talk to serving pods: the door, on their metrics' port Prometheus, and the
    operator while they fetch their model.
    """
    from_door = {
        "from": [{"podSelector": {"matchLabels": names.door_labels()}}],
        "ports": _tcp(serving.HTTP_PORT, serving.GRPC_PORT),
    }
    asked = {"from": [_peer(settings.operator)], "ports": _tcp(serving.PROGRESS_PORT)}
    spec = {
        "podSelector": {"matchLabels": _serving_pods()},
        "policyTypes": ["Ingress"],
        "ingress": [from_door, asked, *_scraped(settings, serving.METRICS_PORT)],
    }
    return _policy(namespace, names.SERVING_POLICY, spec)


def door_policy(namespace: str, settings: Door) -> dict[str, Any]:
    """Return who may talk to the door, and whom it may talk to."""
    ports = {"port": names.DOOR_PORTS.start, "endPort": names.DOOR_PORTS.stop - 1}
    services = {"protocol": "TCP", **ports}
    told = {"from": [_peer(settings.operator)], "ports": _tcp(door.HEALTH_PORT)}
    spec = {
        "podSelector": {"matchLabels": names.door_labels()},
        "policyTypes": ["Ingress", "Egress"],
        "ingress": [{"ports": [services]}, told, *_scraped(settings, door.HEALTH_PORT)],
        "egress": _outgoing(settings),
    }
    return _policy(namespace, names.DOOR, spec)


def _outgoing(settings: Door) -> list[dict[str, Any]]:
    _, _, xds_port = settings.xds_address.rpartition(":")
    dns = [{"protocol": each, "port": _DNS_PORT} for each in ("UDP", "TCP")]
    return [
        {
            "to": [{"podSelector": {"matchLabels": _serving_pods()}}],
            "ports": _tcp(serving.HTTP_PORT, serving.GRPC_PORT),
        },
        {"to": [_peer(settings.operator)], "ports": _tcp(int(xds_port))},
        {"ports": dns},
    ]


def _serving_pods() -> dict[str, str]:
    return {
        names.MANAGED_BY: names.OPERATOR,
        names.KIND: "InferenceService",
        names.ROLE: serving.SERVE,
    }


def _scraped(settings: Door, port: int) -> Iterable[dict[str, Any]]:
    if settings.scrapers:
        yield {"from": [_peer(each) for each in settings.scrapers], "ports": _tcp(port)}


def _peer(peer: Peer) -> Mapping[str, Any]:
    """Return pods of any namespace with these labels; no labels are all."""
    return {
        "namespaceSelector": {"matchLabels": peer.namespace_labels}
        if peer.namespace_labels
        else {},
        "podSelector": {"matchLabels": peer.pod_labels} if peer.pod_labels else {},
    }


def _tcp(*ports: int) -> Sequence[Mapping[str, Any]]:
    return [{"protocol": "TCP", "port": port} for port in ports]


def _policy(namespace: str, name: str, spec: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": door.metadata(namespace, name),
        "spec": dict(spec),
    }
