"""A door's PID 1 with the real Envoy before it, an upstream behind it, and its certificates."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from e2e.cluster.ports import free_ports
from e2e.deadlines import DEADLINES_SECONDS
from images.catalog import ROOT
from images.door.settings import Settings
from images.envoy import program
from tests.door.authority import Authority

LIMIT_SECONDS = DEADLINES_SECONDS["a server answers"]
HELD = "/held"


class _Upstream(BaseHTTPRequestHandler):
    """Answers `/0.5` after half a second, and `/held` when the test lets it."""

    server: _Server
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if self.path == HELD:
            self.server.held.wait()
        else:
            time.sleep(float(self.path[1:]))
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base's name
        pass


class _Server(ThreadingHTTPServer):
    # Closing it waits for its answers: one that a door cut may still be asleep when all tests end.
    daemon_threads = False
    request_queue_size = 128

    def __init__(self) -> None:
        self.held = threading.Event()
        super().__init__(("127.0.0.1", 0), _Upstream)

    def handle_error(self, request: object, client_address: object) -> None:
        """Doors that are ended close their connections as they like."""


@pytest.fixture(scope="session")
def _server() -> Iterator[_Server]:
    server = _Server()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def upstream(_server: _Server) -> str:
    """Give the address of an HTTP server."""
    return f"127.0.0.1:{_server.server_port}"


@pytest.fixture
def held(_server: _Server) -> Iterator[threading.Event]:
    """Give what has requests for `/held` answered; the end of the test has so too."""
    _server.held = threading.Event()
    yield _server.held
    _server.held.set()


@dataclass(frozen=True)
class Answer:
    status: int
    text: str
    headers: Mapping[str, str]


def get(port: int, path: str, **headers: str) -> Answer:
    """Ask once, on a connection of its own."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=LIMIT_SECONDS)
    try:
        connection.request("GET", path, headers=headers)
        response = connection.getresponse()
        return Answer(response.status, response.read().decode(), dict(response.getheaders()))
    finally:
        connection.close()


@dataclass(frozen=True)
class RunningDoor:
    process: subprocess.Popen[str]
    port: int
    services: Mapping[str, int]
    log: Path

    def ask(self, path: str) -> Answer:
        return get(self.port, path)

    def until(self, holds: Callable[[Answer], object], path: str = "/ready") -> Answer:
        """Return the first answer of which this is true."""
        end = time.monotonic() + LIMIT_SECONDS
        while True:
            try:
                answer = self.ask(path)
            except OSError:
                answer = Answer(0, "nobody listens", {})
            if holds(answer):
                return answer
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < end, f"{path}: {answer}; {self.log.read_text()}"
            time.sleep(0.05)

    def until_told(self, path: str, holds: Callable[[Any], object]) -> None:
        """Wait for what is told in JSON; while Envoy is busy it is a sentence in place of it."""
        self.until(lambda answer: answer.status == 200 and holds(json.loads(answer.text)), path)

    def until_ready(self) -> None:
        self.until(lambda answer: answer.status == 200)

    def leave(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    def ended(self) -> int:
        return self.process.wait(LIMIT_SECONDS)


@dataclass(frozen=True)
class Doors:
    """Starts doors, and ends what a test leaves."""

    folder: Path
    authority: Authority
    started: list[RunningDoor] = field(default_factory=list)

    def start(
        self, services: int, upstreams: Mapping[str, str] | None = None, **changes: Any
    ) -> RunningDoor:
        """Start a door with this many services, or with the operator's stream if there are none."""
        port, *ports = free_ports(services + 1)
        given: dict[str, Any] = {
            "xds_host": "localhost",
            "xds_port": 1,
            # Longer than anybody here waits: what ends sooner has not waited for it.
            "drain_timeout_seconds": 2 * LIMIT_SECONDS,
            "heap_bytes": 2**28,
            "threads": 2,
            "connections": 4096,
            "endpoints_seconds": 0.3,
            "certificates": self.authority.folder,
            "port": port,
        }
        settings = Settings(**(given | changes))
        named = {f"digits-{index}": each for index, each in enumerate(ports)}
        file = self.folder / f"door-{port}.json"
        content = {"settings": asdict(settings), "services": named, "upstreams": upstreams or {}}
        file.write_text(json.dumps(content, default=str))
        log = file.with_suffix(".log")
        door = RunningDoor(_process(file, log), port, named, log)
        self.started.append(door)
        return door

    def end(self) -> None:
        for door in self.started:
            if door.process.poll() is None:
                os.killpg(door.process.pid, signal.SIGKILL)
                door.process.wait()


def _process(file: Path, log: Path) -> subprocess.Popen[str]:
    environment = {
        **os.environ,
        "PATH": f"{program().parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
    }
    argv = (sys.executable, str(Path(__file__).with_name("static_door.py")), str(file))
    with log.open("w") as output:
        return subprocess.Popen(
            argv, env=environment, stderr=output, stdout=output, text=True, start_new_session=True
        )


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    """Certificates as the Secret lepton-door of the namespace team-a would hold them."""
    found = Authority(tmp_path / "certificates")
    found.issue("team-a")
    return found


@pytest.fixture
def doors(tmp_path: Path, authority: Authority) -> Iterator[Doors]:
    found = Doors(tmp_path, authority)
    yield found
    found.end()
