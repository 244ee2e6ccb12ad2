"""The door's PID 1 and the real Envoy: ready, in flight, leaving."""

from __future__ import annotations

import http.client
import json
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from e2e.waiting import wait_until
from tests.door.conftest import HELD, LIMIT_SECONDS, Doors, RunningDoor, get

DRAINING = "127.0.0.9:9"


@pytest.fixture
def door(doors: Doors, upstream: str) -> RunningDoor:
    """A door with one service, that knows a second endpoint to be draining."""
    found = doors.start(1, {upstream: "HEALTHY", DRAINING: "DRAINING"})
    found.until_ready()
    return found


def service(door: RunningDoor) -> int:
    (port,) = door.services.values()
    return port


def test_in_flight_counts_the_requests_of_each_address(
    door: RunningDoor, upstream: str, held: threading.Event
) -> None:
    with ThreadPoolExecutor(3) as clients:
        open_requests = [clients.submit(get, service(door), HELD) for _ in range(3)]
        door.until_told("/in-flight", lambda told: told == {upstream: 3, DRAINING: 0})
        held.set()
        assert [each.result().status for each in open_requests] == [200] * 3
    assert json.loads(door.ask("/in-flight").text) == {upstream: 0, DRAINING: 0}


def test_an_address_that_may_still_get_requests_is_not_among_the_draining(
    door: RunningDoor,
) -> None:
    assert json.loads(door.ask("/in-flight?draining").text) == {DRAINING: 0}


def test_a_door_tells_where_it_takes_connections(doors: Doors) -> None:
    door = doors.start(2)
    door.until_ready()
    assert json.loads(door.ask("/listeners").text) == sorted(door.services.values())


def test_what_is_not_served_is_named(door: RunningDoor) -> None:
    answer = door.ask("/stats")
    assert answer.status == 404
    assert answer.text.startswith("There are /healthz, /ready, /in-flight, /listeners")


class KeepAlive(threading.Thread):
    """A client that keeps its connection, 25 requests a second, until it is told to close it."""

    def __init__(self, port: int) -> None:
        super().__init__()
        self._port = port
        self.answered = 0
        self.failure: Exception | None = None

    def run(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=LIMIT_SECONDS)
        closed = False
        while not closed:
            try:
                connection.request("GET", "/0.02")
                response = connection.getresponse()
                closed = response.getheader("Connection") == "close"
                assert (response.status, response.read()) == (200, b"ok")
            except (OSError, http.client.HTTPException, AssertionError) as error:
                self.failure = error
                return
            self.answered += 1
            time.sleep(0.02)


def test_nobody_is_cut_when_the_door_leaves(
    door: RunningDoor, upstream: str, held: threading.Event
) -> None:
    clients = [KeepAlive(service(door)) for _ in range(8)]
    idle = socket.create_connection(("127.0.0.1", service(door)))
    with ThreadPoolExecutor(1) as pool:
        long = pool.submit(get, service(door), HELD)
        door.until_told("/in-flight", lambda told: told[upstream] == 1)
        for client in clients:
            client.start()
        wait_until(
            lambda: [client.answered for client in clients],
            lambda answered: min(answered) > 5,
            "a server answers",
        )
        door.leave()
        door.until(lambda told: told.status == 503)
        assert get(service(door), "/0").status == 200, "new connections are still served"
        assert door.ask("/healthz").status == 200, "a door that leaves is not killed for it"
        for client in clients:
            client.join()
        held.set()
        assert door.ended() == 0
        assert long.result().status == 200
    assert [client.failure for client in clients] == [None] * 8
    assert idle.recv(1) == b"", "an idle connection is closed, not reset"
    idle.close()
    assert "1 idle connections are closed" in door.log.read_text()


def test_a_door_of_many_services_is_there_until_each_of_them_has_heard_of_its_end(
    doors: Doors, upstream: str
) -> None:
    """kube-controller-manager tells 20 services a second: others still lead here."""
    door = doors.start(100, {upstream: "HEALTHY"})
    door.until_ready()
    door.leave()
    began = time.monotonic()
    while time.monotonic() - began < 2.5:  # of the 5 s that it takes
        assert get(door.services["digits-99"], "/0").status == 200
        time.sleep(0.1)
    assert door.ended() == 0


