"""The listener of a service: the same for each but for its name and port.

A changed listener cuts the requests that it has, so nothing here may depend on what can change:
limits and targets are in routes, clusters and the runtime.
"""

from __future__ import annotations

from envoy.config.accesslog.v3.accesslog_pb2 import (
    AccessLog,
    AccessLogFilter,
    AndFilter,
    ComparisonFilter,
    DurationFilter,
    GrpcStatusFilter,
    HeaderFilter,
    OrFilter,
    ResponseFlagFilter,
    StatusCodeFilter,
)
from envoy.config.core.v3.address_pb2 import Address, CidrRange, SocketAddress
from envoy.config.core.v3.base_pb2 import (
    DataSource,
    HeaderValue,
    HeaderValueOption,
    RuntimeUInt32,
    TrafficDirection,
)
from envoy.config.core.v3.protocol_pb2 import Http2ProtocolOptions, KeepaliveSettings
from envoy.config.core.v3.substitution_format_string_pb2 import SubstitutionFormatString
from envoy.config.listener.v3.listener_components_pb2 import Filter, FilterChain
from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.config.route.v3.route_components_pb2 import HeaderMatcher
from envoy.extensions.access_loggers.stats.v3.stats_pb2 import Config as Statistics
from envoy.extensions.access_loggers.stream.v3.stream_pb2 import StdoutAccessLog
from envoy.extensions.filters.http.buffer.v3.buffer_pb2 import Buffer
from envoy.extensions.filters.http.router.v3.router_pb2 import Router
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import (  # noqa: E501 - a module's name
    HttpConnectionManager,
    HttpFilter,
    LocalReplyConfig,
    Rds,
    ResponseMapper,
)
from envoy.type.matcher.v3.string_pb2 import StringMatcher
from google.protobuf.duration_pb2 import Duration
from google.protobuf.wrappers_pb2 import BoolValue, UInt32Value, UInt64Value

from lepton_operator.door.clusters import ADS, METADATA, REVISION
from lepton_operator.door.resources import Resource, packed, resource
from lepton_operator.door.routes import BUFFER
from lepton_operator.door.served import Served

STATISTICS = "service"
"""What the names of the counters of a service begin with."""

ASSUMED_TARGET_MILLISECONDS = 1000
"""The latency target where the runtime holds no other; part of every listener, so never changed."""

_HEADERS_SECONDS = 10
# A stream that got no answer at all has no longer either. Routes could say less by their stream
# duration, but one that does ignores its timeout.
_REQUEST_SECONDS = 3600
_MAX_STREAMS = 1024
_KEEPALIVE_SECONDS = 15
_KEEPALIVE_TIMEOUT_SECONDS = 10
_RETRY_AFTER_SECONDS = "1"
_TOO_MANY_REQUESTS = 429
_INTERNAL_ERROR = 500
_PAYLOAD_TOO_LARGE = 413
_REQUEST_TIMEOUT = 408
# What Envoy itself answers where it sheds load; a pod's own 500 is left as it is.
_OUT_OF_MEMORY = 500
_UNAVAILABLE = 503
_RESOURCE_EXHAUSTED = "8"
_DEADLINE_EXCEEDED = "4"
_REVISION_OF_THE_POD = f"%UPSTREAM_METADATA({METADATA}:{REVISION})%"
# Envoy's flags of a response: no place left, no pod that takes requests, out of time.
_OVERFLOW, _NO_POD, _TIMEOUT = "UO", "UH", "UT"


def listener_name(service: Served) -> str:
    """Return a name that no other port of this service had or will have."""
    return f"{service.name}:{service.port}"


def target_key(service: str) -> str:
    """Return the runtime key of a service's latency target."""
    return f"lepton.latency_target_milliseconds.{service}"


def listener(service: Served) -> Resource:
    """Return the listener of a service."""
    name = listener_name(service)
    chain = FilterChain(
        filters=[
            Filter(
                name="envoy.filters.network.http_connection_manager",
                typed_config=packed(_connections(service.name)),
            )
        ]
    )
    return resource(
        name,
        Listener(
            name=name,
            stat_prefix=service.name,
            address=Address(
                socket_address=SocketAddress(address="0.0.0.0", port_value=service.port)  # noqa: S104 - in a pod
            ),
            filter_chains=[chain],
            traffic_direction=TrafficDirection.INBOUND,
        ),
    )


