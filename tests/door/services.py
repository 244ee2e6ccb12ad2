"""Services as the operator would configure them, written into the bootstrap of a door for tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from google.protobuf import json_format

from images.door.bootstrap import bootstrap
from images.door.settings import Settings
from lepton_operator.door.clusters import OUTLIERS
from lepton_operator.door.listeners import FAILURES

_TYPES = "type.googleapis.com/envoy.extensions"
PROTOCOLS = ("http", "grpc")
REVISIONS = ("a1b2c3", "d4e5f6")


def static(
    services: dict[str, int], upstreams: dict[str, str], settings: Settings, folder: Path, pod: str
) -> dict[str, Any]:
    """Return the door's own bootstrap, with its services in place of the operator's stream.

    `services`: name -> port; `upstreams`: address -> health, the same for all of them.
    """
    own = bootstrap(settings, folder, pod)
    clusters = [
        _cluster(f"{name}/{protocol}", upstreams) for name in services for protocol in PROTOCOLS
    ]
    listeners = [_listener(name, port) for name, port in services.items()]
    return {
        **{key: own[key] for key in own if key not in ("dynamic_resources", "layered_runtime")},
        "static_resources": {"listeners": listeners, "clusters": clusters},
    }


def _listener(name: str, port: int) -> dict[str, Any]:
    grpc = {"prefix": "/", "grpc": {}}
    routes = [
        {"match": match, "route": {"cluster": f"{name}/{protocol}", "timeout": "60s"}}
        for match, protocol in ((grpc, "grpc"), ({"prefix": "/"}, "http"))
    ]
    hosts = [{"name": name, "domains": ["*"], "routes": routes}]
    router = f"{_TYPES}.filters.http.router.v3.Router"
    manager = {
        "@type": f"{_TYPES}.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": f"service/{name}",
        "codec_type": "AUTO",
        "access_log": [
            *(
                {"name": counter, "typed_config": _counted(counter, name)}
                for counter in ("requests", "over_target")
            ),
            json_format.MessageToDict(FAILURES),
        ],
        "route_config": {"name": name, "virtual_hosts": hosts},
        "http_filters": [{"name": "router", "typed_config": {"@type": router}}],
    }
    return {
        "name": name,
        "address": _address("127.0.0.1", port),
        "filter_chains": [{"filters": [{"name": "http", "typed_config": manager}]}],
    }


def _counted(stat: str, service: str) -> dict[str, Any]:
    """Two revisions, as in the middle of a rollout; they differ by the request's own header."""
    tags = [
        {"name": "service", "value_format": service},
        {"name": "revision", "value_format": "%REQ(revision)%"},
    ]
    counter = {"stat": {"name": stat, "tags": tags}, "value_fixed": 1}
    return {
        "@type": f"{_TYPES}.access_loggers.stats.v3.Config",
        "stat_prefix": "service",
        "counters": [counter],
    }


def _cluster(name: str, upstreams: dict[str, str]) -> dict[str, Any]:
    endpoints = [
        {
            "health_status": health,
            "endpoint": {"address": _address(*_parts(address))},
        }
        for address, health in upstreams.items()
    ]
    protocol = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
    version = "http2_protocol_options" if name.endswith("/grpc") else "http_protocol_options"
    return {
        "name": name,
        "type": "STATIC",
        "typed_extension_protocol_options": {
            protocol: {
                "@type": f"type.googleapis.com/{protocol}",
                "explicit_http_config": {version: {}},
            }
        },
        "connect_timeout": "1s",
        "lb_policy": "LEAST_REQUEST",
        "outlier_detection": json_format.MessageToDict(OUTLIERS),
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": endpoints}]},
    }


def _parts(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host, int(port)


def _address(host: str, port: int) -> dict[str, Any]:
    return {"socket_address": {"address": host, "port_value": port}}
