"""One question about a digit, over HTTP/1.1 connections that are chosen at random, or over gRPC.

Lighter than the clients that people use: these share two cores with what is measured.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import grpc
from tritonclient.grpc import service_pb2

from e2e.clients import digits_body
from tests.fixtures import onnx_models

Ask = Callable[[], Awaitable[None]]

_HTTP_PORT, _GRPC_PORT = 8000, 8001
_METHOD = "/inference.GRPCInferenceService/ModelInfer"
_OK = b"http/1.1 200 "
_UNBOUNDED = 2**20


class InferenceError(Exception):
    """There was no answer, or another one than should be; the text says what."""


@asynccontextmanager
async def over_http(host: str, model: str, connections: int = 0) -> AsyncIterator[Ask]:
    """Ask over any idle one of so many connections that stay; with 0 each request has its own."""
    pool = _Pool(host, _http_request(host, model, keep=connections > 0), connections)
    pool.idle = [await pool.connect() for _ in range(connections)]
    try:
        yield pool.ask
    finally:
        for connection in pool.idle:
            connection.close()


@asynccontextmanager
async def over_grpc(host: str, model: str) -> AsyncIterator[Ask]:
    """Ask over one channel."""
    request = _grpc_request(model)
    async with grpc.aio.insecure_channel(f"{host}:{_GRPC_PORT}") as channel:
        infer = channel.unary_unary(_METHOD)

        async def ask() -> None:
            try:
                await infer(request)
            except grpc.aio.AioRpcError as error:
                raise InferenceError(f"{error.code().name}: {error.details()}") from error

        yield ask


class _Connection:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self.is_open = True

    async def ask(self, request: bytes) -> None:
        self._writer.write(request)
        head = (await self._reader.readuntil(b"\r\n\r\n")).lower()
        length = int(head.partition(b"content-length:")[2].partition(b"\r\n")[0] or 0)
        body = await self._reader.readexactly(length)
        self.is_open = b"connection: close" not in head
        if not head.startswith(_OK):
            status = head.partition(b"\r\n")[0].decode()
            raise InferenceError(f"{status}: {body[:200].decode()}")

    def close(self) -> None:
        self._writer.close()


@dataclass(slots=True)
class _Pool:
    host: str
    request: bytes
    connections: int
    idle: list[_Connection] = field(default_factory=list)
    _places: asyncio.Semaphore = field(init=False)
    _random: random.Random = field(default_factory=lambda: random.Random(0))  # noqa: S311

    def __post_init__(self) -> None:
        self._places = asyncio.Semaphore(self.connections or _UNBOUNDED)

    async def ask(self) -> None:
        try:
            async with self._places:
                await self._ask()
        except (OSError, EOFError) as error:
            raise InferenceError(f"{type(error).__name__}: {error}") from error

    async def connect(self) -> _Connection:
        return _Connection(*await asyncio.open_connection(self.host, _HTTP_PORT))

    async def _ask(self) -> None:
        connection = await self._taken()
        try:
            await connection.ask(self.request)
        except BaseException:
            connection.close()
            raise
        if self.connections and connection.is_open:
            self.idle.append(connection)
        else:
            connection.close()

    async def _taken(self) -> _Connection:
        """Return an idle connection; a new one in the place of one that was closed."""
        if not self.idle:
            return await self.connect()
        return self.idle.pop(self._random.randrange(len(self.idle)))


def _http_request(host: str, model: str, *, keep: bool) -> bytes:
    body = digits_body().encode()
    head = (
        f"POST /v2/models/{model}/infer HTTP/1.1",
        f"Host: {host}",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
        *(() if keep else ("Connection: close",)),
    )
    return "\r\n".join((*head, "", "")).encode() + body


def _grpc_request(model: str) -> bytes:
    images, _ = onnx_models.held_out_digits()
    given = images[:1]
    request = service_pb2.ModelInferRequest(model_name=model, raw_input_contents=[given.tobytes()])
    request.inputs.add(name="image", datatype="FP32", shape=given.shape)
    found: bytes = request.SerializeToString()
    return found
