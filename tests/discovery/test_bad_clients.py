"""Clients that keep to no rule, before a real Envoy: each is refused, and nobody else notices."""

from __future__ import annotations

import asyncio
import select
import socket
import struct
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

import grpc
import pytest

from tests.closed_paths import CALLS, CLOSED, DISGUISED
from tests.discovery.conftest import Scene
from tests.discovery.http2 import (
    END_HEADERS,
    END_STREAM,
    Connection,
    Type,
    block,
    cancel,
    connect,
    frame,
    request,
)
from tests.discovery.rig import LIMIT_SECONDS, until
from tests.discovery.upstreams import SERVICE, STREAM, UNARY, Pod

MIB = 1 << 20
TWO_GB = 2_000_000_000
BODY_BYTES = 64 * MIB  # the chart's default
HEAD = b"POST / HTTP/1.1\r\nHost: digits\r\n"
GRPC = {"content_type": "application/grpc", "te": "trailers"}


async def served(scene: Scene, **limits: int) -> Pod:
    one, _ = scene.pods
    scene.serve(one.endpoint(), **limits)
    await scene.until_served()
    return one


async def still_answers(scene: Scene, pod: Pod) -> bool:
    return await scene.get() == (200, pod.address)


async def answers_again(scene: Scene, pod: Pod) -> None:
    """A door that was short of memory takes requests again once it has looked at it anew."""
    end = time.monotonic() + LIMIT_SECONDS
    while not await still_answers(scene, pod):
        assert time.monotonic() < end, "the door answers nobody any more"
        await asyncio.sleep(0.05)


async def in_flight(scene: Scene, pod: Pod) -> int:
    """Return what this door has under way at a pod."""
    told = await asyncio.to_thread(scene.envoy.admin.in_flight)
    return sum(count for address, count in told.items() if address.startswith(f"{pod.address}:"))


async def comes_to(scene: Scene, pod: Pod, count: int) -> None:
    end = time.monotonic() + LIMIT_SECONDS
    while await in_flight(scene, pod) != count:
        assert time.monotonic() < end, f"not {count} in flight"
        await asyncio.sleep(0.05)


@dataclass
class Raw:
    """A connection of which every byte is ours."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def send(self, data: bytes) -> bool:
        """Return whether the door still took it."""
        try:
            self.writer.write(data)
            await self.writer.drain()
        except OSError:
            return False
        return True

    async def answer(self) -> str:
        """Return the answer, up to the end of the connection."""
        found = b""
        try:
            while piece := await self.reader.read(65536):
                found += piece
        except OSError:
            pass
        return found.decode()

    def vanish(self) -> None:
        """Close at once, with a reset in place of an end."""
        ours: socket.socket = self.writer.get_extra_info("socket")
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


@asynccontextmanager
async def raw(scene: Scene) -> AsyncIterator[Raw]:
    found = Raw(*await asyncio.open_connection("127.0.0.1", scene.port))
    try:
        yield found
    finally:
        found.writer.close()


async def asked(scene: Scene, text: bytes) -> str:
    """Return what the door answers to these bytes."""
    async with raw(scene) as client:
        await client.send(text)
        return await client.answer()


async def all_asked(scene: Scene, texts: Iterable[bytes]) -> list[str]:
    """Ask each on a connection of its own, at once: an answer without a body's end comes slowly."""
    return await asyncio.gather(*(asked(scene, each) for each in texts))


def declared(size: int) -> tuple[bytes, Callable[[bytes], bytes]]:
    return HEAD + b"Content-Length: %d\r\n\r\n" % size, lambda piece: piece


def chunked(_: int) -> tuple[bytes, Callable[[bytes], bytes]]:
    head = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
    return head, lambda piece: b"%x\r\n%b\r\n" % (len(piece), piece)


