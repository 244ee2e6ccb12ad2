"""A door's side of the delta protocol, as Envoy speaks it: it tells what it has when it is back."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Protocol

import grpc
from envoy.service.discovery.v3.ads_pb2_grpc import AggregatedDiscoveryServiceStub
from envoy.service.discovery.v3.discovery_pb2 import (
    DeltaDiscoveryRequest,
    DeltaDiscoveryResponse,
)

from lepton_operator.door.resources import Kind

_RETRY_SECONDS = 0.1


class Told(Protocol):
    """Who is told what a door has."""

    def take(self, kind: Kind, name: str, body: bytes) -> None: ...

    def drop(self, kind: Kind, name: str) -> None: ...


@dataclass(slots=True)
class Subscriber:
    """One door. What it has outlives its streams; every answer is acknowledged."""

    address: str
    credentials: grpc.ChannelCredentials
    told: Told
    _versions: dict[Kind, dict[str, str]] = field(
        default_factory=lambda: {Kind.CLUSTER: {}, Kind.ENDPOINTS: {}, Kind.LISTENER: {}}
    )

    async def run(self) -> None:
        """Stay subscribed, for ever."""
        while True:
            # The second is raised by a write to a stream that ended since it was read from.
            with suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
                await self._subscribe()
            await asyncio.sleep(_RETRY_SECONDS)

    async def _subscribe(self) -> None:
        asked = set(self._versions[Kind.ENDPOINTS])
        async with grpc.aio.secure_channel(self.address, self.credentials) as channel:
            stream = AggregatedDiscoveryServiceStub(channel).DeltaAggregatedResources()
            for each in (Kind.CLUSTER, Kind.LISTENER, *([Kind.ENDPOINTS] if asked else [])):
                await stream.write(self._first(each))
            while (answer := await stream.read()) is not grpc.aio.EOF:
                self._receive(answer)
                for reply in self._replies(answer, asked):
                    await stream.write(reply)

    def _first(self, kind: Kind) -> DeltaDiscoveryRequest:
        had = self._versions[kind]
        return DeltaDiscoveryRequest(
            type_url=kind.value,
            resource_names_subscribe=sorted(had) if kind is Kind.ENDPOINTS else (),
            initial_resource_versions=had,
        )

    def _replies(
        self, answer: DeltaDiscoveryResponse, asked: set[str]
    ) -> Iterator[DeltaDiscoveryRequest]:
        """Yield what acknowledges an answer, and asks for the endpoints of new clusters."""
        yield DeltaDiscoveryRequest(type_url=answer.type_url, response_nonce=answer.nonce)
        there = set(self._versions[Kind.CLUSTER])
        new, gone = there - asked, asked - there
        if new or gone:
            yield DeltaDiscoveryRequest(
                type_url=Kind.ENDPOINTS.value,
                resource_names_subscribe=sorted(new),
                resource_names_unsubscribe=sorted(gone),
            )
        asked ^= new | gone
        for name in gone:
            self._versions[Kind.ENDPOINTS].pop(name, None)

    def _receive(self, answer: DeltaDiscoveryResponse) -> None:
        kind = Kind(answer.type_url)
        for each in answer.resources:
            self._versions[kind][each.name] = each.version
            self.told.take(kind, each.name, each.resource.value)
        for name in answer.removed_resources:
            self._versions[kind].pop(name, None)
            self.told.drop(kind, name)
