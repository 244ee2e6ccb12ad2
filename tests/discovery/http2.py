"""HTTP/2 by hand, for clients that keep to no rule."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from enum import IntEnum

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
END_STREAM, END_HEADERS, ACK = 0x1, 0x4, 0x1
_CANCEL = 8
_HEAD_BYTES = 9


class Type(IntEnum):
    """Types of frames (RFC 9113, section 6)."""

    DATA = 0
    HEADERS = 1
    RST_STREAM = 3
    SETTINGS = 4
    PING = 6
    GOAWAY = 7
    CONTINUATION = 9


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def block(headers: Mapping[str, str]) -> bytes:
    """Return headers, each up to 16 KB, as literals without indexing (RFC 7541, 6.2.2)."""
    return b"".join(b"\0" + _text(name) + _text(value) for name, value in headers.items())


def _text(text: str) -> bytes:
    found = text.encode()
    if len(found) < 127:
        return bytes([len(found)]) + found
    rest = len(found) - 127
    return bytes([127, rest % 128 | 128, rest // 128]) + found


def request(path: str = "/", **more: str) -> dict[str, str]:
    named = {name.replace("_", "-"): value for name, value in more.items()}
    return {":method": "POST", ":scheme": "http", ":path": path, ":authority": "digits", **named}


@dataclass
class Connection:
    """What a server sent, by the type of the frame; `ended` once it has closed the connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    seen: list[tuple[int, int, bytes]] = field(default_factory=list)
    ended: asyncio.Event = field(default_factory=asyncio.Event)

    async def send(self, *frames: bytes) -> None:
        """Send frames; a server that has closed the connection takes none."""
        try:
            self.writer.write(b"".join(frames))
            await self.writer.drain()
        except OSError:
            self.ended.set()

    async def ask(self, stream: int, headers: Mapping[str, str], *, end: bool = False) -> None:
        flags = END_HEADERS | (END_STREAM if end else 0)
        await self.send(frame(Type.HEADERS, flags, stream, block(headers)))

    async def listen(self) -> None:
        try:
            while True:
                head = await self.reader.readexactly(_HEAD_BYTES)
                payload = await self.reader.readexactly(int.from_bytes(head[:3], "big"))
                self.seen.append((head[3], int.from_bytes(head[5:], "big"), payload))
        except (OSError, asyncio.IncompleteReadError):
            self.ended.set()

    def count(self, kind: Type) -> int:
        return sum(each == kind for each, _, _ in self.seen)


def cancel(stream: int) -> bytes:
    return frame(Type.RST_STREAM, 0, stream, struct.pack(">I", _CANCEL))


@asynccontextmanager
async def connect(port: int) -> AsyncIterator[Connection]:
    """Open a connection; its own settings are the defaults."""
    found = Connection(*await asyncio.open_connection("127.0.0.1", port))
    listening = asyncio.create_task(found.listen())
    await found.send(PREFACE, frame(Type.SETTINGS, 0, 0))
    try:
        yield found
    finally:
        listening.cancel()
        found.writer.close()
