"""The xDS server: one delta stream a door, with the resources of its own namespace only."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import grpc
from envoy.service.discovery.v3 import ads_pb2_grpc
from envoy.service.discovery.v3.discovery_pb2 import (
    DeltaDiscoveryRequest,
    DeltaDiscoveryResponse,
)

from lepton_operator import logs
from lepton_operator.door.catalogue import Catalogue
from lepton_operator.door.certificates import Certificates, namespace_of
from lepton_operator.door.resources import Kind
from lepton_operator.door.subscriptions import Refusal, Subscriptions, TooManyNamesError
from lepton_operator.metrics import Metrics
from lepton_operator.settings import Xds

_RETRY_SECONDS = 2.0
# A door that vanished without a word is noticed; a door may ask whether we are there as often.
_OPTIONS = (
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.http2.min_ping_interval_without_data_ms", 1_000),
    ("grpc.http2.max_ping_strikes", 0),
    ("grpc.so_reuseport", 0),
)

_log = logs.logger(__name__)


@dataclass(slots=True)
class _Stream:
    """A door's subscriptions; `news` is set when there may be something to send."""

    subscriptions: Subscriptions
    news: asyncio.Event = field(default_factory=asyncio.Event)

    def touch(self, kind: Kind, name: str) -> None:
        self.subscriptions.touch(kind, name)
        self.news.set()

    def review(self, service: str) -> None:
        self.subscriptions.review(service)
        self.news.set()

    def receive(self, request: DeltaDiscoveryRequest) -> Refusal | None:
        refusal = self.subscriptions.receive(request)
        self.news.set()
        return refusal


class DiscoveryService(ads_pb2_grpc.AggregatedDiscoveryServiceServicer):  # type: ignore[misc]
    """Aggregated discovery, delta variant; the other one is not offered."""

    def __init__(self, catalogue: Catalogue, metrics: Metrics) -> None:
        self._catalogue = catalogue
        self._metrics = metrics

    async def DeltaAggregatedResources(  # noqa: N802 - the protocol's name
        self, requests: AsyncIterator[DeltaDiscoveryRequest], context: grpc.aio.ServicerContext
    ) -> AsyncIterator[DeltaDiscoveryResponse]:
        """Answer a door for as long as it stays."""
        # Now or never: gRPC frees what a context stands for, and to read it then is fatal.
        namespace, peer = namespace_of(context.auth_context()), context.peer()
        if namespace is None:
            await self._refuse(context, peer)
            return
        streams = self._metrics.door_streams.labels(namespace)
        streams.inc()
        _log.info("A door is connected", namespace=namespace, peer=peer)
        try:
            async for answer in self._answers(namespace, requests):
                self._metrics.door_pushes.labels(Kind(answer.type_url).word).inc()
                yield answer
        finally:
            streams.dec()
            _log.info("A door is gone", namespace=namespace, peer=peer)

    async def _refuse(self, context: grpc.aio.ServicerContext, peer: str) -> None:
        self._metrics.door_strangers.inc()
        _log.warning("A client whose certificate names no door is refused", peer=peer)
        await context.abort(
            grpc.StatusCode.PERMISSION_DENIED,
            "The client certificate names no door: its one name must be "
            "spiffe://lepton.ai/ns/NAMESPACE/door.",
        )

    async def _answers(
        self, namespace: str, requests: AsyncIterator[DeltaDiscoveryRequest]
    ) -> AsyncIterator[DeltaDiscoveryResponse]:
        stream = _Stream(Subscriptions(self._catalogue.shelf(namespace)))

        async def read() -> None:
            try:
                async for request in requests:
                    refusal = stream.receive(request)
                    if refusal is not None:
                        self._say(namespace, refusal)
            except TooManyNamesError as error:
                _log.warning("A door is sent away", namespace=namespace, error=str(error))

        with self._catalogue.followed(namespace, stream):
            reading = asyncio.create_task(read(), name=f"door of {namespace}")
            reading.add_done_callback(lambda _: stream.news.set())
            try:
                while not reading.done():
                    await stream.news.wait()
                    stream.news.clear()
                    while answer := stream.subscriptions.answer():
                        yield answer  # waits while the door's window is full
            finally:
                reading.cancel()
                await asyncio.gather(reading, return_exceptions=True)

    def _say(self, namespace: str, refusal: Refusal) -> None:
        self._metrics.door_nacks.labels(refusal.kind.word).inc()
        _log.error(
            "A door refuses its configuration, and keeps what it had: a defect of the operator",
            namespace=namespace,
            services=",".join(refusal.services),
            kind=refusal.kind.word,
            error=refusal.message,
        )


async def serve(settings: Xds, catalogue: Catalogue, metrics: Metrics) -> None:
    """Serve until cancelled; what streams are open end then at once."""
    server = grpc.aio.server(options=_OPTIONS)
    ads_pb2_grpc.add_AggregatedDiscoveryServiceServicer_to_server(
        DiscoveryService(catalogue, metrics), server
    )
    credentials = await _credentials(Certificates(settings.certificates))
    server.add_secure_port(f"0.0.0.0:{settings.port}", credentials)
    await server.start()
    _log.info("Doors are served", port=settings.port)
    try:
        await server.wait_for_termination()
    finally:
        await server.stop(grace=None)


async def _credentials(certificates: Certificates) -> grpc.ServerCredentials:
    """Wait for the certificates: without them trainings and models go on all the same."""
    said = False
    while True:
        try:
            return certificates.credentials()
        except OSError as error:
            if not said:
                _log.warning(
                    "No door can be served: mount the Secret lepton-operator-xds", error=str(error)
                )
                said = True
            await asyncio.sleep(_RETRY_SECONDS)
