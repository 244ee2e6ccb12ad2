"""Clients that send more than anybody reads: the door refuses them, and lives."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.door.conftest import Doors, RunningDoor

HEAP_BYTES = 32 * 2**20
CLIENTS = 60  # without a bound Envoy would hold 1.5 MB of each
HEAD = b"POST / HTTP/1.1\r\nHost: digits\r\nContent-Length: 2000000000\r\n\r\n"
PIECE = b"x" * 2**20


@pytest.fixture
def deaf() -> Iterator[str]:
    """Give the address of a server that takes connections, and reads nothing."""
    with socket.create_server(("127.0.0.1", 0), backlog=256) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


def sent(client: socket.socket) -> int:
    """Send until nobody takes any more, or the door has had enough; return how much that was."""
    count = 0
    try:
        client.sendall(HEAD)
        client.settimeout(0.1)
        while True:
            count += client.send(PIECE)
    except OSError:
        return count


def envoy_bytes(door: RunningDoor) -> int:
    """Return what Envoy holds of memory that is its own; its program's pages are everybody's."""
    itself = str(door.process.pid)
    (envoy,) = Path(f"/proc/{itself}/task/{itself}/children").read_text().split()
    status = Path(f"/proc/{envoy}/status").read_text()
    return int(re.findall(r"RssAnon:\s+(\d+) kB", status)[0]) * 1024


def test_bodies_that_nobody_reads_do_not_fill_the_memory(doors: Doors, deaf: str) -> None:
    door = doors.start(1, {deaf: "HEALTHY"}, heap_bytes=HEAP_BYTES)
    door.until_ready()
    (port,) = door.services.values()
    with ExitStack() as stack:
        took = 0
        for _ in range(CLIENTS):
            client = stack.enter_context(socket.create_connection(("127.0.0.1", port)))
            took += sent(client)
        assert took > 2 * HEAP_BYTES, "they sent more than the door may hold"
        assert envoy_bytes(door) < 1.5 * HEAP_BYTES
        assert door.ask("/healthz").status == 200
    door.until_ready()
