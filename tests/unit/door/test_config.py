"""What the doors of a namespace are told: whole, and with the hash of its bytes as the version."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment
from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.config.route.v3.route_pb2 import RouteConfiguration
from envoy.service.runtime.v3.rtds_pb2 import Runtime
from google.protobuf import json_format
from google.protobuf.message import Message
from hypothesis import given
from hypothesis import strategies as st

from lepton_operator.door.config import door_config, service_config, service_of
from lepton_operator.door.resources import Kind, Resource, type_url
from lepton_operator.door.served import Endpoint, Limits, Served
from tests.conftest import Golden
from tests.unit.door.builders import LIMITS, PODS, a_served

TYPES: dict[str, type[Message]] = {
    type_url(each): each
    for each in (Cluster, ClusterLoadAssignment, Listener, RouteConfiguration, Runtime)
}


def read(resource: Resource) -> dict[str, Any]:
    message = TYPES[resource.kind].FromString(resource.body)
    text = json_format.MessageToJson(message, preserving_proto_field_name=True)
    found: dict[str, Any] = json.loads(text)
    return found


def test_everything_that_the_doors_of_a_namespace_are_told(golden: Golden) -> None:
    services = [a_served(target_milliseconds=250), a_served("letters", 10_001, endpoints=())]
    told = {f"{each.kind.word} {each.name}": read(each) for each in door_config(services)}
    golden("door/namespace", told)


def test_what_is_named_comes_before_what_names_it() -> None:
    words = [kind.word for kind in Kind]
    assert words.index("Cluster") < words.index("ClusterLoadAssignment")
    assert words.index("Cluster") < words.index("Listener") < words.index("RouteConfiguration")


names_of_services = st.from_regex(r"[a-z]([-a-z0-9]{0,38}[a-z0-9])?", fullmatch=True)
services = st.builds(
    Served,
    name=names_of_services,
    port=st.integers(10_000, 29_999),
    limits=st.builds(
        Limits,
        body_bytes=st.integers(1, 1 << 30),
        timeout_seconds=st.integers(1, 86_400),
        concurrency=st.integers(1, 1_000_000),
        queue=st.integers(0, 1_000_000),
    ),
    target_milliseconds=st.integers(1, 1 << 20),
    endpoints=st.lists(
        st.builds(
            Endpoint,
            address=st.ip_addresses(v=4).map(str),
            revision=st.from_regex(r"[0-9a-f]{0,10}", fullmatch=True),
            takes_requests=st.booleans(),
        ),
        max_size=4,
        unique_by=lambda each: each.address,
    ).map(lambda each: tuple(sorted(each))),
)


@given(one=services, other=services)
def test_versions_are_equal_if_and_only_if_the_bytes_are(one: Served, other: Served) -> None:
    every = [*service_config(one), *service_config(other), *service_config(replace(one))]
    for first in every:
        for second in every:
            assert (first.version == second.version) == (first.body == second.body)


@given(services)
def test_a_resource_says_whose_it_is(service: Served) -> None:
    assert {service_of(each.name) for each in service_config(service)} == {service.name}


@pytest.mark.parametrize(
    ("change", "kinds"),
    [
        ({"endpoints": PODS[:1]}, {Kind.ENDPOINTS}),
        ({"limits": replace(LIMITS, queue=3)}, {Kind.CLUSTER}),
        ({"limits": replace(LIMITS, concurrency=3)}, {Kind.CLUSTER}),
        ({"limits": replace(LIMITS, body_bytes=3)}, {Kind.ROUTES}),
        ({"limits": replace(LIMITS, timeout_seconds=3)}, {Kind.ROUTES}),
        ({"target_milliseconds": 7}, {Kind.RUNTIME}),
    ],
    ids=str,
)
def test_what_may_change_while_a_service_runs_touches_no_listener(
    change: dict[str, Any], kinds: set[Kind]
) -> None:
    before, after = door_config([a_served()]), door_config([a_served(**change)])
    changed = {one.kind for one, other in zip(before, after, strict=True) if one != other}
    assert changed == kinds


def test_no_resource_of_a_service_depends_on_another_service() -> None:
    alone = set(service_config(a_served()))
    assert alone <= set(door_config([a_served(), a_served("other", 10_002)]))
