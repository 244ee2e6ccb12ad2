"""What the door tells the kubelet, the operator and Prometheus, on port 9902.

| path | answer |
|---|---|
| `/healthz` | 200 while Envoy answers, and before it is started |
| `/ready` | 200 while requests are welcome; else 503 and a sentence that says why not |
| `/in-flight` | JSON: upstream address -> active requests; `?draining`: of draining ones only |
| `/listeners` | JSON: the ports on which this door takes connections |
| `/failing` | a line of JSON at once, when it changes, and each minute: who fails requests |
| `/counts` | JSON: service -> its arrivals, active and rejected requests |
| `/metrics` | Prometheus' text, as Envoy writes it: what `stats` lists, and of few revisions |
"""

from __future__ import annotations

import json
import socket
import sys
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Protocol
from urllib.parse import parse_qs, urlsplit

from images.door.admin import Admin, AdminError
from images.door.failing import Failing
from images.door.stats import Revisions

_AGAIN_SECONDS = 60.0
"""A line that says nothing new finds out whether anybody still listens."""


class Told(Protocol):
    """What there is to tell; None of the administration before Envoy was started."""

    @property
    def admin(self) -> Admin | None: ...

    @property
    def failing(self) -> Failing: ...

    def unready(self) -> str: ...


class Server(ThreadingHTTPServer):
    """A thread a question: a client that is slow keeps nobody waiting but itself."""

    daemon_threads = True
    request_queue_size = 128
    address_family = socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET

    def __init__(self, port: int, told: Told) -> None:
        self.told = told
        self.revisions = Revisions()
        super().__init__(("", port), _Handler)

    def handle_error(self, request: object, client_address: object) -> None:
        """Log what is wrong here, and not that a client has gone."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]

    def server_bind(self) -> None:
        if self.address_family == socket.AF_INET6:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        super().server_bind()


class _Handler(BaseHTTPRequestHandler):
    server: Server
    timeout = 10  # seconds that a client may be silent

    def do_GET(self) -> None:
        answers: dict[str, Callable[[], None]] = {
            "/healthz": self._healthz,
            "/ready": self._ready,
            "/in-flight": self._in_flight,
            "/listeners": self._listeners,
            "/failing": self._failing,
            "/counts": self._counts,
            "/metrics": self._metrics,
        }
        answer = answers.get(urlsplit(self.path).path)
        try:
            if answer is None:
                self._send(HTTPStatus.NOT_FOUND, f"There are {', '.join(answers)}.")
            else:
                answer()
        except AdminError as error:
            self._send(HTTPStatus.SERVICE_UNAVAILABLE, str(error))

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base's name
        """Probes ask each second; the log is for what happens."""

    def _healthz(self) -> None:
        if self.server.told.admin is not None:
            self.server.told.admin.is_live()
        self._send(HTTPStatus.OK, "ok")

    def _ready(self) -> None:
        why = self.server.told.unready()
        self._send(HTTPStatus.SERVICE_UNAVAILABLE if why else HTTPStatus.OK, why or "ready")

    def _in_flight(self) -> None:
        asked = parse_qs(urlsplit(self.path).query, keep_blank_values=True)
        found = self._admin().in_flight(draining_only="draining" in asked)
        self._send(HTTPStatus.OK, json.dumps(found), "application/json")

    def _listeners(self) -> None:
        self._send(HTTPStatus.OK, json.dumps(self._admin().listens_on()), "application/json")

    def _counts(self) -> None:
        self._send(HTTPStatus.OK, json.dumps(self._admin().counts()), "application/json")

    def _failing(self) -> None:
        """Tell for as long as somebody listens: whoever asked needs to ask no second time."""
        self._head(HTTPStatus.OK, "application/x-ndjson")
        told: object = None
        while True:
            told = self.server.told.failing.wait(told, _AGAIN_SECONDS)
            self.wfile.write(f"{json.dumps(told)}\n".encode())

    def _metrics(self) -> None:
        text = self.server.revisions.recent(self._admin().metrics())
        self._head(HTTPStatus.OK, "text/plain; version=0.0.4; charset=utf-8")
        self.wfile.write(text)

    def _admin(self) -> Admin:
        if self.server.told.admin is None:
            raise AdminError(self.server.told.unready())
        return self.server.told.admin

    def _send(self, status: HTTPStatus, text: str, kind: str = "text/plain; charset=utf-8") -> None:
        self._head(status, kind)
        self.wfile.write(f"{text}\n".encode())

    def _head(self, status: HTTPStatus, kind: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.end_headers()
