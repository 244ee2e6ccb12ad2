"""A proxy between operator and API server that knows every write and makes trouble on purpose.

The operator's own token goes through, so its rights are tested too. Each start of the operator gets
a door (a port) of its own: what a dead one had still in its sockets is dropped with its door.
"""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field

import aiohttp
from aiohttp import web

from tests.resilience import writes
from tests.resilience.experiment import Experiment, Sent
from tests.resilience.faults import (
    GONE,
    Answer,
    CutWatch,
    DelayedWatch,
    ExpiredWatch,
    Kill,
    LostAnswer,
    WatchFault,
)

_HOST = "127.0.0.1"
_HOP_BY_HOP = frozenset(
    {"connection", "content-length", "date", "host", "keep-alive", "server", "transfer-encoding"}
)


@dataclass(slots=True)
class Door:
    """Where one start of the operator comes in."""

    port: int = 0
    shut: bool = False
    runner: web.AppRunner | None = None
    watches: set[asyncio.Task[None]] = field(default_factory=set)

    @property
    def url(self) -> str:
        return f"http://{_HOST}:{self.port}"

    def slam(self) -> None:
        """Let nothing through any more; what is on its way to the API server arrives."""
        self.shut = True
        for each in self.watches:
            each.cancel()


class FaultProxy:
    def __init__(self, server: str, trust: ssl.SSLContext) -> None:
        self._server = server
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, ssl=trust), auto_decompress=False
        )
        self._door: Door | None = None
        self.experiment: Experiment | None = None

    async def close(self) -> None:
        await self._close_door()
        await self._session.close()

    async def open_door(self) -> Door:
        """Return a new door; the one before is gone."""
        await self._close_door()
        door = Door()
        app = web.Application(client_max_size=1 << 24)

        async def enter(request: web.Request) -> web.StreamResponse:
            return await self._enter(door, request)

        app.router.add_route("*", "/{path:.*}", enter)
        door.runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await door.runner.setup()
        site = web.TCPSite(door.runner, _HOST, 0)
        await site.start()
        door.port = door.runner.addresses[0][1]
        self._door = door
        return door

    async def _close_door(self) -> None:
        if self._door is None or self._door.runner is None:
            return
        self._door.slam()
        await self._door.runner.cleanup()

    async def _enter(self, door: Door, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        if door.shut:
            return _broken(request)
        if request.query.get("watch") in ("true", "1"):
            return await self._watch(door, request)
        found = writes.parse(request.method, request.path, body)
        experiment = self.experiment
        if found is None or experiment is None or experiment.namespace != found[0]:
            return await self._forward(request, body)
        return await self._write(experiment, experiment.note(found[1]), request, body)

    async def _write(
        self, experiment: Experiment, sent: Sent, request: web.Request, body: bytes
    ) -> web.StreamResponse:
        fault = experiment.due(sent.write)
        sent.fault = str(fault or "")
        if isinstance(fault, Kill) and fault.moment == "before":
            experiment.kill()
            return _broken(request)
        if isinstance(fault, Answer):
            return web.json_response(fault.body(), status=fault.status, headers=fault.headers)
        answer = await self._forward(request, body)
        sent.status, sent.uid = answer.status, _uid(answer)
        if isinstance(fault, Kill):
            experiment.kill()
        return _broken(request) if isinstance(fault, Kill | LostAnswer) else answer

    async def _forward(self, request: web.Request, body: bytes) -> web.Response:
        async with self._ask(request, body) as answer:
            text = await answer.read()
            return web.Response(status=answer.status, headers=_kept(answer.headers), body=text)

    def _ask(
        self, request: web.Request, body: bytes
    ) -> AbstractAsyncContextManager[aiohttp.ClientResponse]:
        return self._session.request(
            request.method,
            f"{self._server}{request.raw_path}",
            headers={**_kept(request.headers), "Accept-Encoding": "identity"},
            data=body or None,
            timeout=aiohttp.ClientTimeout(total=None),
        )

    async def _watch(self, door: Door, request: web.Request) -> web.StreamResponse:
        async with self._ask(request, b"") as answer:
            down = web.StreamResponse(status=answer.status, headers=_kept(answer.headers))
            await down.prepare(request)
            copying = asyncio.create_task(self._copy(answer, down, request))
            door.watches.add(copying)
            try:
                await asyncio.wait({copying})
            finally:
                copying.cancel()
                door.watches.discard(copying)
            if copying.cancelled() or copying.exception() is not None:
                return _broken(request)
            return down

    async def _copy(
        self, answer: aiohttp.ClientResponse, down: web.StreamResponse, request: web.Request
    ) -> None:
        resource = request.path.rsplit("/", 1)[-1]
        async for line in lines(answer):
            fault = self._due_on_watch(resource, line)
            if isinstance(fault, CutWatch):
                raise ConnectionResetError(str(fault))
            if isinstance(fault, ExpiredWatch):
                await down.write(json.dumps(GONE).encode() + b"\n")
                return
            if isinstance(fault, DelayedWatch):
                # All that comes later waits behind it, so the order stays what it was.
                await asyncio.sleep(fault.seconds)
            await down.write(line)

    def _due_on_watch(self, resource: str, line: bytes) -> WatchFault | None:
        return self.experiment.due_on_watch(resource, line) if self.experiment else None


async def lines(answer: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    """Yield whole events, however long, and however they were cut on their way."""
    rest = b""
    async for chunk in answer.content.iter_any():
        *whole, rest = (rest + chunk).split(b"\n")
        for line in whole:
            yield line + b"\n"


def _uid(answer: web.Response) -> str:
    """Return whom an answer is about: it holds the object, or a Status with its details."""
    body = json.loads(answer.body) if isinstance(answer.body, bytes) else {}
    about = body.get("details" if body.get("kind") == "Status" else "metadata") or {}
    return str(about.get("uid", ""))


def _kept(headers: Mapping[str, str]) -> dict[str, str]:
    return {name: text for name, text in headers.items() if name.lower() not in _HOP_BY_HOP}


def _broken(request: web.Request) -> web.Response:
    """Break the connection: the client reads a reset and never what is returned here."""
    if request.transport is not None:
        request.transport.abort()
    return web.Response()