def _connections(service: str) -> HttpConnectionManager:
    return HttpConnectionManager(
        codec_type=HttpConnectionManager.AUTO,
        stat_prefix=f"{STATISTICS}/{service}",
        rds=Rds(config_source=ADS, route_config_name=service),
        http_filters=_FILTERS,
        http2_protocol_options=_HTTP2,
        request_timeout=Duration(seconds=_REQUEST_SECONDS),
        request_headers_timeout=Duration(seconds=_HEADERS_SECONDS),
        use_remote_address=BoolValue(value=True),
        internal_address_config=_NOBODY_IS_INTERNAL,
        normalize_path=BoolValue(value=True),
        merge_slashes=True,
        path_with_escaped_slashes_action=HttpConnectionManager.REJECT_REQUEST,
        server_header_transformation=HttpConnectionManager.PASS_THROUGH,
        local_reply_config=LocalReplyConfig(mappers=_REPLIES),
        access_log=[*_counted(service), FAILURES],
    )


def _counted(service: str) -> list[AccessLog]:
    """Return what counts requests, per service and revision."""
    target = RuntimeUInt32(
        default_value=ASSUMED_TARGET_MILLISECONDS, runtime_key=target_key(service)
    )
    over = DurationFilter(comparison=ComparisonFilter(op=ComparisonFilter.GE, value=target))
    tags = [
        Statistics.Tag(name="service", value_format=service),
        Statistics.Tag(name="revision", value_format=_REVISION_OF_THE_POD),
    ]
    return [
        _count("requests", tags),
        _count("over_target", tags, AccessLogFilter(duration_filter=over)),
    ]


def _count(
    name: str, tags: list[Statistics.Tag], condition: AccessLogFilter | None = None
) -> AccessLog:
    counter = Statistics.Counter(
        stat=Statistics.Stat(name=name, tags=tags), value_fixed=UInt64Value(value=1)
    )
    return AccessLog(
        name="envoy.access_loggers.stats",
        filter=condition,
        typed_config=packed(Statistics(stat_prefix=STATISTICS, counters=[counter])),
    )


def _flagged(flag: str) -> AccessLogFilter:
    return AccessLogFilter(response_flag_filter=ResponseFlagFilter(flags=[flag]))


def _status(code: int, operation: ComparisonFilter.Op = ComparisonFilter.EQ) -> AccessLogFilter:
    value = RuntimeUInt32(default_value=code, runtime_key="lepton.unset")
    comparison = ComparisonFilter(op=operation, value=value)
    return AccessLogFilter(status_code_filter=StatusCodeFilter(comparison=comparison))


def _both(*conditions: AccessLogFilter) -> AccessLogFilter:
    return AccessLogFilter(and_filter=AndFilter(filters=conditions))


def _header(name: str, value: str) -> HeaderValueOption:
    return HeaderValueOption(
        header=HeaderValue(key=name, value=value),
        append_action=HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD,
    )


def _reply(
    condition: AccessLogFilter, sentence: str, *headers: HeaderValueOption, code: int | None = None
) -> ResponseMapper:
    return ResponseMapper(
        filter=condition,
        status_code=UInt32Value(value=code) if code else None,
        body=DataSource(inline_string=sentence),
        headers_to_add=headers,
    )


