"""How requests find the pods of a service: by what they speak, and never by names in them."""

from __future__ import annotations

from functools import lru_cache

from envoy.config.core.v3.base_pb2 import DataSource
from envoy.config.route.v3.route_components_pb2 import (
    DirectResponseAction,
    RetryPolicy,
    Route,
    RouteAction,
    RouteMatch,
    VirtualHost,
)
from envoy.config.route.v3.route_pb2 import RouteConfiguration
from envoy.extensions.filters.http.buffer.v3.buffer_pb2 import Buffer, BufferPerRoute
from envoy.extensions.retry.host.previous_hosts.v3.previous_hosts_pb2 import PreviousHostsPredicate
from envoy.type.matcher.v3.regex_pb2 import RegexMatcher
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.protobuf.wrappers_pb2 import UInt32Value

from lepton_operator.door.clusters import GRPC, HTTP, Protocol, cluster_name
from lepton_operator.door.resources import Resource, packed, resource
from lepton_operator.door.served import Served

BUFFER = "envoy.filters.http.buffer"

# The one call of the Open Inference Protocol whose request has no end before its first answer.
STREAM_PATH = "/inference.GRPCInferenceService/ModelStreamInfer"

# What changes a server is no client's business: repository, logging, traces, shared memory. Triton
# keeps these to itself too, by a secret header, and that check has been got round before
# (CVE-2026-24207). Envoy takes no longer pattern, and a second route would cost 8 KB a service.
_CLOSED_PATHS = (
    r"/(v2|inference\.GRPCInferenceService)/"
    r"(models/.*/trace|[Rr]epo|[Ll]og|[Tt]race|[Ss]ystem|[Cc]uda).*"
)
_FORBIDDEN = 403
_CLOSED_SENTENCE = "This is no part of what an InferenceService serves: its spec says how it runs."

_IDLE_MARGIN_SECONDS = 5
_RETRIES = 3
_RETRY_BASE_NANOSECONDS = 10_000_000
# So often a retry draws again when it drew a pod that was tried: of two pods, with three draws, one
# request in 8,000 met nothing but the dead one.
_HOST_ATTEMPTS = 10


def routes(service: Served) -> Resource:
    """Return how a service's requests find its pods."""
    return resource(
        service.name,
        RouteConfiguration(
            name=service.name,
            virtual_hosts=[
                VirtualHost(
                    name=service.name,
                    domains=["*"],
                    routes=[
                        _CLOSED,
                        _stream(service),
                        _unary(service, GRPC),
                        _unary(service, HTTP),
                    ],
                )
            ],
        ),
    )


def _stream(service: Served) -> Route:
    """Return the route of streams: they end when they end, unless nothing comes any more."""
    action = _action(service, GRPC)
    action.timeout.CopyFrom(Duration())
    action.idle_timeout.CopyFrom(Duration(seconds=service.limits.timeout_seconds))
    return Route(
        name="stream",
        match=RouteMatch(path=STREAM_PATH, grpc=_GRPC_ONLY),
        route=action,
        typed_per_filter_config={BUFFER: _UNBOUNDED},
    )


def _unary(service: Served, protocol: Protocol) -> Route:
    """Return the route of requests that are sent as a whole.

    The door takes each in before a pod sees it: slow clients hold no place there, and what a pod
    refused unseen can be sent to another.
    """
    limits = service.limits
    action = _action(service, protocol)
    action.timeout.CopyFrom(Duration(seconds=limits.timeout_seconds))
    # Nothing moves while a pod works: the time that a request may take has to end first.
    action.idle_timeout.CopyFrom(Duration(seconds=limits.timeout_seconds + _IDLE_MARGIN_SECONDS))
    return Route(
        name=protocol.word,
        match=RouteMatch(prefix="/", grpc=_GRPC_ONLY if protocol == GRPC else None),
        route=action,
        typed_per_filter_config={BUFFER: _at_most(limits.body_bytes)},
    )


def _action(service: Served, protocol: Protocol) -> RouteAction:
    return RouteAction(cluster=cluster_name(service.name, protocol), retry_policy=_UNSENT_ONLY)


@lru_cache(maxsize=64)
def _at_most(body_bytes: int) -> AnyMessage:
    size = UInt32Value(value=body_bytes)
    return packed(BufferPerRoute(buffer=Buffer(max_request_bytes=size)))


_UNBOUNDED = packed(BufferPerRoute(disabled=True))
_CLOSED = Route(
    name="closed",
    match=RouteMatch(safe_regex=RegexMatcher(regex=_CLOSED_PATHS)),
    direct_response=DirectResponseAction(
        status=_FORBIDDEN, body=DataSource(inline_string=_CLOSED_SENTENCE)
    ),
    typed_per_filter_config={BUFFER: _UNBOUNDED},
)
_GRPC_ONLY = RouteMatch.GrpcRouteMatchOptions()
_UNSENT_ONLY = RetryPolicy(
    retry_on="connect-failure,refused-stream,reset-before-request",
    num_retries=UInt32Value(value=_RETRIES),
    retry_back_off=RetryPolicy.RetryBackOff(base_interval=Duration(nanos=_RETRY_BASE_NANOSECONDS)),
    retry_host_predicate=[
        RetryPolicy.RetryHostPredicate(
            name="envoy.retry_host_predicates.previous_hosts",
            typed_config=packed(PreviousHostsPredicate()),
        )
    ],
    host_selection_retry_max_attempts=_HOST_ATTEMPTS,
)
