"""What a door's PID 1 would answer, at an address of this machine."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

from lepton_operator.build.door import HEALTH_PORT

DOOR_ADDRESS = "127.0.9.2"


class Door(ThreadingHTTPServer):
    """Tells how many requests each pod has that it knows to be draining, where it listens, and what
    it counted of each service.
    """

    def __init__(self) -> None:
        self.in_flight: dict[str, int] = {}
        self.listeners: list[int] = []
        self.counts: dict[str, dict[str, float]] = {}
        self.asked: list[str] = []
        super().__init__((DOOR_ADDRESS, HEALTH_PORT), _Handler)


class _Handler(BaseHTTPRequestHandler):
    server: Door

    def do_GET(self) -> None:
        found = {
            "/in-flight": {f"{ip}:8000": count for ip, count in self.server.in_flight.items()},
            "/listeners": self.server.listeners,
            "/counts": self.server.counts,
        }
        path = urlsplit(self.path).path
        if path not in found:  # what no test here is about
            self.send_error(HTTPStatus.NOT_FOUND)
            return
        self.server.asked.append(self.path)
        told = json.dumps(found[path]).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(told)))
        self.end_headers()
        self.wfile.write(told)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base's name
        """A test asserts; it does not chat."""


@contextmanager
def serving() -> Iterator[Door]:
    """Answer until the end of the block."""
    with Door() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield server
        finally:
            server.shutdown()
