"""Envoy's administration, on a socket that nobody else reaches."""

from __future__ import annotations

import http.client
import re
import socket
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path

_HOST = re.compile(
    r"^(?P<cluster>[^:]+)::(?P<address>\[[^]]+\]:\d+|[^:\[]+:\d+)"
    r"::(?P<name>rq_active|rq_pending_active|health_flags)::(?P<value>.*)$",
    re.MULTILINE,
)
_CONNECTIONS, _REQUESTS = "downstream_cx_active", "downstream_rq_active"
_DOWNSTREAM = re.compile(rf"^http\.service/.+\.({_CONNECTIONS}|{_REQUESTS}): (\d+)$", re.MULTILINE)
_DRAINING = "/eds_status_draining"
_CONNECTED = "control_plane.connected_state"


class AdminError(Exception):
    """Envoy does not answer, or not as it should; its message is a sentence."""


@dataclass(frozen=True)
class Downstream:
    """What clients have open at this door."""

    connections: int
    requests: int


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: Path, timeout_seconds: float) -> None:
        super().__init__("localhost", timeout=timeout_seconds)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


@dataclass(frozen=True)
class Admin:
    socket: Path
    timeout_seconds: float = 5.0

    def is_live(self) -> bool:
        """Whether Envoy has all of its first configuration."""
        with self._asked("/ready") as response:
            return response.status == HTTPStatus.OK

    def has_listeners(self) -> bool:
        return bool(self.text("/listeners"))

    def is_connected(self) -> bool:
        """Whether a control plane has answered on the stream that is open now."""
        return self.text(f"/stats?filter=^{re.escape(_CONNECTED)}$").strip().endswith(" 1")

    def in_flight(self, *, draining_only: bool = False) -> dict[str, int]:
        """Return the active requests of each upstream address, those that wait for it included.

        With `draining_only`, of those that this door knows to be draining, and so sends nothing
        new: only their numbers can't rise any more.
        """
        active: Counter[str] = Counter()
        draining: set[str] = set()
        for found in _HOST.finditer(self.text("/clusters")):
            if found["name"] != "health_flags":
                active[found["address"]] += int(found["value"])
            elif _DRAINING in found["value"]:
                draining.add(found["address"])
        return {each: active[each] for each in active if not draining_only or each in draining}

    def downstream(self) -> Downstream:
        """Return what is open at the services' listeners."""
        totals: Counter[str] = Counter()
        path = rf"/stats?filter=^http\.service/.*\.({_CONNECTIONS}|{_REQUESTS})$"
        for name, value in _DOWNSTREAM.findall(self.text(path)):
            totals[name] += int(value)
        return Downstream(totals[_CONNECTIONS], totals[_REQUESTS])

    def drain(self) -> None:
        """Have clients told to leave: `Connection: close`, GOAWAY. What comes is still served."""
        self.text("/drain_listeners?graceful", method="POST")

    @contextmanager
    def metrics(self) -> Iterator[http.client.HTTPResponse]:
        with self._asked("/stats/prometheus") as response:
            yield response

    def text(self, path: str, method: str = "GET") -> str:
        """Return what Envoy answers at a path of its administration."""
        with self._asked(path, method) as response, _told_as_admin_error():
            text = response.read().decode()
        if response.status != HTTPStatus.OK:
            raise AdminError(f"Envoy refused {path}: {text.strip()}")
        return text

    @contextmanager
    def _asked(self, path: str, method: str = "GET") -> Iterator[http.client.HTTPResponse]:
        with closing(_Connection(self.socket, self.timeout_seconds)) as connection:
            with _told_as_admin_error():
                connection.request(method, path)
                response = connection.getresponse()
            yield response


@contextmanager
def _told_as_admin_error() -> Iterator[None]:
    try:
        yield
    except (OSError, http.client.HTTPException) as error:
        raise AdminError(f"Envoy does not answer on its socket: {error}") from error
