"""The doors of each namespace, as far as the operator sees them: no Envoy runs here.

They are fed by the operator's own stream, over mutual TLS, and keep what they know while there is
no operator. At the addresses of their pods, which are of this machine only, they answer as the
door's PID 1 does.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import grpc
from aiohttp import web
from envoy.config.core.v3.health_check_pb2 import HealthStatus
from envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment

from lepton_operator.build.door import HEALTH_PORT
from lepton_operator.door.config import service_of
from lepton_operator.door.resources import Kind
from tests.door.authority import Authority
from tests.resilience.ads import Subscriber
from tests.resilience.history import World

REQUEST_SECONDS = 0.3
"""So long a pod that is taken out of rotation has a request in flight."""
LISTENER_SECONDS = 0.5
"""So long a new listener waits for its routes before it takes connections."""

_HTTP = "/http"


@dataclass(slots=True)
class Door:
    """What the doors of a namespace were told; all of them the same."""

    listener_seconds: float
    looked_at: Callable[[], None] = lambda: None
    listeners: dict[str, float] = field(default_factory=dict)  # since when, by `service:port`
    removed: set[str] = field(default_factory=set)  # services of which a cluster was withdrawn
    _endpoints: dict[str, Mapping[str, int]] = field(default_factory=dict)  # health, by address
    _draining_since: dict[str, float] = field(default_factory=dict)  # by address

    @property
    def rotation(self) -> set[str]:
        """The addresses that new requests are sent to."""
        return {
            address
            for cluster, found in self._endpoints.items()
            if cluster.endswith(_HTTP)
            for address, health in found.items()
            if health == HealthStatus.HEALTHY
        }

    def in_flight(self) -> dict[str, int]:
        """Return the requests of each pod that gets no new ones."""
        now = time.monotonic()
        return {
            address: int(now - since < REQUEST_SECONDS)
            for address, since in self._draining_since.items()
        }

    def listens_on(self) -> list[int]:
        now = time.monotonic()
        return [
            int(name.rpartition(":")[2])
            for name, since in self.listeners.items()
            if now - since >= self.listener_seconds
        ]

    def take(self, kind: Kind, name: str, body: bytes) -> None:
        """Take in a resource that is new or changed."""
        if kind is Kind.LISTENER:
            self.listeners.setdefault(name, time.monotonic())
        elif kind is Kind.ENDPOINTS:
            self._endpoints[name] = _health(ClusterLoadAssignment.FromString(body))
            self._look_who_drains()
        self.looked_at()

    def drop(self, kind: Kind, name: str) -> None:
        """Take in that a resource is withdrawn."""
        if kind is Kind.LISTENER:
            self.listeners.pop(name, None)
        elif kind is Kind.CLUSTER:
            self.removed.add(service_of(name))
        self._endpoints.pop(name, None)
        self._look_who_drains()
        self.looked_at()

    def forget(self) -> None:
        """Take in that the last pod is gone, and all that it knew."""
        for each in (self.listeners, self.removed, self._endpoints, self._draining_since):
            each.clear()
        self.looked_at()

    def _look_who_drains(self) -> None:
        now = time.monotonic()
        draining = {
            address
            for found in self._endpoints.values()
            for address, health in found.items()
            if health == HealthStatus.DRAINING
        }
        before = self._draining_since
        self._draining_since = {each: before.get(each, now) for each in draining}


def _health(assignment: ClusterLoadAssignment) -> Mapping[str, int]:
    return {
        each.endpoint.address.socket_address.address: each.health_status
        for locality in assignment.endpoints
        for each in locality.lb_endpoints
    }


class Doors:
    """Plays the doors of all namespaces; `certificates` are what the operator shows them."""

    def __init__(self, folder: Path, xds_port: int) -> None:
        self.listener_seconds = LISTENER_SECONDS
        self._xds_port = xds_port
        self._authority = Authority(folder / "door")
        self.certificates = folder / "xds"
        key, certificate = self._authority.server("localhost")
        server = Authority(self.certificates, self._authority.signer)
        server.write(self._authority.pem(), certificate, key)
        self._at: dict[str, Door] = {}  # by the address of a door's pod
        self._sites: dict[str, web.TCPSite] = {}
        self._runner: web.AppRunner | None = None

    @property
    def settings(self) -> Mapping[str, object]:
        """What an operator is told of where it serves doors."""
        return {"port": self._xds_port, "certificates": str(self.certificates)}

    async def start(self) -> None:
        app = web.Application()
        app.router.add_get("/in-flight", self._in_flight)
        app.router.add_get("/listeners", self._listeners)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()

    async def close(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    @asynccontextmanager
    async def of(self, namespace: str, world: World) -> AsyncIterator[Door]:
        """Play the doors of a namespace; they come and go with their pods in this world."""
        door, credentials = Door(self.listener_seconds), self._credentials(namespace)
        async with asyncio.TaskGroup() as group:
            following = group.create_task(self._follow(world, door, credentials))
            try:
                yield door
            finally:
                following.cancel()
        await self._listen_at(set(), door)

    def _credentials(self, namespace: str) -> grpc.ChannelCredentials:
        self._authority.issue(namespace)
        names = ("ca.crt", "tls.key", "tls.crt")
        return grpc.ssl_channel_credentials(
            *((self._authority.folder / name).read_bytes() for name in names)
        )

    async def _follow(self, world: World, door: Door, credentials: grpc.ChannelCredentials) -> None:
        """Be there while there are pods; those that come after the last one know nothing."""
        news = asyncio.Event()
        world.followers.append(lambda *_: news.set())
        subscribed: asyncio.Task[None] | None = None
        try:
            while True:
                news.clear()
                addresses = set(_addresses(world))
                await self._listen_at(addresses, door)
                if addresses and subscribed is None:
                    subscriber = Subscriber(f"localhost:{self._xds_port}", credentials, door)
                    subscribed = asyncio.create_task(subscriber.run(), name="a door's stream")
                elif subscribed is not None and not addresses:
                    await _ended(subscribed)
                    subscribed = None
                    door.forget()
                await news.wait()
        finally:
            await _ended(subscribed)

    async def _listen_at(self, addresses: set[str], door: Door) -> None:
        """Answer at these addresses, and no more at others of these doors."""
        for address in addresses - self._at.keys():
            self._at[address] = door
            self._sites[address] = web.TCPSite(self._running, address, HEALTH_PORT)
            await self._sites[address].start()
        mine = {address for address, whose in self._at.items() if whose is door}
        for address in mine - addresses:
            del self._at[address]
            await self._sites.pop(address).stop()

    @property
    def _running(self) -> web.AppRunner:
        if self._runner is None:
            raise RuntimeError("The doors were not started.")
        return self._runner

    async def _in_flight(self, request: web.Request) -> web.Response:
        found = self._asked(request).in_flight()
        return web.json_response({f"{address}:8000": count for address, count in found.items()})

    async def _listeners(self, request: web.Request) -> web.Response:
        return web.json_response(self._asked(request).listens_on())

    def _asked(self, request: web.Request) -> Door:
        if request.transport is None:
            raise web.HTTPServiceUnavailable
        address, *_ = request.transport.get_extra_info("sockname")
        return self._at[address]


def _addresses(world: World) -> Iterator[str]:
    for pod in world.list("pods"):
        address = pod["status"].get("podIP")
        if address and pod["metadata"]["labels"].get("lepton.ai/role") == "door":
            yield str(address)


async def _ended(task: asyncio.Task[None] | None) -> None:
    if task is not None:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
