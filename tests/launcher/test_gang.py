"""Launchers that talk over TCP: real sockets, and what strangers may send."""

from __future__ import annotations

import contextlib
import itertools
import json
import socket
import time
from typing import TYPE_CHECKING, Any

import pytest

from e2e.cluster.ports import free_port
from lepton_launcher.attempts import Attempt
from lepton_launcher.coordinator import (
    END,
    FAILED,
    IDLE,
    LEAVE,
    LEAVING,
    PART,
    RUN,
    RUNNING,
    STOP,
    Order,
    Report,
)
from lepton_launcher.gang import LINE_BYTES, Leader, Member
from lepton_launcher.restarts import Restarts

from .conftest import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

TOKEN = "a token of 32 hexadecimal digits"
BUG = {"reason": "UserError", "rank": 1, "exitCode": 1, "message": "ValueError: 🚀" * 99}


@pytest.fixture
def attempt() -> Callable[[int], Attempt]:
    port = free_port()

    def of_node(node: int) -> Attempt:
        return Attempt(3, node, 2, "127.0.0.1", 29401, port, TOKEN)

    return of_node


def send(attempt: Attempt, line: bytes) -> bytes:
    address = ("127.0.0.1", attempt.gang_port)
    with socket.create_connection(address, 5) as connection:
        connection.sendall(line)
        return connection.recv(65536)


@contextlib.contextmanager
def accepting(attempt: Callable[[int], Attempt]) -> Iterator[tuple[Member, socket.socket]]:
    """A member, and what it sent to somebody who listens in node 0's place."""
    with socket.create_server(("127.0.0.1", attempt(0).gang_port)) as server:
        member = Member(attempt(1))
        connection, _ = server.accept()
        with connection:
            yield member, connection


def report(**changed: Any) -> bytes:
    told = {"token": TOKEN, "attempt": 3, "node": 1, "generation": 0, "state": "running"}
    return json.dumps({**told, "furthest": -1, "collectives": 0, **changed}).encode() + b"\n"


def test_a_member_with_news_does_not_hammer_at_a_node_0_that_is_not_there_yet(
    attempt: Callable[[int], Attempt],
) -> None:
    member = Member(attempt(1))
    member.tell(Report(1, 0, FAILED, BUG))
    begun, used = time.monotonic(), time.process_time()
    time.sleep(1)
    assert time.process_time() - used < 0.2 * (time.monotonic() - begun)
    member.leave()


def test_a_restart_goes_round_the_gang(attempt: Callable[[int], Attempt]) -> None:
    leader, member = Leader(attempt(0), Restarts(1)), Member(attempt(1))
    wait_until(member.order, "the first answer")
    assert member.order() == leader.order() == Order(RUN, 0)
    usual, member._ask_seconds = member._ask_seconds, 3600.0  # a change is told at once
    member.tell(Report(1, 0, FAILED, BUG))
    wait_until(lambda: leader.order().act == STOP, "the order to stop")  # type: ignore[union-attr]
    wait_until(lambda: member.order().act == STOP, "the order at the member")  # type: ignore[union-attr]
    member._ask_seconds = usual
    member.tell(Report(1, 0, IDLE))
    leader.tell(Report(0, 0, IDLE))
    wait_until(lambda: member.order() == Order(RUN, 1), "the next generation")
    assert leader.order() == Order(RUN, 1)
    assert leader.coordinator.restarts.told[0]["message"].startswith("ValueError")
    wait_until(lambda: member.spent, "what was spent")
    assert member.spent == leader.spent == {"restarts": 1}


def test_a_member_s_record_tells_of_saves_that_node_0_alone_sees(
    attempt: Callable[[int], Attempt],
) -> None:
    counts = itertools.count()
    Leader(attempt(0), Restarts(3, saves=lambda: next(counts)))
    member = Member(attempt(1))
    member.tell(Report(1, 0, FAILED, BUG))
    wait_until(lambda: member.spent == {"saved": True}, "node 0's word")


def test_a_member_that_never_reached_node_0_has_no_orders(
    attempt: Callable[[int], Attempt],
) -> None:
    member = Member(attempt(1))
    time.sleep(0.5)
    assert member.order() is None


def test_a_member_that_started_first_finds_node_0_later(attempt: Callable[[int], Attempt]) -> None:
    member = Member(attempt(1))
    time.sleep(0.5)
    Leader(attempt(0), Restarts(0))
    wait_until(member.order, "an answer")


