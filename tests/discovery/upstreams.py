"""Pods as a door sees them: an HTTP and a gRPC server at an address of their own."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

import grpc
from aiohttp import web

from lepton_operator.build.serving import GRPC_PORT, HTTP_PORT
from lepton_operator.door.served import Endpoint

SERVICE = "inference.GRPCInferenceService"
UNARY, STREAM = f"/{SERVICE}/ModelInfer", f"/{SERVICE}/ModelStreamInfer"
_MAX_BODY_BYTES = 1 << 24


@dataclass
class Pod:
    """Answers with its own name, once the time is over that the path or the message asks for.

    `?held` and the message `held` ask for its answer when the test lets it.
    """

    address: str
    revision: str
    seen: list[str] = field(default_factory=list)
    is_broken: bool = False
    let_go: asyncio.Event = field(default_factory=asyncio.Event)

    def endpoint(self, *, takes_requests: bool = True) -> Endpoint:
        return Endpoint(self.address, self.revision, takes_requests)

    async def http(self, request: web.Request) -> web.Response:
        await request.read()
        self.seen.append(request.path)
        seconds = request.query.get("sleep")
        await asyncio.sleep(float(seconds or 0))
        if "held" in request.query:
            await self.let_go.wait()
        status = 500 if self.is_broken else int(request.query.get("status", "200"))
        return web.Response(text=self.address, status=status)

    async def unary(self, message: bytes, _: object) -> bytes:
        self.seen.append(UNARY)
        if message == b"held":
            await self.let_go.wait()
        else:
            await asyncio.sleep(float(message or 0) if len(message) < 9 else 0)
        return self.address.encode()

    async def stream(self, messages: AsyncIterator[bytes], _: object) -> AsyncIterator[bytes]:
        self.seen.append(STREAM)
        async for message in messages:
            yield self.address.encode() + b" " + message[:16]


@asynccontextmanager
async def pod(revision: str = "a1b2c3") -> AsyncIterator[Pod]:
    """Serve at a loopback address that nobody else has."""
    found = Pod("", revision)
    application = web.Application(client_max_size=_MAX_BODY_BYTES)
    application.router.add_route("*", "/{path:.*}", found.http)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    found.address = await _at_an_address_of_its_own(runner)
    server = grpc.aio.server(options=(("grpc.max_receive_message_length", _MAX_BODY_BYTES),))
    methods = {
        "ModelInfer": grpc.unary_unary_rpc_method_handler(found.unary),
        "ModelStreamInfer": grpc.stream_stream_rpc_method_handler(found.stream),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, methods),))
    server.add_insecure_port(f"{found.address}:{GRPC_PORT}")
    await server.start()
    try:
        yield found
    finally:
        found.let_go.set()
        await server.stop(None)
        await runner.cleanup()


async def _at_an_address_of_its_own(runner: web.AppRunner) -> str:
    while True:
        address = f"127.{secrets.randbelow(250) + 1}.{secrets.randbelow(250)}.1"
        with suppress(OSError):  # another pod is there
            await web.TCPSite(runner, address, HTTP_PORT).start()
            return address
