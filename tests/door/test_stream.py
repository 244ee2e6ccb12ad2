"""The door's end of the stream: who it trusts, how soon it is back, and renewed certificates."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest

from e2e.cluster.ports import free_port
from tests.door.authority import Authority
from tests.door.conftest import Doors, RunningDoor
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
    end = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < end, what
        time.sleep(0.02)


def has_come(plane: ControlPlane, times: int) -> None:
    until(lambda: len(plane.came) >= times, f"the door came {len(plane.came)} times")


def test_a_door_is_known_by_its_certificate(door: RunningDoor, plane: ControlPlane) -> None:
    plane.start()
    told = door.until(lambda answer: "not sent" in answer.text)
    assert told.text == "The operator has not sent a listener for any service yet.\n"
    # Envoy believes in a stream before the other end has seen it.
    until(lambda: bool(plane.names), "the door is seen")
    assert plane.names == [[b"spiffe://lepton.ai/ns/team-a/door"]]


def test_a_door_is_back_within_a_second_of_an_operator(
    door: RunningDoor, plane: ControlPlane
) -> None:
    plane.start()
    has_come(plane, 1)
    for times in (2, 3):
        plane.stop()
        time.sleep(3)  # Envoy's own back-off would be some seconds by then
        plane.start()
        began = time.monotonic()
        has_come(plane, times)
        assert plane.came[-1] - began < 1
    assert "closed" not in door.log.read_text(), "an operator that is away fills no log"


def test_a_renewed_certificate_is_shown_without_a_restart(
    door: RunningDoor, plane: ControlPlane, authority: Authority
) -> None:
    plane.start()
    has_come(plane, 1)
    authority.issue("team-a")
    # Envoy reads the files when it is told of them; the stream that is open goes on.
    time.sleep(1)
    plane.stop()
    plane.start()
    has_come(plane, 2)
    assert plane.certificates[1] != plane.certificates[0]
    assert door.process.poll() is None


@pytest.mark.parametrize("host", ["lepton-operator-xds.elsewhere.svc", "127.0.0.1"])
def test_a_server_of_another_name_is_told_nothing(
    door: RunningDoor, plane: ControlPlane, host: str
) -> None:
    plane.start(host)
    door.until(lambda answer: "No operator answers" in answer.text)
    time.sleep(2)
    assert plane.came == []


def test_a_server_of_another_authority_is_told_nothing(
    doors: Doors, plane: ControlPlane, authority: Authority
) -> None:
    stranger = ControlPlane(Authority(authority.folder), plane.port)
    stranger.start()
    door = doors.start(0, xds_port=plane.port)
    door.until(lambda answer: "No operator answers" in answer.text)
    time.sleep(2)
    stranger.stop()
    assert stranger.came == []
