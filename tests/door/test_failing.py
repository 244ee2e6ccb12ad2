"""Which pods a door says to fail: from real requests through the real Envoy."""

from __future__ import annotations

import asyncio
import http.client
import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import grpc
import pytest

from e2e.waiting import wait_until
from images.door.admin import Host, Place
from images.door.failing import ENOUGH_ERRORS, Failing, Failure, State, judged
from lepton_operator.cache import Cache, Key
from lepton_operator.outliers import Outliers
from tests.door.conftest import LIMIT_SECONDS, Doors, RunningDoor, get
from tests.unit.runtime import objects

DIGITS = "digits-0/http"
AT = Place(DIGITS, "10.0.0.1:8000")
NOBODY = "127.0.0.9:9"
Told = dict[str, dict[str, dict[str, Any]]]


class Pod:
    """An HTTP server that answers with the status that it is told to; no HTTP/2, so no gRPC."""

    def __init__(self, address: str) -> None:
        self.status = 200
        pod = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                self.send_response(pod.status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                pass

        self._server = ThreadingHTTPServer((address, 0), Handler)
        self._server.daemon_threads = True
        self.address = f"{address}:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def end(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def pods() -> Iterator[Callable[[], Pod]]:
    made: list[Pod] = []

    def make() -> Pod:
        made.append(Pod(f"127.0.1.{len(made)}"))
        return made[-1]

    yield make
    for each in made:
        each.end()


class Watch:
    """What a door tells, line by line, as the operator would hear it."""

    def __init__(self, door: RunningDoor) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", door.port, timeout=LIMIT_SECONDS)
        self._connection.request("GET", "/failing")
        self._response = self._connection.getresponse()

    def next(self) -> Told:
        found: Told = json.loads(self._response.readline())
        return found

    def until(self, holds: Callable[[Told], object], meanwhile: Callable[[], object]) -> Told:
        """Return the first line of which this is true; until it comes something is done."""
        end = time.monotonic() + LIMIT_SECONDS
        with ThreadPoolExecutor(1) as hearing:
            while True:
                line = hearing.submit(self.next)
                while not line.done():
                    meanwhile()
                    time.sleep(0.02)
                if holds(told := line.result()):
                    return told
                assert time.monotonic() < end, told

    def close(self) -> None:
        self._connection.close()


def started(doors: Doors, *addresses: str) -> tuple[RunningDoor, int]:
    door = doors.start(1, dict.fromkeys(addresses, "HEALTHY"))
    door.until_ready()
    return door, door.services["digits-0"]


def ask(port: int, times: int) -> set[int]:
    return {get(port, "/").status for _ in range(times)}


def test_a_pod_that_errs_is_taken_out_and_named(doors: Doors, pods: Callable[[], Pod]) -> None:
    bad, good = pods(), pods()
    bad.status = 500
    door, port = started(doors, bad.address, good.address)
    watch = Watch(door)
    assert watch.next() == {}, "what there is to tell is told at once"
    seen: set[int] = set()
    found = watch.until(
        lambda told: any(each["ejected"] for each in told.get(DIGITS, {}).values()),
        lambda: seen.update(ask(port, 1)),
    )[DIGITS]
    watch.close()
    assert seen == {200, 500}, "every other request is the bad one's, until it has 20"
    assert set(found) == {bad.address}
    assert found[bad.address]["what"] == "answered with HTTP status 500"
    # Each time that it is taken out it is for longer; the first may be over when it is told.
    wait_until(
        lambda: ask(port, 20), lambda told: told == {200}, "a server answers", "by nobody else"
    )


def test_the_only_pod_goes_on_getting_requests_and_is_named_until_it_answers(
    doors: Doors, pods: Callable[[], Pod]
) -> None:
    only = pods()
    door, port = started(doors, only.address)
    watch = Watch(door)
    watch.next()
    ask(port, 3)
    only.status = 503
    seen: set[int] = set()
    told = watch.until(lambda told: told, lambda: seen.update(ask(port, 1)))
    assert seen == {503}
    assert told[DIGITS][only.address]["ejected"] is False
    only.status = 200
    assert ask(port, 1) == {200}
    assert watch.next() == {}
    watch.close()


def test_a_pod_that_cannot_be_reached_is_named(doors: Doors, pods: Callable[[], Pod]) -> None:
    good = pods()
    door, port = started(doors, good.address, NOBODY)
    watch = Watch(door)
    watch.next()
    told = watch.until(lambda told: told, lambda: ask(port, 1))
    watch.close()
    assert told[DIGITS][NOBODY]["what"] == "refused the connection"


def test_errors_of_grpc_are_errors(doors: Doors) -> None:
    class Broken(grpc.GenericRpcHandler):  # type: ignore[misc]
        def service(self, _: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
            def answer(_: bytes, context: grpc.ServicerContext) -> bytes:
                context.abort(grpc.StatusCode.INTERNAL, "CUDA error")
                raise AssertionError

            return grpc.unary_unary_rpc_method_handler(answer)

    server = grpc.server(ThreadPoolExecutor(2), handlers=(Broken(),))
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    door, port = started(doors, address)
    watch = Watch(door)
    watch.next()
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        for _ in range(ENOUGH_ERRORS):
            with pytest.raises(grpc.RpcError, match="CUDA error"):
                call(b"", wait_for_ready=True, timeout=LIMIT_SECONDS)
    told = watch.next()["digits-0/grpc"][address]
    watch.close()
    server.stop(0)
    assert told["what"] == "answered with gRPC status 13"


def test_a_pod_that_answers_over_the_other_protocol_fails_no_longer(
    doors: Doors, pods: Callable[[], Pod]
) -> None:
    door, port = started(doors, pods().address)
    watch = Watch(door)
    watch.next()
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        for _ in range(ENOUGH_ERRORS):
            with pytest.raises(grpc.RpcError):
                call(b"", wait_for_ready=True, timeout=LIMIT_SECONDS)
    assert set(watch.next()) == {"digits-0/grpc"}
    assert ask(port, 1) == {200}
    assert watch.next() == {}
    watch.close()


async def test_the_operator_hears_it(doors: Doors, pods: Callable[[], Pod]) -> None:
    only = pods()
    only.status = 500
    door, port = started(doors, only.address)
    cache = Cache("nvidia.com/gpu")
    cache.put("InferenceService", objects.service("digits-0"))
    cache.put("Pod", objects.door_pod())
    outliers, woken = Outliers(cache, door.port), list[Key]()
    hearing = asyncio.create_task(outliers.run(woken.append))
    await asyncio.to_thread(ask, port, ENOUGH_ERRORS)
    async with asyncio.timeout(LIMIT_SECONDS):
        while not woken:  # noqa: ASYNC110 - a task hears it
            await asyncio.sleep(0.05)
    hearing.cancel()
    (fault,) = outliers.of("team", "digits-0").values()
    await asyncio.gather(hearing, return_exceptions=True)
    assert (fault.what, fault.ejected) == ("answered with HTTP status 500", False)
    assert woken == [Key("InferenceService", "team", "digits-0")]


def test_requests_that_are_wrong_themselves_are_no_failure_of_the_pod(
    doors: Doors, pods: Callable[[], Pod]
) -> None:
    pod = pods()
    pod.status = 400
    door, port = started(doors, pod.address)
    ask(port, 4 * ENOUGH_ERRORS)
    bad = pods()  # of another door: its word comes later than any of the first could
    bad.status = 500
    other, its_port = started(doors, bad.address)
    watch = Watch(other)
    watch.next()
    ask(its_port, ENOUGH_ERRORS)
    watch.next()
    watch.close()
    quiet = Watch(door)
    assert quiet.next() == {}
    quiet.close()


def looked(state: State, *hosts: Host, suspect: bool = True) -> State:
    """Return what is known after looks at one place that counted this."""
    for host in hosts:
        state = judged(state, {AT: host}, [AT] if suspect else [], {AT: "erred"})
    return state


NOTHING = State({}, {})


@pytest.mark.parametrize(
    ("counts", "fails"),
    [
        ([Host(5, 0)], True),
        ([Host(4, 0)], False),
        ([Host(5, 1)], False),  # it answered once: before those errors, or between them?
        ([Host(5, 1), Host(10, 1)], True),
        ([Host(5, 1), Host(10, 2)], False),
        ([Host(5, 1), Host(10, 2), Host(15, 2)], True),
        ([Host(5, 9, ejected=True)], True),
        ([Host(5, 0), Host(5, 0)], True),
        ([Host(5, 0), Host(9, 1)], False),
        ([Host(5, 9, ejected=True), Host(5, 9)], True),  # back, and not tried yet
        ([Host(5, 9, ejected=True), Host(5, 10)], False),
        ([Host(5, 0), Host(5, 0, draining=True)], False),
    ],
    ids=str,
)
def test_when_a_pod_fails(counts: list[Host], fails: bool) -> None:  # noqa: FBT001
    assert bool(looked(NOTHING, *counts).failing) is fails


def test_a_pod_that_is_gone_is_forgotten() -> None:
    failing = looked(NOTHING, Host(5, 0))
    assert judged(failing, {}, [], {}) == NOTHING


def test_what_is_told_of_a_pod_stays_the_same_while_it_fails() -> None:
    first = looked(NOTHING, Host(5, 9, ejected=True)).failing[AT]
    later = looked(looked(NOTHING, Host(5, 9, ejected=True)), Host(50, 9), Host(99, 9)).failing[AT]
    assert later == Failure(later.since, first.what, ejected=True)


def test_lines_that_nobody_expected_are_passed_over() -> None:
    failing = Failing()
    failing.read(["", "{", "{}", '{"cluster_name": 1, "type": []}', "- - 503 - UH", "garbage\n"])
    assert failing.told() == {}
