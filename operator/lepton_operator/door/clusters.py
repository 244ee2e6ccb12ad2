"""The pods of a service as Envoy clusters: one for HTTP, one for gRPC, and their endpoints."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from envoy.config.cluster.v3.circuit_breaker_pb2 import CircuitBreakers
from envoy.config.cluster.v3.cluster_pb2 import Cluster, UpstreamConnectionOptions
from envoy.config.cluster.v3.outlier_detection_pb2 import OutlierDetection
from envoy.config.core.v3.address_pb2 import TcpKeepalive
from envoy.config.core.v3.config_source_pb2 import AggregatedConfigSource, ApiVersion, ConfigSource
from envoy.config.core.v3.extension_pb2 import TypedExtensionConfig
from envoy.config.core.v3.health_check_pb2 import HealthStatus
from envoy.config.core.v3.protocol_pb2 import (
    Http1ProtocolOptions,
    Http2ProtocolOptions,
    HttpProtocolOptions,
    KeepaliveSettings,
)
from envoy.config.endpoint.v3.endpoint_components_pb2 import LbEndpoint, LocalityLbEndpoints
from envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment
from envoy.extensions.load_balancing_policies.least_request.v3.least_request_pb2 import LeastRequest
from envoy.extensions.upstreams.http.v3.http_protocol_options_pb2 import (
    HttpProtocolOptions as UpstreamProtocols,
)
from envoy.type.v3.percent_pb2 import Percent
from google.protobuf.duration_pb2 import Duration
from google.protobuf.wrappers_pb2 import UInt32Value

from lepton_operator.build.serving import GRPC_PORT, HTTP_PORT
from lepton_operator.door.resources import Resource, packed, resource
from lepton_operator.door.served import Endpoint, Limits, Served

METADATA = "lepton.ai"
REVISION = "revision"

_CONNECT_SECONDS = 1
_IDLE_SECONDS = 60
_KEEPALIVE_SECONDS = 10
_KEEPALIVE_TIMEOUT_SECONDS = 5
_KEEPALIVE_PROBES = 3

# After so many failures in a row (no connection, no answer, 502 to 504) a pod gets no requests for
# a while, each time for longer.
_CONSECUTIVE_FAILURES = 5
# Triton answers 500 and INTERNAL to requests that make no sense too, and one client that sends many
# must not take the pods from all others: of such answers it needs more in a row, or nearly all.
_CONSECUTIVE_ERRORS = 20
_ERROR_PERCENT = 95
_JUDGED_REQUESTS = 10
_EJECTION_SECONDS = 10
_MAX_EJECTION_SECONDS = 120
_SWEEP_SECONDS = 2
_MAX_EJECTED_PERCENT = 50

_PROTOCOLS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"


@dataclass(frozen=True, slots=True)
class Protocol:
    """A protocol that the pods speak, on a port of its own."""

    word: str
    port: int


HTTP = Protocol("http", HTTP_PORT)
GRPC = Protocol("grpc", GRPC_PORT)
PROTOCOLS = (HTTP, GRPC)

ADS = ConfigSource(ads=AggregatedConfigSource(), resource_api_version=ApiVersion.V3)


def cluster_name(service: str, protocol: Protocol) -> str:
    return f"{service}/{protocol.word}"


def clusters(service: Served) -> Iterator[Resource]:
    """Yield the clusters of a service; its endpoints change without them."""
    for protocol in PROTOCOLS:
        name = cluster_name(service.name, protocol)
        yield resource(name, _cluster(name, protocol, service.limits))


def assignments(service: Served) -> Iterator[Resource]:
    """Yield the endpoints of both clusters."""
    for protocol in PROTOCOLS:
        name = cluster_name(service.name, protocol)
        places = [_place(each, protocol) for each in service.endpoints]
        locality = [LocalityLbEndpoints(lb_endpoints=places)] if places else []
        yield resource(name, ClusterLoadAssignment(cluster_name=name, endpoints=locality))


def _cluster(name: str, protocol: Protocol, limits: Limits) -> Cluster:
    found = Cluster()
    found.CopyFrom(_nameless(protocol, limits))
    found.name = name
    return found


@lru_cache(maxsize=64)
def _nameless(protocol: Protocol, limits: Limits) -> Cluster:
    """Return what the clusters of many services have in common: most set no limits."""
    return Cluster(
        type=Cluster.EDS,
        eds_cluster_config=Cluster.EdsClusterConfig(eds_config=ADS),
        connect_timeout=Duration(seconds=_CONNECT_SECONDS),
        load_balancing_policy=_LEAST_LOADED,
        # By default, where no pod takes requests, they would go to those that are leaving.
        common_lb_config=Cluster.CommonLbConfig(healthy_panic_threshold=Percent(value=0)),
        circuit_breakers=_breakers(protocol, limits),
        outlier_detection=OUTLIERS,
        upstream_connection_options=_CONNECTIONS,
        typed_extension_protocol_options={_PROTOCOLS: _UPSTREAM[protocol]},
    )


def _breakers(protocol: Protocol, limits: Limits) -> CircuitBreakers:
    """Return the limits of one door: what is over them gets 429 (listeners.py).

    HTTP requests beyond `concurrency` wait here for a connection. gRPC shares connections, so
    there all wait at the pods. Who waits for a connection that is being made is pending too: all
    that are allowed must have room there, or a burst would be refused where connections are idle.
    """
    every = limits.concurrency + limits.queue
    thresholds = CircuitBreakers.Thresholds(
        max_requests=UInt32Value(value=every),
        max_pending_requests=UInt32Value(value=every),
        max_retries=UInt32Value(value=every),
    )
    if protocol == HTTP:
        thresholds.max_connections.value = limits.concurrency
    return CircuitBreakers(thresholds=[thresholds])


def _place(endpoint: Endpoint, protocol: Protocol) -> LbEndpoint:
    found = LbEndpoint(
        health_status=HealthStatus.HEALTHY if endpoint.takes_requests else HealthStatus.DRAINING
    )
    address = found.endpoint.address.socket_address
    address.address, address.port_value = endpoint.address, protocol.port
    revision = found.metadata.filter_metadata[METADATA].fields[REVISION]
    revision.string_value = endpoint.revision
    return found


_LEAST_LOADED = {
    "policies": [
        {
            "typed_extension_config": TypedExtensionConfig(
                name="envoy.load_balancing_policies.least_request",
                typed_config=packed(LeastRequest(selection_method=LeastRequest.FULL_SCAN)),
            )
        }
    ]
}
OUTLIERS = OutlierDetection(
    consecutive_5xx=UInt32Value(value=_CONSECUTIVE_ERRORS),
    consecutive_gateway_failure=UInt32Value(value=_CONSECUTIVE_FAILURES),
    enforcing_consecutive_gateway_failure=UInt32Value(value=100),
    split_external_local_origin_errors=True,
    consecutive_local_origin_failure=UInt32Value(value=_CONSECUTIVE_FAILURES),
    enforcing_consecutive_local_origin_failure=UInt32Value(value=100),
    failure_percentage_threshold=UInt32Value(value=_ERROR_PERCENT),
    failure_percentage_request_volume=UInt32Value(value=_JUDGED_REQUESTS),
    failure_percentage_minimum_hosts=UInt32Value(value=1),
    enforcing_failure_percentage=UInt32Value(value=100),
    enforcing_success_rate=UInt32Value(value=0),
    enforcing_local_origin_success_rate=UInt32Value(value=0),
    interval=Duration(seconds=_SWEEP_SECONDS),
    base_ejection_time=Duration(seconds=_EJECTION_SECONDS),
    max_ejection_time=Duration(seconds=_MAX_EJECTION_SECONDS),
    max_ejection_percent=UInt32Value(value=_MAX_EJECTED_PERCENT),
)
# A node that died answers nothing, not even that a connection is gone.
_CONNECTIONS = UpstreamConnectionOptions(
    tcp_keepalive=TcpKeepalive(
        keepalive_probes=UInt32Value(value=_KEEPALIVE_PROBES),
        keepalive_time=UInt32Value(value=_KEEPALIVE_SECONDS),
        keepalive_interval=UInt32Value(value=_KEEPALIVE_TIMEOUT_SECONDS),
    )
)
_IDLE = HttpProtocolOptions(idle_timeout=Duration(seconds=_IDLE_SECONDS))
_UPSTREAM = {
    HTTP: packed(
        UpstreamProtocols(
            common_http_protocol_options=_IDLE,
            explicit_http_config=UpstreamProtocols.ExplicitHttpConfig(
                http_protocol_options=Http1ProtocolOptions()
            ),
        )
    ),
    GRPC: packed(
        UpstreamProtocols(
            common_http_protocol_options=_IDLE,
            explicit_http_config=UpstreamProtocols.ExplicitHttpConfig(
                http2_protocol_options=Http2ProtocolOptions(
                    connection_keepalive=KeepaliveSettings(
                        interval=Duration(seconds=_KEEPALIVE_SECONDS),
                        timeout=Duration(seconds=_KEEPALIVE_TIMEOUT_SECONDS),
                    )
                )
            ),
        )
    ),
}
