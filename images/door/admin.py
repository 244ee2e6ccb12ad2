"""Envoy's administration, on a socket that nobody else reaches."""

from __future__ import annotations

import http.client
import re
import socket
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote


def _of_hosts(*names: str) -> re.Pattern[str]:
    """Return what finds these few of the some twenty lines about each endpoint."""
    return re.compile(
        r"^(?P<cluster>[^:]+)::(?P<address>\[[^]]+\]:\d+|[^:\[]+:\d+)"
        rf"::(?P<name>{'|'.join(names)})::(?P<value>.*)$",
        re.MULTILINE,
    )


_IN_FLIGHT = _of_hosts("rq_active", "rq_pending_active", "health_flags")
_OUTCOMES = _of_hosts("rq_error", "rq_success", "health_flags")
_STAT = re.compile(r"^(.+): (\d+)$", re.MULTILINE)
_CONNECTIONS, _REQUESTS = "downstream_cx_active", "downstream_rq_active"
_LISTENER_PORT = re.compile(r"^.+::.+:(\d+)$", re.MULTILINE)
_DRAINING, _EJECTED = "/eds_status_draining", "/failed_outlier_check"
_CONNECTED = "control_plane.connected_state"
_LISTENERS = "listener_manager.total_listeners_active"
# What autoscaling asks for where there is no Prometheus, and under which names it is told.
_TOLD_AS = {
    "downstream_rq_total": "arrivals",
    "downstream_rq_active": "active",
    "upstream_rq_pending_overflow": "rejected",
}
_COUNTS = rf"\.({'|'.join(_TOLD_AS)})$"


class AdminError(Exception):
    """Envoy does not answer, or not as it should; its message is a sentence."""


class Place(NamedTuple):
    """A pod as a cluster's endpoint."""

    cluster: str
    address: str

    @property
    def pod(self) -> tuple[str, str]:
        """Its service and IP address, which its HTTP and its gRPC port have in common."""
        return self.cluster.rpartition("/")[0], self.address.rpartition(":")[0]


class Host(NamedTuple):
    """What Envoy counted of a place since it knows it, and how it takes it."""

    errors: int
    successes: int
    ejected: bool = False
    draining: bool = False


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

    def listeners(self) -> int:
        """Return for how many services this door listens."""
        return self.stats(f"^{re.escape(_LISTENERS)}$").get(_LISTENERS, 0)

    def listens_on(self) -> list[int]:
        """Return the ports of the listeners that take connections; those that warm do not yet."""
        return sorted(int(port) for port in _LISTENER_PORT.findall(self.text("/listeners")))

    def is_connected(self) -> bool:
        """Whether a control plane has answered on the stream that is open now."""
        return self.stats(f"^{re.escape(_CONNECTED)}$").get(_CONNECTED) == 1

    def stats(self, pattern: str) -> dict[str, int]:
        """Return the counters and gauges whose names match this regular expression."""
        text = self.text(f"/stats?filter={quote(pattern)}")
        return {name: int(value) for name, value in _STAT.findall(text)}

    def in_flight(self, *, draining_only: bool = False) -> dict[str, int]:
        """Return the active requests of each upstream address, those that wait for it included.

        With `draining_only`, of those that this door knows to be draining, and so sends nothing
        new: only their numbers can't rise any more.
        """
        active: Counter[str] = Counter()
        draining: set[str] = set()
        for found in _IN_FLIGHT.finditer(self.text("/clusters")):
            if found["name"] != "health_flags":
                active[found["address"]] += int(found["value"])
            elif _DRAINING in found["value"]:
                draining.add(found["address"])
        return {each: active[each] for each in active if not draining_only or each in draining}

    def hosts(self) -> dict[Place, Host]:
        """Return the endpoints of all services."""
        said: dict[Place, dict[str, str]] = {}
        for found in _OUTCOMES.finditer(self.text("/clusters")):
            place = Place(found["cluster"], found["address"])
            said.setdefault(place, {})[found["name"]] = found["value"]
        return {
            place: Host(
                errors=int(each.get("rq_error", 0)),
                successes=int(each.get("rq_success", 0)),
                ejected=_EJECTED in each.get("health_flags", ""),
                draining=_DRAINING in each.get("health_flags", ""),
            )
            for place, each in said.items()
        }

    def downstream(self) -> Downstream:
        """Return what is open at the services' listeners."""
        totals: Counter[str] = Counter()
        found = self.stats(rf"^http\.service/.*\.({_CONNECTIONS}|{_REQUESTS})$")
        for name, value in found.items():
            totals[name.rpartition(".")[2]] += value
        return Downstream(totals[_CONNECTIONS], totals[_REQUESTS])

    def counts(self) -> dict[str, dict[str, int]]:
        """Return of each service the requests that came, that are open, and that were rejected."""
        found: dict[str, Counter[str]] = defaultdict(Counter)
        for name, value in self.stats(_COUNTS).items():
            place, _, counted = name.rpartition(".")
            service = place.removeprefix("http.service/").removeprefix("cluster.").partition("/")[0]
            found[service][_TOLD_AS[counted]] += value
        return {service: dict(counts) for service, counts in found.items()}

    def drain(self) -> None:
        """Have clients told to leave: `Connection: close`, GOAWAY. What comes is still served."""
        self.text("/drain_listeners?graceful", method="POST")

    def metrics(self) -> bytes:
        """Return all that there is for Prometheus: at 1,000 services some megabytes."""
        return self._content("/stats/prometheus")

    def text(self, path: str, method: str = "GET") -> str:
        """Return what Envoy answers at a path of its administration."""
        return self._content(path, method).decode()

    def _content(self, path: str, method: str = "GET") -> bytes:
        with self._asked(path, method) as response, _told_as_admin_error():
            content = response.read()
        if response.status != HTTPStatus.OK:
            raise AdminError(f"Envoy refused {path}: {content.decode(errors='replace').strip()}")
        return content

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