# A client that is gone without a word would keep its streams, and pods that drain would wait.
_HTTP2 = Http2ProtocolOptions(
    max_concurrent_streams=UInt32Value(value=_MAX_STREAMS),
    connection_keepalive=KeepaliveSettings(
        interval=Duration(seconds=_KEEPALIVE_SECONDS),
        timeout=Duration(seconds=_KEEPALIVE_TIMEOUT_SECONDS),
    ),
)
# What internal clients ask of the router in x-envoy headers is done: timeouts, retries. Without a
# range, everybody with a private address is internal.
_NOBODY_IS_INTERNAL = HttpConnectionManager.InternalAddressConfig(
    cidr_ranges=[CidrRange(address_prefix="255.255.255.255", prefix_len=UInt32Value(value=32))]
)
_FILTERS = [
    # Switched on by routes, which know how much a service takes.
    HttpFilter(
        name=BUFFER,
        typed_config=packed(Buffer(max_request_bytes=UInt32Value(value=1))),
    ),
    HttpFilter(
        name="envoy.filters.http.router",
        typed_config=packed(Router(suppress_envoy_headers=True)),
    ),
]
_GRPC_REQUEST = AccessLogFilter(
    header_filter=HeaderFilter(
        header=HeaderMatcher(
            name="content-type", string_match=StringMatcher(prefix="application/grpc")
        )
    )
)
# What Envoy's outlier detection takes for an error: gRPC's statuses that stand for 5xx.
_ERRORS = (
    GrpcStatusFilter.UNKNOWN,
    GrpcStatusFilter.DEADLINE_EXCEEDED,
    GrpcStatusFilter.UNIMPLEMENTED,
    GrpcStatusFilter.INTERNAL,
    GrpcStatusFilter.UNAVAILABLE,
    GrpcStatusFilter.DATA_LOSS,
)
_GRPC_ERROR = _both(
    _GRPC_REQUEST, AccessLogFilter(grpc_status_filter=GrpcStatusFilter(statuses=_ERRORS))
)
_FAILED = AccessLogFilter(
    or_filter=OrFilter(filters=[_status(_INTERNAL_ERROR, ComparisonFilter.GE), _GRPC_ERROR])
)
# The door's PID 1 reads each line (images/door/failing.py).
FAILURES = AccessLog(
    name="envoy.access_loggers.stdout",
    filter=_FAILED,
    typed_config=packed(
        StdoutAccessLog(
            log_format=SubstitutionFormatString(
                text_format_source=DataSource(
                    inline_string="%UPSTREAM_CLUSTER_RAW% %UPSTREAM_HOST% %RESPONSE_CODE% "
                    "%GRPC_STATUS_NUMBER% %RESPONSE_FLAGS%\n"
                )
            )
        )
    ),
)
_FULL = _flagged(_OVERFLOW)
_TOO_LARGE = _status(_PAYLOAD_TOO_LARGE)
_RETRY_AFTER = _header("retry-after", _RETRY_AFTER_SECONDS)
_FULL_SENTENCE = "Every place of this InferenceService and of its queue is taken; try again later."
_LARGE_SENTENCE = "The body is larger than limits.bodyBytes of this InferenceService."
_LATE_SENTENCE = "There was no answer within limits.timeoutSeconds of this InferenceService."
_SLOW_SENTENCE = (
    f"The request did not come in in time: {_HEADERS_SECONDS} s for its headers, "
    f"{_REQUEST_SECONDS} s for all of it."
)
_REPLIES = [
    _reply(
        _both(_FULL, _GRPC_REQUEST),
        _FULL_SENTENCE,
        _RETRY_AFTER,
        _header("grpc-status", _RESOURCE_EXHAUSTED),
    ),
    _reply(_FULL, _FULL_SENTENCE, _RETRY_AFTER, code=_TOO_MANY_REQUESTS),
    _reply(
        _both(_TOO_LARGE, _GRPC_REQUEST),
        _LARGE_SENTENCE,
        _header("grpc-status", _RESOURCE_EXHAUSTED),
    ),
    _reply(_TOO_LARGE, _LARGE_SENTENCE),
    _reply(
        _both(_flagged(_TIMEOUT), _GRPC_REQUEST),
        _LATE_SENTENCE,
        _header("grpc-status", _DEADLINE_EXCEEDED),
    ),
    _reply(_flagged(_TIMEOUT), _LATE_SENTENCE),
    _reply(_status(_REQUEST_TIMEOUT), _SLOW_SENTENCE),
    _reply(
        _status(_OUT_OF_MEMORY),
        "This door has no memory left for so many large requests at once; try again later.",
        _RETRY_AFTER,
        code=_UNAVAILABLE,
    ),
    _reply(
        _flagged(_NO_POD),
        "No pod of this InferenceService takes requests now; its status says why.",
        _RETRY_AFTER,
    ),
]
