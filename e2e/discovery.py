"""What the operator tells a door, asked for with any namespace's certificate."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterable

import grpc
from envoy.service.discovery.v3.ads_pb2_grpc import AggregatedDiscoveryServiceStub
from envoy.service.discovery.v3.discovery_pb2 import DeltaDiscoveryRequest

from e2e.certificates import door_identity
from e2e.installation import SYSTEM, authority_of_doors
from e2e.kubectl import Kubectl
from e2e.operators import OPERATORS, leader_uid
from lepton_operator.door.resources import Kind

_HOST = f"lepton-operator-xds.{SYSTEM}.svc"
_PORT = 18000
_SECONDS = 5.0


async def told_to_a_door_of(kubectl: Kubectl, namespace: str, service: str) -> Counter[str]:
    """Return how many resources a door of this namespace gets, by their kind.

    It asks for all that there is, and for a service by its name, in whichever namespace that is.
    """
    address = await asyncio.to_thread(_leaders_address, kubectl)
    credentials = await asyncio.to_thread(_credentials, kubectl, namespace)
    options = (
        ("grpc.ssl_target_name_override", _HOST),
        ("grpc.max_receive_message_length", -1),
    )
    found: Counter[str] = Counter()
    async with grpc.aio.secure_channel(address, credentials, options) as channel:
        call = AggregatedDiscoveryServiceStub(channel).DeltaAggregatedResources(
            _requests(service), timeout=_SECONDS
        )
        try:
            async for answer in call:
                found[Kind(answer.type_url).word] += len(answer.resources)
        except grpc.aio.AioRpcError as error:
            if error.code() != grpc.StatusCode.DEADLINE_EXCEEDED:
                raise
    return found


async def _requests(service: str) -> AsyncIterator[DeltaDiscoveryRequest]:
    names: dict[Kind, Iterable[str]] = {
        Kind.CLUSTER: ("*",),
        Kind.LISTENER: ("*",),
        Kind.ENDPOINTS: (f"{service}/http", f"{service}/grpc"),
        Kind.ROUTES: (service,),
    }
    for kind, wanted in names.items():
        yield DeltaDiscoveryRequest(type_url=kind.value, resource_names_subscribe=wanted)
    await asyncio.sleep(_SECONDS)


def _leaders_address(kubectl: Kubectl) -> str:
    uid = leader_uid(kubectl)
    pods = kubectl.within(SYSTEM).list("pods", OPERATORS)
    (address,) = [pod["status"]["podIP"] for pod in pods if pod["metadata"]["uid"] == uid]
    return f"{address}:{_PORT}"


def _credentials(kubectl: Kubectl, namespace: str) -> grpc.ChannelCredentials:
    """Return what the chart would issue for a namespace, signed by the chart's authority."""
    authority = authority_of_doors(kubectl)
    pair = authority.issue(door_identity(namespace))
    return grpc.ssl_channel_credentials(authority.pem(), pair.key, pair.certificate)
