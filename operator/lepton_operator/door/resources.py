"""Resources of xDS: a typed message, and a version that is the hash of its bytes."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from enum import StrEnum

from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment
from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.config.route.v3.route_pb2 import RouteConfiguration
from envoy.service.runtime.v3.rtds_pb2 import Runtime
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import Message

_HASH_DIGITS = 16


def type_url(message: type[Message]) -> str:
    """Return the URL by which xDS names a type of messages."""
    return f"type.googleapis.com/{message.DESCRIPTOR.full_name}"


class Kind(StrEnum):
    """The types of resources, in the order in which a door has to get them.

    A route names clusters and a cluster waits for its endpoints: what is named goes first.
    """

    RUNTIME = type_url(Runtime)
    CLUSTER = type_url(Cluster)
    ENDPOINTS = type_url(ClusterLoadAssignment)
    LISTENER = type_url(Listener)
    ROUTES = type_url(RouteConfiguration)

    @property
    def word(self) -> str:
        """The last word of the URL, for people and for metrics."""
        return self.value.rsplit(".", 1)[-1]


@dataclass(frozen=True, slots=True)
class Resource:
    """One resource. Equal bytes have equal versions, whichever process made them."""

    kind: Kind
    name: str
    version: str
    body: bytes


def resource(name: str, message: Message) -> Resource:
    """Return the resource of this name."""
    body = message.SerializeToString(deterministic=True)
    version = hashlib.sha256(body).hexdigest()[:_HASH_DIGITS]
    return Resource(Kind(type_url(type(message))), name, version, body)


def packed(message: Message) -> AnyMessage:
    """Return a message for a field that takes any type; equal messages give equal bytes."""
    found = AnyMessage()
    found.Pack(message, deterministic=True)
    return found
