"""What Envoy is started with: who it is, where its configuration comes from, and its bounds.

Everything else comes from the operator over one delta ADS stream. Pure: values in, JSON out.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from images.door.settings import Settings
from images.door.stats import CONFIGURATION as STATS

RUNTIME = "lepton-door"
"""The RTDS resource with the thresholds that requests are counted against."""
XDS = "xds"
"""The cluster of the operators: the leader alone answers, the others refuse the connection."""

_TYPES = "type.googleapis.com/envoy.extensions"
_FOR_EVER = "0s"
"""Envoy's own limit is 15 s: then it would be ready without a single listener."""
_RUNTIME_WAIT = "2s"
"""Without its thresholds a door serves; they are on the stream before clusters and listeners."""
_LATENCIES_EVERY = "5s"
"""Counters are always fresh. Added up when they are asked for, latencies would miss the answer."""
_TRACKED_FROM = 20
"""Streams with buffers of 2^20 bytes and more are the ones that can be reset when memory ends."""
_HEAP_ACTIONS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("shrink_heap", {"threshold": {"value": 0.85}}),
    ("disable_http_keepalive", {"threshold": {"value": 0.9}}),
    (
        "reset_high_memory_stream",
        {"scaled": {"scaling_threshold": 0.93, "saturation_threshold": 1}},
    ),
    ("stop_accepting_requests", {"threshold": {"value": 0.95}}),
    ("stop_accepting_connections", {"threshold": {"value": 0.98}}),
)
_REFUSED_BODIES = "http1_server_abort_dispatch"
"""Bodies over HTTP/1 that the door takes in are in no account of a stream, and no action ends them:
twenty of 64 MB at once took 1 GB of a heap of 448 MB (tried)."""
_LOOKS_EVERY = "0.02s"
"""How much comes in between two looks is beyond the bound. Of 24 clients on the same machine that
was up to 100 MB in 50 ms, and 25 in 20; more often would cost an idle door a hundredth of
a core."""


def bootstrap(settings: Settings, folder: Path, pod: str) -> dict[str, Any]:
    """Return Envoy's bootstrap; `folder` is where its socket and its secrets' files will be.

    `pod` names the door in the operator's log. Who a door is says its certificate alone.
    """
    return {
        "node": {"id": pod, "cluster": "lepton-door"},
        "admin": {"address": {"pipe": {"path": str(admin_socket(folder)), "mode": 0o600}}},
        "dynamic_resources": {
            "ads_config": _ads(),
            "cds_config": _from_the_stream(_FOR_EVER),
            "lds_config": _from_the_stream(_FOR_EVER),
        },
        "static_resources": {"clusters": [_xds(settings, folder)]},
        # PID 1 reads it: `failing`.
        "cluster_manager": {"outlier_detection": {"event_log_path": "/dev/stdout"}},
        "layered_runtime": _runtime(),
        "overload_manager": overload_manager(settings),
        "stats_config": STATS,
        "stats_flush_interval": _LATENCIES_EVERY,
    }


def admin_socket(folder: Path) -> Path:
    return folder / "admin.sock"


def secrets(settings: Settings, folder: Path) -> dict[Path, dict[str, Any]]:
    """Return the files that tell Envoy where its certificates are, and to look at them again.

    Only a secret that comes through SDS is read anew when its Secret changes.
    """
    mounted = settings.certificates
    watched = {"watched_directory": {"path": str(mounted)}}
    certificate = {
        "certificate_chain": {"filename": str(mounted / "tls.crt")},
        "private_key": {"filename": str(mounted / "tls.key")},
    }
    authority = {"trusted_ca": {"filename": str(mounted / "ca.crt")}}
    return {
        _file_of(folder, "certificate"): _secret(
            "certificate", {"tls_certificate": {**certificate, **watched}}
        ),
        _file_of(folder, "authority"): _secret(
            "authority", {"validation_context": {**authority, **watched}}
        ),
    }


def overload_manager(settings: Settings) -> dict[str, Any]:
    """Return how Envoy does less when memory or connections run out, so that it is not killed."""
    connections = _connections(settings.connections)
    monitors = [_monitor("global_downstream_max_connections", connections)]
    if settings.heap_bytes is None:
        return {"resource_monitors": monitors}
    heap = _monitor(
        "fixed_heap",
        {**_typed("fixed_heap.v3.FixedHeapConfig"), "max_heap_size_bytes": settings.heap_bytes},
    )
    return {
        "refresh_interval": _LOOKS_EVERY,
        "buffer_factory_config": {"minimum_account_to_track_power_of_two": _TRACKED_FROM},
        "resource_monitors": [*monitors, heap],
        "actions": [
            {
                "name": f"envoy.overload_actions.{action}",
                "triggers": [{"name": heap["name"], **trigger}],
            }
            for action, trigger in _HEAP_ACTIONS
        ],
        "loadshed_points": [
            {
                "name": f"envoy.load_shed_points.{_REFUSED_BODIES}",
                "triggers": [{"name": heap["name"], "threshold": {"value": 0.9}}],
            }
        ],
    }


