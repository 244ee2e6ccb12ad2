"""A door is replaced under load: no client of any kind loses a request.

Between clients and doors stands what a Service is to them: a new connection goes to a door that is
wanted, an open one stays where it is.
"""

from __future__ import annotations

import http.client
import socket
import socketserver
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress

import grpc
import pytest

from tests.door.conftest import LIMIT_SECONDS, Doors

LEAST = 50
METHOD = "/inference.GRPCInferenceService/"


class Service(socketserver.ThreadingTCPServer):
    """Sends each new connection to the door that `port` names."""

    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 128

    def __init__(self, port: int) -> None:
        self.port = port
        super().__init__(("127.0.0.1", 0), _Connection)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.server_address[1]}"


class _Connection(socketserver.BaseRequestHandler):
    server: Service

    def handle(self) -> None:
        with socket.create_connection(("127.0.0.1", self.server.port)) as door:
            back = threading.Thread(target=_pass_on, args=(door, self.request), daemon=True)
            back.start()
            _pass_on(self.request, door)
            back.join()


def _pass_on(source: socket.socket, target: socket.socket) -> None:
    try:
        while piece := source.recv(65_536):
            target.sendall(piece)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        target.close()


def _stream(_request: bytes, _context: grpc.ServicerContext) -> Iterator[bytes]:
    """Answer ten times a second for three seconds."""
    for _ in range(30):
        time.sleep(0.1)
        yield b"part"


@pytest.fixture(scope="module")
def model() -> Iterator[str]:
    """Give the address of a gRPC server with a call and a stream."""
    handlers = {
        "ModelInfer": grpc.unary_unary_rpc_method_handler(lambda request, _: request),
        "ModelStreamInfer": grpc.unary_stream_rpc_method_handler(_stream),
    }
    server = grpc.server(ThreadPoolExecutor(16))
    name = METHOD.strip("/")
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(name, handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(0).wait()


def until_over(over: threading.Event, ask: Callable[[], object]) -> None:
    """Ask 40 times a second, until one fails: to the end, and at least so often."""
    count = 0
    while count < LEAST or not over.is_set():
        ask()
        count += 1
        time.sleep(0.025)


def answered(connection: http.client.HTTPConnection) -> None:
    connection.request("GET", "/0.01")
    response = connection.getresponse()
    assert (response.status, response.read()) == (200, b"ok")


def keep_alive(address: str, over: threading.Event) -> None:
    with closing(http.client.HTTPConnection(address, timeout=LIMIT_SECONDS)) as connection:
        until_over(over, lambda: answered(connection))


def connection_a_request(address: str, over: threading.Event) -> None:
    def ask() -> None:
        with closing(http.client.HTTPConnection(address, timeout=LIMIT_SECONDS)) as connection:
            answered(connection)

    until_over(over, ask)


def replace_under(
    doors: Doors, upstream: str, clients: Callable[[str, threading.Event], None]
) -> None:
    """Have clients ask while the first of two doors is asked to leave, and until it is gone."""
    # Longer than it takes here until new connections go elsewhere, however busy the machine is.
    old, new = (doors.start(1, {upstream: "HEALTHY"}, endpoints_seconds=3.0) for _ in range(2))
    for door in (old, new):
        door.until_ready()
    over = threading.Event()
    with Service(*old.services.values()) as service:
        threading.Thread(target=service.serve_forever, daemon=True).start()

        def leave() -> None:
            time.sleep(1)
            old.leave()
            time.sleep(0.1)
            (service.port,) = new.services.values()
            with suppress(subprocess.TimeoutExpired):
                old.ended()
            over.set()

        leaving = threading.Thread(target=leave)
        leaving.start()
        clients(service.address, over)
        leaving.join()
        service.shutdown()
    assert old.ended() == 0
    assert "No request is open any more" in old.log.read_text()


def test_no_http_request_is_lost(doors: Doors, upstream: str) -> None:
    def clients(address: str, over: threading.Event) -> None:
        kinds = [keep_alive, keep_alive, connection_a_request]
        with ThreadPoolExecutor(len(kinds)) as pool:
            list(pool.map(lambda kind: kind(address, over), kinds))

    replace_under(doors, upstream, clients)


def test_no_call_of_a_channel_is_lost_and_no_stream_is_cut(doors: Doors, model: str) -> None:
    def clients(address: str, over: threading.Event) -> None:
        with grpc.insecure_channel(address) as channel, ThreadPoolExecutor(2) as pool:
            call = channel.unary_unary(f"{METHOD}ModelInfer")
            stream = channel.unary_stream(f"{METHOD}ModelStreamInfer")
            parts = pool.submit(lambda: list(stream(b"question", timeout=LIMIT_SECONDS)))
            until_over(over, lambda: call(b"question", timeout=LIMIT_SECONDS))
            assert parts.result() == [b"part"] * 30

    replace_under(doors, model, clients)