@pytest.mark.parametrize("how", [declared, chunked])
async def test_a_body_of_two_gigabytes_is_refused_and_never_held(
    scene: Scene, how: Callable[[int], tuple[bytes, Callable[[bytes], bytes]]]
) -> None:
    one = await served(scene, body_bytes=BODY_BYTES)
    head, wrapped = how(TWO_GB)
    before = peak = scene.envoy.resident_bytes()
    async with raw(scene) as client:
        answer = asyncio.create_task(client.answer())
        await client.send(head)
        for _ in range(TWO_GB // MIB):
            if answer.done() or not await client.send(wrapped(bytes(MIB))):
                break
            peak = max(peak, scene.envoy.resident_bytes())
        told = await answer
    assert told.startswith("HTTP/1.1 413 ")
    assert "limits.bodyBytes" in told
    assert peak - before < 1.5 * BODY_BYTES
    assert one.seen == []
    assert await still_answers(scene, one)


async def test_a_message_of_two_gigabytes_is_refused_and_never_held(scene: Scene) -> None:
    """This client keeps to no window either."""
    one = await served(scene, body_bytes=BODY_BYTES)
    before = peak = scene.envoy.resident_bytes()
    async with connect(scene.port) as client:
        await client.ask(1, request(UNARY, **GRPC))
        for sent in range(0, TWO_GB, MIB):
            if client.ended.is_set() or client.count(Type.RST_STREAM) or sent > 8 * BODY_BYTES:
                break
            await client.send(*(frame(Type.DATA, 0, 1, bytes(16384)) for _ in range(64)))
            peak = max(peak, scene.envoy.resident_bytes())
    assert client.count(Type.RST_STREAM) or client.ended.is_set()
    assert peak - before < 1.5 * BODY_BYTES
    assert one.seen == []
    assert await still_answers(scene, one)


def poured(port: int, ended: threading.Event) -> str:
    """Send a body without end as fast as the door takes it; return the first line of the answer."""
    head, wrapped = chunked(TWO_GB)
    piece = wrapped(bytes(MIB))
    with socket.create_connection(("127.0.0.1", port), 20) as client, suppress(OSError):
        client.sendall(head)
        while not ended.is_set() and not select.select([client], [], [], 0)[0]:
            client.sendall(piece)
        return client.recv(1024).decode().partition("\r\n")[0]
    return "reset"


async def streamed(scene: Scene) -> str:
    async def messages() -> AsyncIterator[bytes]:
        while True:
            yield bytes(MIB)

    async with scene.channel() as channel:
        try:
            await channel.stream_unary(UNARY)(messages())
        except grpc.aio.AioRpcError as error:
            return str(error.code().name)
    return "answered"


async def test_many_large_bodies_at_once_leave_the_door_within_its_memory(scene: Scene) -> None:
    """Each is allowed: 24 of 1 GB in a door of 512 MB. Without a bound they took all of 3.5 GB."""
    one = await served(scene, body_bytes=1 << 30)
    ended = threading.Event()
    http = [asyncio.to_thread(poured, scene.port, ended) for _ in range(16)]
    clients = asyncio.gather(*http, *(streamed(scene) for _ in range(8)))
    peak, end = 0, time.monotonic() + LIMIT_SECONDS
    while not clients.done() and time.monotonic() < end:
        peak = max(peak, scene.envoy.own_bytes())
        await asyncio.sleep(0.02)
    ended.set()
    told = await clients
    assert peak < 512 * MIB
    assert any(each.startswith("HTTP/1.1 503 ") for each in told), told
    assert "answered" not in told
    await comes_to(scene, one, 0)
    assert one.seen == []
    await answers_again(scene, one)


async def dripped(scene: Scene, head: bytes, drop: bytes) -> str:
    """Send a drop twice a second; return the answer."""
    async with raw(scene) as client:
        await client.send(head)
        answer = asyncio.create_task(client.answer())
        async for _ in every_half_second():
            if answer.done() or not await client.send(drop):
                return await answer
    raise AssertionError("a drip has no end")


async def every_half_second() -> AsyncIterator[bytes]:
    while True:
        yield b"0"
        await asyncio.sleep(0.5)


def slow_headers(scene: Scene) -> Awaitable[str]:
    return dripped(scene, b"GET / HTTP/1.1\r\n", b"x: y\r\n")


def slow_body(scene: Scene) -> Awaitable[str]:
    return dripped(scene, HEAD + b"Content-Length: 10000\r\n\r\n", b"x")


async def slow_message(scene: Scene) -> str:
    async with scene.channel() as channel:
        return bytes(await channel.stream_unary(UNARY)(every_half_second())).decode()


async def silent(scene: Scene) -> float:
    """As after a power cut: nothing ends the connection, and nobody answers the door's PING."""
    began = time.monotonic()
    async with connect(scene.port) as client:
        await client.ask(1, request(STREAM, **GRPC))
        await client.ended.wait()
    return time.monotonic() - began


async def test_slow_clients_hold_no_place_at_a_pod(scene: Scene) -> None:
    one = await served(scene, concurrency=1, queue=0)
    slow = [asyncio.ensure_future(each(scene)) for each in (slow_body, slow_message)]
    assert (await slow_headers(scene)).startswith("HTTP/1.1 408 ")
    assert await in_flight(scene, one) == 0
    assert await still_answers(scene, one)
    assert not any(each.done() for each in slow)
    for each in slow:
        each.cancel()
    await asyncio.gather(*slow, return_exceptions=True)


async def test_a_client_without_a_sign_of_life_loses_its_streams(scene: Scene) -> None:
    one = await served(scene, timeout_seconds=600)
    gone = asyncio.create_task(silent(scene))
    await comes_to(scene, one, 1)
    assert await gone < 40
    await comes_to(scene, one, 0)


async def waits_for_an_answer(client: Raw) -> None:
    await client.send(b"GET /?held HTTP/1.1\r\nHost: digits\r\n\r\n")


@pytest.mark.parametrize("leave", [Raw.vanish, lambda client: client.writer.close()])
async def test_what_a_client_that_vanishes_had_asked_is_in_flight_no_more(
    scene: Scene, leave: Callable[[Raw], None]
) -> None:
    one = await served(scene)
    async with raw(scene) as client:
        await waits_for_an_answer(client)
        await comes_to(scene, one, 1)
        leave(client)
        await comes_to(scene, one, 0)
    assert await still_answers(scene, one)


async def test_streams_of_a_client_that_vanishes_are_in_flight_no_more(scene: Scene) -> None:
    one = await served(scene)
    async with connect(scene.port) as client:
        for stream in (1, 3, 5):
            await client.ask(stream, request(STREAM, **GRPC))
        await comes_to(scene, one, 3)
        client.writer.transport.abort()
        await comes_to(scene, one, 0)


async def rapid_resets(client: Connection) -> None:
    for stream in range(1, 100_000, 2):
        head = frame(Type.HEADERS, END_HEADERS | END_STREAM, stream, block(request()))
        await client.send(head, cancel(stream))
        if client.ended.is_set():
            break


async def headers_without_end(client: Connection) -> None:
    await client.send(frame(Type.HEADERS, 0, 1, block(request())))
    for number in range(100_000):
        more = block({f"name-{number}": "x" * 100})
        await client.send(frame(Type.CONTINUATION, 0, 1, more))
        if client.ended.is_set():
            break


async def nothing_over_and_over(client: Connection) -> None:
    await client.ask(1, request())
    for _ in range(300_000):
        await client.send(frame(Type.DATA, 0, 1))
        if client.ended.is_set():
            break


@pytest.mark.parametrize("flood", [rapid_resets, headers_without_end, nothing_over_and_over])
async def test_a_flood_ends_its_own_connection_and_no_other(
    scene: Scene, flood: Callable[[Connection], Awaitable[None]]
) -> None:
    one = await served(scene)
    before = scene.envoy.resident_bytes()
    async with connect(scene.port) as client:
        await flood(client)
        async with asyncio.timeout(LIMIT_SECONDS):
            await client.ended.wait()
    assert scene.envoy.resident_bytes() - before < 32 * MIB
    assert await still_answers(scene, one)
    await comes_to(scene, one, 0)


async def test_more_streams_than_a_connection_may_have_are_refused(scene: Scene) -> None:
    one = await served(scene)
    async with connect(scene.port) as client:
        for stream in range(1, 3_000, 2):
            await client.ask(stream, request())
        await until(lambda: client.ended.is_set() or client.count(Type.RST_STREAM), "a refusal")
        assert await still_answers(scene, one)
        refused = [each for kind, each, _ in client.seen if kind == Type.RST_STREAM]
        assert client.ended.is_set() or min(refused) > 2 * 1024


MALFORMED = {
    "garbage": b"\xff" * 100,
    "data of no stream": frame(Type.DATA, 0, 0, b"x"),
    "a frame that is too large": frame(Type.DATA, 0, 1, bytes(20_000)),
    "a stream of the server's": frame(Type.HEADERS, END_HEADERS, 2, block(request())),
    "headers that are no HPACK": frame(Type.HEADERS, END_HEADERS, 1, b"\xff" * 10),
    "settings that are too short": frame(Type.SETTINGS, 0, 0, b"xxx"),
    **{
        name: frame(Type.HEADERS, END_HEADERS | END_STREAM, 1, block(request() | headers))
        for name, headers in {
            "a path that is none": {":path": "x"},
            "a name in capitals": {"Upper": "x"},
            "a header of a connection": {"connection": "close"},
            "a body that never comes": {"content-length": "5"},
            "a line break in a header": {"x": "a\r\nHost: b"},
            "a tunnel": {":method": "CONNECT"},
        }.items()
    },
}


async def is_refused(scene: Scene, malformed: bytes) -> bool:
    async with connect(scene.port) as client:
        await client.send(malformed)
        end = time.monotonic() + LIMIT_SECONDS
        while not client.ended.is_set() and not client.count(Type.RST_STREAM):
            if time.monotonic() > end:
                return False
            await asyncio.sleep(0.02)
    return True


async def test_malformed_http2_reaches_no_pod(scene: Scene) -> None:
    one = await served(scene)
    found = await asyncio.gather(*(is_refused(scene, each) for each in MALFORMED.values()))
    assert [name for name, refused in zip(MALFORMED, found, strict=True) if not refused] == []
    assert one.seen == []
    assert await still_answers(scene, one)


async def test_malformed_grpc_is_an_error_of_its_own_and_of_nobody_else(scene: Scene) -> None:
    one = await served(scene)
    for kind, body in (
        ("application/grpc", b"\0\0\0\xff\xffabc"),  # a message that is cut off
        ("application/grpc", b""),
        ("application/grpc", b"\xff" * 20),
        ("application/grpc+thrift", b"{}"),
        ("application/grpc-web", b"x"),
        ("application/json", b"{}"),
    ):
        headers = {"content-type": kind}
        async with asyncio.timeout(LIMIT_SECONDS):
            async with scene.http.post(scene.url + UNARY, data=body, headers=headers) as response:
                await response.read()
        async with scene.channel() as channel:
            assert await channel.unary_unary(UNARY)(b"0") == one.address.encode()
    await comes_to(scene, one, 0)


HEADERS = {
    "one of 70 KB": (b"x: " + b"y" * 70_000, 431),
    "150 of them": (b"\r\n".join(b"a%d: b" % number for number in range(150)), 431),
    "two ends of a body": (b"Transfer-Encoding: chunked\r\nContent-Length: 5", 400),
    "two sizes of a body": (b"Content-Length: 5\r\nContent-Length: 6", 400),
    "a body of less than nothing": (b"Content-Length: -1", 400),
    "a body in an unknown coding": (b"Transfer-Encoding: xchunked", 501),
    "a name with a space": (b"x y: z", 400),
    "a value with a zero": (b"x: \0", 400),
}


async def test_headers_that_are_none_reach_no_pod(scene: Scene) -> None:
    one = await served(scene)
    requests = [
        b"GET / HTTP/1.1\r\nHost: digits\r\n" + header + b"\r\n\r\n"
        for header, _ in HEADERS.values()
    ]
    told = await all_asked(scene, requests)
    wrong = [
        name
        for (name, (_, status)), answer in zip(HEADERS.items(), told, strict=True)
        if not answer.startswith(f"HTTP/1.1 {status} ")
    ]
    assert wrong == []
    assert one.seen == []


NO_PATHS = (
    "/v2/models/a%2f..%2f..%2flogging",
    "/v2/models/a%5c..%5clogging",
    "/v2/logging%00",
    "*",
)


OPEN = (
    *("/v2", "/v2/health/live", "/v2/health/ready", "/v2/models/stats"),
    *("/v2/models/trace", "/v2/models/trace/infer", "/v2/models/repository/versions/1/config"),
    "/v2/models/digits/versions/1/infer",
)


def line(method: str, path: str) -> bytes:
    head = f"{method} {path} HTTP/1.1\r\nHost: digits\r\nConnection: close\r\n"
    return f"{head}Content-Length: 2\r\n\r\n{{}}".encode()


async def test_what_changes_a_server_is_closed_to_clients(scene: Scene) -> None:
    one = await served(scene)
    lines = [line(method, path) for path in (*CLOSED, *DISGUISED) for method in ("GET", "POST")]
    for asked_for, told in zip(lines, await all_asked(scene, lines), strict=True):
        assert told.startswith("HTTP/1.1 403 "), asked_for
        assert told.endswith("its spec says how it runs."), asked_for
    assert one.seen == []


async def test_calls_that_change_a_server_are_closed_to_clients(scene: Scene) -> None:
    one = await served(scene)
    async with scene.channel() as channel:
        for method in CALLS:
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await channel.unary_unary(f"/{SERVICE}/{method}")(b"")
            assert refused.value.code() == grpc.StatusCode.PERMISSION_DENIED, method
            assert "its spec says how it runs" in (refused.value.details() or "")
    assert one.seen == []


async def test_a_path_that_two_could_read_differently_is_refused(scene: Scene) -> None:
    one = await served(scene)
    for told in await all_asked(scene, (line("GET", path) for path in NO_PATHS)):
        assert told.startswith("HTTP/1.1 400 ")
    assert one.seen == []


async def test_what_clients_ask_is_open_to_them(scene: Scene) -> None:
    one = await served(scene)
    for path in OPEN:
        assert await scene.get(path) == (200, one.address), path
    assert one.seen == list(OPEN)
