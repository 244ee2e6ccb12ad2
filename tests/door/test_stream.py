"""The door's end of the stream: who it trusts, how soon it is back, and renewed certificates."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator

import pytest

from e2e.cluster.ports import free_port
from tests.door.authority import Authority
from tests.door.conftest import LIMIT_SECONDS, Doors, RunningDoor
from tests.door.control_plane import ControlPlane


@pytest.fixture
def plane(authority: Authority) -> Iterator[ControlPlane]:
    found = ControlPlane(authority, free_port())
    yield found
    found.stop()


@pytest.fixture
def door(doors: Doors, plane: ControlPlane) -> RunningDoor:
    return doors.start(0, xds_port=plane.port)


def until(holds: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + LIMIT_SECONDS
    while not holds():
        assert time.monotonic() < end, what
        time.sleep(0.02)


def has_come(plane: ControlPlane, times: int) -> None:
    until(lambda: plane.came >= times, f"the door has not come {times} times")


def test_a_door_is_known_by_its_certificate(door: RunningDoor, plane: ControlPlane) -> None:
    plane.start()
    told = door.until(lambda answer: "not sent" in answer.text)
    assert told.text == "The operator has not sent a listener for any service yet.\n"
    # Envoy believes in a stream before the other end has seen it.
    has_come(plane, 1)
    assert plane.names[0] == [b"spiffe://lepton.ai/ns/team-a/door"]


def is_asked(port: int, times: int) -> None:
    """Wait for so many attempts to connect, and end each."""
    end = time.monotonic() + LIMIT_SECONDS
    with socket.create_server(("127.0.0.1", port), reuse_port=True) as server:
        for _ in range(times):
            server.settimeout(max(0.1, end - time.monotonic()))
            server.accept()[0].close()


def test_a_door_without_an_operator_asks_again_and_again_and_is_back_with_it(
    door: RunningDoor, plane: ControlPlane
) -> None:
    plane.start()
    for times in (1, 2):
        has_come(plane, times)
        plane.stop()
        # Alone it takes 3 s; with Envoy's own back-off, up to half a minute, it would take minutes.
        is_asked(plane.port, 30)
        plane.start()
    has_come(plane, 3)
    assert "closed" not in door.log.read_text(), "an operator that is away fills no log"


def test_a_renewed_certificate_is_shown_without_a_restart(
    door: RunningDoor, plane: ControlPlane, authority: Authority
) -> None:
    plane.start()
    has_come(plane, 1)
    authority.issue("team-a")
    # Envoy reads the files when it is told of them; the stream that is open goes on.
    end = time.monotonic() + LIMIT_SECONDS
    while plane.certificates[-1] == plane.certificates[0]:
        assert time.monotonic() < end, "the door shows its old certificate"
        times = plane.came + 1
        plane.stop()
        plane.start()
        has_come(plane, times)
    assert door.process.poll() is None


@pytest.mark.parametrize("host", ["lepton-operator-xds.elsewhere.svc", "127.0.0.1"])
def test_a_server_of_another_name_is_told_nothing(
    door: RunningDoor, plane: ControlPlane, host: str
) -> None:
    plane.start(host)
    door.until(lambda answer: "No operator answers" in answer.text)
    time.sleep(2)
    assert plane.came == 0


def test_a_server_of_another_authority_is_told_nothing(
    doors: Doors, plane: ControlPlane, authority: Authority
) -> None:
    stranger = ControlPlane(Authority(authority.folder), plane.port)
    stranger.start()
    door = doors.start(0, xds_port=plane.port)
    door.until(lambda answer: "No operator answers" in answer.text)
    time.sleep(2)
    stranger.stop()
    assert stranger.came == 0
