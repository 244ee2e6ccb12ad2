"""The leader serves doors, and nobody else does; the next one has nothing to tell them."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import grpc
import pytest
from envoy.service.discovery.v3.ads_pb2_grpc import AggregatedDiscoveryServiceStub
from envoy.service.discovery.v3.discovery_pb2 import DeltaDiscoveryRequest

from e2e.cluster.ports import free_port
from e2e.deadlines import DEADLINES_SECONDS
from e2e.waiting import wait_until
from lepton_operator.door.resources import Kind
from tests.discovery.rig import operator_of
from tests.door.authority import Authority
from tests.integration.conftest import Namespace, Operators

Versions = Mapping[str, str]
ANSWER_SECONDS = DEADLINES_SECONDS["a server answers"]


@pytest.fixture
def authority(tmp_path: Path, namespace: Namespace) -> Authority:
    """The authority of the doors; its folder is the Secret of the namespace's doors."""
    found = Authority(tmp_path / "door")
    found.issue(namespace.name)
    return found


async def listeners(
    port: int, authority: Authority, had: Versions | None = None, seconds: float = ANSWER_SECONDS
) -> Versions:
    """Return what a door is told of listeners first; nothing if nobody says anything."""
    files = (authority.folder / name for name in ("ca.crt", "tls.key", "tls.crt"))
    credentials = grpc.ssl_channel_credentials(*(each.read_bytes() for each in files))

    async def ask() -> AsyncIterator[DeltaDiscoveryRequest]:
        yield DeltaDiscoveryRequest(
            type_url=Kind.LISTENER.value, initial_resource_versions=had or {}
        )

    async with grpc.aio.secure_channel(f"localhost:{port}", credentials) as channel:
        call = AggregatedDiscoveryServiceStub(channel).DeltaAggregatedResources(
            ask(), timeout=seconds
        )
        try:
            async for answer in call:
                return {each.name: each.version for each in answer.resources}
        except grpc.aio.AioRpcError as error:
            if error.code() != grpc.StatusCode.DEADLINE_EXCEEDED:
                raise
    return {}


async def known_listeners(port: int, authority: Authority) -> Versions:
    """Return what a door is told of listeners that comes when there are some.

    Who comes before the operator has taken in its own write is told that there is nothing.
    """
    async with asyncio.timeout(ANSWER_SECONDS):
        while not (told := await listeners(port, authority)):  # noqa: ASYNC110 - a process knows
            await asyncio.sleep(0.1)
    return told


async def test_only_the_leader_serves_doors_and_the_next_one_tells_them_nothing_new(
    namespace: Namespace, operators: Operators, authority: Authority, tmp_path: Path
) -> None:
    certificates = operator_of(authority, tmp_path / "operator").certificates
    first_port, second_port = free_port(), free_port()
    first, second = (
        operators.start(
            identity,
            xds={"port": port, "certificates": str(certificates)},
        )
        for identity, port in (("first", first_port), ("second", second_port))
    )
    namespace.apply("InferenceService", "digits", spec={"model": {"name": "digits"}})
    service = wait_until(lambda: namespace.get("Service", "digits"), bool, "an object is seen")
    assert service
    (target,) = {each["targetPort"] for each in service["spec"]["ports"]}
    first.wait_until_it_says("Doors are served")
    told = await known_listeners(first_port, authority)
    assert list(told) == [f"digits:{target}"]
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await listeners(second_port, authority)
    assert refused.value.code() == grpc.StatusCode.UNAVAILABLE

    first.signal(signal.SIGTERM)
    assert first.wait() == 0
    second.wait_until_it_says("Doors are served")
    assert await listeners(second_port, authority) == told
    assert await listeners(second_port, authority, had=told, seconds=1) == {}


async def test_two_services_never_share_a_port(namespace: Namespace, operators: Operators) -> None:
    operators.start()
    names = [f"service-{number}" for number in range(30)]
    for name in names:
        namespace.apply("InferenceService", name, spec={"model": {"name": "digits"}})
    found = wait_until(
        lambda: namespace.list("Service"), lambda seen: len(seen) == len(names), "an object is seen"
    )
    ports = [{each["targetPort"] for each in service["spec"]["ports"]} for service in found]
    assert {len(each) for each in ports} == {1}
    assert len(set.union(*ports)) == len(names)
