"""Who is let in: a door's own namespace, by its certificate, and nobody else."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest
from cryptography import x509
from envoy.config.core.v3.base_pb2 import Node
from envoy.service.discovery.v3.ads_pb2_grpc import AggregatedDiscoveryServiceStub
from envoy.service.discovery.v3.discovery_pb2 import (
    DeltaDiscoveryRequest,
    DeltaDiscoveryResponse,
)

from e2e.cluster.ports import free_port
from lepton_operator.door.resources import Kind
from lepton_operator.door.served import Endpoint
from tests.discovery.rig import LIMIT_SECONDS, NAMESPACE, Operator, a_service
from tests.door.authority import Authority

Pair = tuple[bytes, bytes] | tuple[None, None]


def door_of(authority: Authority, *names: x509.GeneralName) -> Pair:
    """Return the key and the certificate of a client with these names."""
    return authority.signer.issue(*names)


def spiffe(text: str) -> x509.UniformResourceIdentifier:
    return x509.UniformResourceIdentifier(text)


async def first_answer(
    operator: Operator,
    authority: Authority,
    pair: Pair,
    *,
    node: str = "door-0",
    patient: bool = False,
) -> DeltaDiscoveryResponse:
    """Ask for all clusters, and return the first answer."""
    credentials = grpc.ssl_channel_credentials(authority.pem(), *pair)
    async with grpc.aio.secure_channel(f"localhost:{operator.port}", credentials) as channel:

        async def ask() -> AsyncIterator[DeltaDiscoveryRequest]:
            yield DeltaDiscoveryRequest(
                node=Node(id=node, cluster=node), type_url=Kind.CLUSTER.value
            )

        call = AggregatedDiscoveryServiceStub(channel).DeltaAggregatedResources(
            ask(), timeout=LIMIT_SECONDS, wait_for_ready=patient
        )
        async for answer in call:
            assert isinstance(answer, DeltaDiscoveryResponse)
            return answer
    raise AssertionError("The stream ended without an answer.")


async def refusal(operator: Operator, authority: Authority, pair: Pair) -> grpc.StatusCode:
    """Open a stream and say nothing: what is sent to a stream that has ended hides its status."""
    credentials = grpc.ssl_channel_credentials(authority.pem(), *pair)
    async with grpc.aio.secure_channel(f"localhost:{operator.port}", credentials) as channel:
        call = AggregatedDiscoveryServiceStub(channel).DeltaAggregatedResources(
            timeout=LIMIT_SECONDS
        )
        code: grpc.StatusCode = await call.code()
        return code


@pytest.fixture
async def serving(operator: Operator) -> Operator:
    operator.put(a_service("digits", 18231, Endpoint("10.0.0.1", "a1b2c3", takes_requests=True)))
    return operator


async def test_a_door_gets_what_is_its_namespaces(serving: Operator, authority: Authority) -> None:
    pair = door_of(authority, spiffe("spiffe://lepton.ai/ns/team-a/door"))
    answer = await first_answer(serving, authority, pair)
    assert [each.name for each in answer.resources] == ["digits/grpc", "digits/http"]


async def test_a_door_gets_nothing_of_another_namespace_whatever_it_claims(
    serving: Operator, authority: Authority
) -> None:
    pair = door_of(authority, spiffe("spiffe://lepton.ai/ns/team-b/door"))
    answer = await first_answer(serving, authority, pair, node=NAMESPACE)
    assert not answer.resources
    assert not answer.removed_resources


@pytest.mark.parametrize(
    "names",
    [
        pytest.param([x509.DNSName("localhost")], id="of another kind: the operator's own"),
        pytest.param([x509.DNSName("spiffe.lepton.ai")], id="of a host"),
        pytest.param([spiffe("spiffe://lepton.ai/ns/team-a/pod")], id="of something else"),
        pytest.param([spiffe("spiffe://evil.ai/ns/team-a/door")], id="of another trust domain"),
        pytest.param([spiffe("spiffe://lepton.ai/ns/team-a/door/x")], id="with something behind"),
        pytest.param([spiffe("spiffe://lepton.ai/ns/../door")], id="of no namespace"),
        pytest.param(
            [
                spiffe("spiffe://lepton.ai/ns/team-a/door"),
                spiffe("spiffe://lepton.ai/ns/team-b/door"),
            ],
            id="of two doors",
        ),
    ],
)
async def test_a_certificate_that_names_no_door_is_refused(
    serving: Operator, authority: Authority, names: list[x509.GeneralName]
) -> None:
    refused = await refusal(serving, authority, door_of(authority, *names))
    assert refused == grpc.StatusCode.PERMISSION_DENIED
    assert serving.value("lepton_door_strangers_total") == 1


async def test_who_has_no_certificate_of_this_authority_is_not_heard(
    serving: Operator, authority: Authority, tmp_path: Path
) -> None:
    stranger = Authority(tmp_path / "stranger")
    door = spiffe("spiffe://lepton.ai/ns/team-a/door")
    for pair in ((None, None), door_of(stranger, door)):
        refused = await refusal(serving, authority, pair)
        assert refused == grpc.StatusCode.UNAVAILABLE
    assert serving.value("lepton_door_strangers_total") == 0
    assert serving.streams() == 0


async def test_renewed_certificates_are_used_without_a_restart(
    serving: Operator, authority: Authority
) -> None:
    before = door_of(authority, door := spiffe("spiffe://lepton.ai/ns/team-a/door"))
    renewed = Authority(serving.certificates)
    key, certificate = renewed.server("localhost")
    renewed.write(renewed.pem(), certificate, key)
    answer = await first_answer(serving, renewed, door_of(renewed, door))
    assert answer.resources
    with pytest.raises(grpc.aio.AioRpcError):
        await first_answer(serving, renewed, before)


async def test_a_server_without_certificates_waits_for_them(
    authority: Authority, tmp_path: Path
) -> None:
    folder = tmp_path / "late"
    operator = Operator(free_port(), folder)
    await operator.start()
    server = Authority(folder, authority.signer)
    key, certificate = server.server("localhost")
    server.write(server.pem(), certificate, key)
    pair = door_of(authority, spiffe("spiffe://lepton.ai/ns/team-a/door"))
    await first_answer(operator, authority, pair, patient=True)
    await operator.stop()