def test_without_clients_the_door_leaves_at_once(doors: Doors, upstream: str) -> None:
    door = doors.start(1, {upstream: "HEALTHY"}, quiet_seconds=2 * LIMIT_SECONDS)
    door.until_ready()
    door.leave()
    assert door.ended() == 0


def test_while_envoy_is_busy_a_door_that_leaves_cuts_nobody(
    door: RunningDoor, upstream: str, held: threading.Event
) -> None:
    with ThreadPoolExecutor(1) as pool:
        long = pool.submit(get, service(door), HELD)
        door.until_told("/in-flight", lambda told: told[upstream] == 1)
        with stopped_envoy(door):
            door.leave()
            for _ in range(2):  # longer than the door itself waits for one answer
                assert door.ask("/healthz").status == 503
        held.set()
        assert door.ended() == 0
        assert long.result().status == 200


def test_at_the_deadline_the_open_requests_are_counted_and_cut(
    doors: Doors, upstream: str, held: threading.Event
) -> None:
    door = doors.start(1, {upstream: "HEALTHY"}, drain_timeout_seconds=1.0)
    door.until_ready()
    with ThreadPoolExecutor(1) as pool:
        long = pool.submit(get, service(door), HELD)
        door.until_told("/in-flight", lambda told: told == {upstream: 1})
        door.leave()
        assert door.ended() == 0
        with pytest.raises((OSError, http.client.HTTPException)):
            long.result()
    assert not held.is_set()
    assert "The time is over: 1 requests are cut." in door.log.read_text()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGKILL, 137), (signal.SIGTERM, 0)])
def test_the_end_of_envoy_is_the_end_of_the_door(
    door: RunningDoor, number: signal.Signals, code: int
) -> None:
    envoy = subprocess.run(
        ("pgrep", "-P", str(door.process.pid)), capture_output=True, text=True, check=True
    )
    subprocess.run(("kill", f"-{number}", envoy.stdout.strip()), check=True)
    assert door.ended() == code
    assert "Envoy ended by itself" in door.log.read_text()


def test_a_door_without_certificates_says_so_and_goes_on_when_they_come(
    doors: Doors, upstream: str
) -> None:
    missing = doors.folder / "not-mounted-yet"
    door = doors.start(1, {upstream: "HEALTHY"}, certificates=missing)
    told = door.until(lambda answer: "lepton-door" in answer.text)
    assert told.status == 503
    assert told.text.startswith(f"There is no ca.crt in {missing}: this namespace has no Secret")
    assert door.ask("/healthz").status == 200
    assert door.ask("/metrics").status == 503
    missing.symlink_to(doors.authority.folder)
    door.until_ready()
    assert door.log.read_text().count("There is no ca.crt") == 1


def test_a_door_that_waits_for_certificates_leaves_at_once(doors: Doors) -> None:
    door = doors.start(0, certificates=doors.folder / "missing")
    door.until(lambda answer: answer.status == 503)
    door.leave()
    assert door.ended() == 0


def test_a_door_without_an_operator_waits_and_says_so(doors: Doors) -> None:
    door = doors.start(0)
    told = door.until(lambda answer: "No operator answers" in answer.text)
    assert told.status == 503
    assert "at localhost:1: either none leads" in told.text
    assert door.ask("/healthz").status == 200
    assert json.loads(door.ask("/in-flight").text).keys() <= {"127.0.0.1:1", "[::1]:1"}


def test_a_door_stays_ready_while_envoy_is_busy_and_is_not_alive_for_ever(
    door: RunningDoor,
) -> None:
    with stopped_envoy(door):
        assert door.ask("/ready").status == 200
        assert door.ask("/healthz").status == 503
    door.until(lambda told: told.status == 200, "/healthz")


@contextmanager
def stopped_envoy(door: RunningDoor) -> Iterator[None]:
    """Have Envoy answer nobody for as long as the block runs."""
    itself = str(door.process.pid)
    (envoy,) = Path(f"/proc/{itself}/task/{itself}/children").read_text().split()
    subprocess.run(("kill", "-STOP", envoy), check=True)
    try:
        yield
    finally:
        subprocess.run(("kill", "-CONT", envoy), check=True)


def test_a_slow_client_keeps_nobody_waiting(door: RunningDoor) -> None:
    silent = [socket.create_connection(("127.0.0.1", door.port)) for _ in range(50)]
    began = time.monotonic()
    assert door.ask("/ready").status == 200
    assert time.monotonic() - began < 10, "so long a client may be silent"
    for each in silent:
        each.close()