def test_silence_of_node_0_is_a_partition(
    attempt: Callable[[int], Attempt], monkeypatch: pytest.MonkeyPatch
) -> None:
    with accepting(attempt) as (member, connection):
        connection.recv(LINE_BYTES)
        answer = {"token": TOKEN, "attempt": 3, "act": "run", "generation": 0}
        connection.sendall(json.dumps(answer).encode() + b"\n")
        assert wait_until(member.order, "an answer").act == RUN
        monkeypatch.setattr("lepton_launcher.gang.SILENCE_SECONDS", 0.6)
        wait_until(lambda: member.order().act == PART, "a partition")  # type: ignore[union-attr]
        order = member.order()
        assert order is not None
        assert "Node 0's launcher did not answer" in order.why


def test_a_report_is_answered(attempt: Callable[[int], Attempt]) -> None:
    Leader(attempt(0), Restarts(0))
    answer = json.loads(send(attempt(0), report(unknown="is ignored")))
    assert (answer["act"], answer["generation"], answer["token"]) == ("run", 0, TOKEN)


@pytest.mark.parametrize(
    "line",
    [
        report(token="another"),
        report(token=None),
        report(attempt=2),
        report(node=0),
        report(node=2),
        report(node="1"),
        report(state="commanding"),
        report(generation=None),
        b"{}\n",
        b"[]\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"\xff\xfe\n",
        b"[" * 4000 + b"\n",
        b"x" * (4 * LINE_BYTES),
    ],
    ids=range(14),
)
def test_a_stranger_is_not_answered_and_commands_nobody(
    attempt: Callable[[int], Attempt], line: bytes
) -> None:
    leader = Leader(attempt(0), Restarts(1))
    with contextlib.suppress(ConnectionError):  # closed with some of it unread, or unsent
        assert send(attempt(0), line) == b""
    assert leader.order() == Order(RUN, 0)
    assert send(attempt(0), report()) != b""


def test_many_idle_strangers_do_not_keep_the_gang_out(attempt: Callable[[int], Attempt]) -> None:
    Leader(attempt(0), Restarts(0))
    address = ("127.0.0.1", attempt(0).gang_port)
    strangers = [socket.create_connection(address, 5) for _ in range(20)]
    try:
        assert send(attempt(0), report()) != b""
    finally:
        for each in strangers:
            each.close()


def test_a_member_follows_only_who_knows_the_token(attempt: Callable[[int], Attempt]) -> None:
    with accepting(attempt) as (member, connection):
        connection.recv(LINE_BYTES)
        answer = {"token": "guessed", "attempt": 3, "act": "stop", "generation": 0}
        connection.sendall(json.dumps(answer).encode() + b"\n")
        assert connection.recv(LINE_BYTES) == b""
        assert member.order() is None


def test_node_0_leaves_when_all_who_still_ask_know_the_end(
    attempt: Callable[[int], Attempt],
) -> None:
    leader, member = Leader(attempt(0), Restarts(0)), Member(attempt(1))
    wait_until(member.order, "the first answer")
    assert not leader.is_understood()
    leader.tell(Report(0, 0, LEAVING))
    wait_until(leader.is_understood, "the member's question")
    wait_until(lambda: member.order().act == END, "the end")  # type: ignore[union-attr]
    assert member.is_understood()


def test_node_0_waits_for_nobody_who_never_came(attempt: Callable[[int], Attempt]) -> None:
    leader = Leader(attempt(0), Restarts(0))
    leader.tell(Report(0, 0, LEAVING))
    assert leader.is_understood()


def test_a_request_to_leave_goes_round_the_gang_with_its_step(
    attempt: Callable[[int], Attempt],
) -> None:
    leader, member = Leader(attempt(0), Restarts(0)), Member(attempt(1))
    leader.tell(Report(0, 0, RUNNING, fastest=40, step_seconds=0.5))
    member.tell(Report(1, 0, RUNNING, fastest=41, step_seconds=0.5))
    wait_until(member.order, "the first answer")
    member._ask_seconds = 3600.0  # a change is told at once
    member.tell(Report(1, 0, RUNNING, fastest=41, step_seconds=0.5, is_asked=True))
    wait_until(lambda: member.order().act == LEAVE, "the order to leave")  # type: ignore[union-attr]
    # A second passes until everybody knows: two steps, and the two in which ranks agree.
    assert leader.order() == member.order()
    assert leader.order().save_at == 45  # type: ignore[union-attr]


def test_a_node_0_that_left_first_is_no_partition(
    attempt: Callable[[int], Attempt], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lepton_launcher.gang.SILENCE_SECONDS", 0.3)
    with accepting(attempt) as (member, connection):
        connection.recv(LINE_BYTES)
        answer = {"token": TOKEN, "attempt": 3, "act": "leave", "generation": 0, "save_at": 12}
        connection.sendall(json.dumps(answer).encode() + b"\n")
        wait_until(member.order, "an answer")
        time.sleep(0.5)
        order = member.order()
        assert order is not None
        assert (order.act, order.save_at) == (LEAVE, 12)
