"""The certificates of the chart, at the operator's own server."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest
from envoy.service.discovery.v3.ads_pb2_grpc import AggregatedDiscoveryServiceStub
from envoy.service.discovery.v3.discovery_pb2 import DeltaDiscoveryRequest

from e2e.cluster.ports import free_port
from e2e.installation import SYSTEM
from lepton_operator.door.resources import Kind
from lepton_operator.door.served import Endpoint
from tests.discovery.rig import Operator, a_service
from tests.helm import Document, Helm

TEAMS = ("team-a", "team-b")
HOST = f"lepton-operator-xds.{SYSTEM}.svc"
Parts = dict[str, bytes]


@pytest.fixture
def secrets(tmp_path: Path) -> dict[tuple[str, str], Parts]:
    """What a release puts into the cluster, by namespace and name."""

    def parts(document: Document) -> Parts:
        return {name: base64.b64decode(part) for name, part in document["data"].items()}

    documents = Helm(tmp_path).render({"door": {"namespaces": [*TEAMS]}})
    return {
        (each["metadata"]["namespace"], each["metadata"]["name"]): parts(each)
        for each in documents
        if each["kind"] == "Secret"
    }


@pytest.fixture
async def operator(
    secrets: dict[tuple[str, str], Parts], tmp_path: Path
) -> AsyncIterator[Operator]:
    for name, part in secrets[SYSTEM, "lepton-operator-xds"].items():
        (tmp_path / name).write_bytes(part)
    found = Operator(free_port(), tmp_path)
    for team in TEAMS:
        endpoint = Endpoint("10.0.0.1", "a1b2c3", takes_requests=True)
        found.put(a_service(f"of-{team}", 18231, endpoint), team)
    await found.start()
    yield found
    await found.stop()


@pytest.mark.parametrize("team", TEAMS)
async def test_a_door_gets_its_own_namespaces_services(
    operator: Operator, secrets: dict[tuple[str, str], Parts], team: str
) -> None:
    own = secrets[team, "lepton-door"]
    credentials = grpc.ssl_channel_credentials(own["ca.crt"], own["tls.key"], own["tls.crt"])
    named = [("grpc.ssl_target_name_override", HOST)]
    address = f"127.0.0.1:{operator.port}"
    async with grpc.aio.secure_channel(address, credentials, named) as channel:
        await channel.channel_ready()
        requests = iter([DeltaDiscoveryRequest(type_url=Kind.CLUSTER.value)])
        call = AggregatedDiscoveryServiceStub(channel).DeltaAggregatedResources(requests)
        answer = await call.read()
        call.cancel()
    assert [each.name for each in answer.resources] == [f"of-{team}/grpc", f"of-{team}/http"]