def _ads() -> dict[str, Any]:
    # A new leader must have told what is new within a second, and the first attempt may be at a
    # standby: Envoy's own back-off grows to 30 s.
    back_off = {"base_interval": "0.1s", "max_interval": "0.2s"}
    return {
        "api_type": "DELTA_GRPC",
        "transport_api_version": "V3",
        "set_node_on_first_message_only": True,
        "grpc_services": [
            {
                "envoy_grpc": {
                    "cluster_name": XDS,
                    "retry_policy": {"retry_back_off": back_off},
                }
            }
        ],
    }


def _from_the_stream(wait: str) -> dict[str, Any]:
    return {"ads": {}, "resource_api_version": "V3", "initial_fetch_timeout": wait}


def _xds(settings: Settings, folder: Path) -> dict[str, Any]:
    """A headless Service: every operator's address, of which each attempt takes the next."""
    address = {"address": settings.xds_host, "port_value": settings.xds_port}
    endpoint = {"endpoint": {"address": {"socket_address": address}}}
    keepalive = {"interval": "2s", "timeout": "2s"}
    protocol = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
    return {
        "name": XDS,
        "cluster_type": {
            "name": "envoy.cluster.dns",
            "typed_config": {
                "@type": f"{_TYPES}.clusters.dns.v3.DnsCluster",
                "dns_lookup_family": "V4_PREFERRED",
                "dns_refresh_rate": "2s",
                "dns_failure_refresh_rate": {"base_interval": "0.5s", "max_interval": "2s"},
            },
        },
        "connect_timeout": "0.5s",
        "lb_policy": "ROUND_ROBIN",
        "load_assignment": {
            "cluster_name": XDS,
            "endpoints": [{"lb_endpoints": [endpoint]}],
        },
        "typed_extension_protocol_options": {
            protocol: {
                "@type": f"type.googleapis.com/{protocol}",
                "explicit_http_config": {
                    "http2_protocol_options": {"connection_keepalive": keepalive}
                },
            }
        },
        "transport_socket": _tls(settings.xds_host, folder),
    }


def _tls(host: str, folder: Path) -> dict[str, Any]:
    def from_file(name: str) -> dict[str, Any]:
        source = {"path_config_source": {"path": str(_file_of(folder, name))}}
        return {"name": name, "sds_config": {**source, "resource_api_version": "V3"}}

    named = {"san_type": "DNS", "matcher": {"exact": host}}
    return {
        "name": "envoy.transport_sockets.tls",
        "typed_config": {
            "@type": f"{_TYPES}.transport_sockets.tls.v3.UpstreamTlsContext",
            "sni": host,
            "common_tls_context": {
                "tls_params": {
                    "tls_minimum_protocol_version": "TLSv1_3",
                    "tls_maximum_protocol_version": "TLSv1_3",
                },
                "tls_certificate_sds_secret_configs": [from_file("certificate")],
                "combined_validation_context": {
                    "default_validation_context": {"match_typed_subject_alt_names": [named]},
                    "validation_context_sds_secret_config": from_file("authority"),
                },
            },
        },
    }


def _runtime() -> dict[str, Any]:
    """A threshold is a runtime key, so that a change of it never touches a listener."""
    layer = {"name": RUNTIME, "rtds_config": _from_the_stream(_RUNTIME_WAIT)}
    return {"layers": [{"name": RUNTIME, "rtds_layer": layer}]}


def _file_of(folder: Path, secret: str) -> Path:
    return folder / f"{secret}.json"


def _secret(name: str, content: dict[str, Any]) -> dict[str, Any]:
    kind = f"{_TYPES}.transport_sockets.tls.v3.Secret"
    return {"resources": [{"@type": kind, "name": name, **content}]}


def _typed(kind: str) -> dict[str, Any]:
    return {"@type": f"{_TYPES}.resource_monitors.{kind}"}


def _connections(most: int) -> dict[str, Any]:
    kind = "downstream_connections.v3.DownstreamConnectionsConfig"
    return {**_typed(kind), "max_active_downstream_connections": most}


def _monitor(name: str, configuration: dict[str, Any]) -> dict[str, Any]:
    return {"name": f"envoy.resource_monitors.{name}", "typed_config": configuration}
