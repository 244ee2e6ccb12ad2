"""How the launchers of a gang talk: each asks node 0's over TCP, several times a second.

One line of JSON each way, of bounded size; what is unknown in it is ignored, and what is no such
line ends the connection. Both sides show the attempt's token, which only pods of the gang are told.
"""

from __future__ import annotations

import contextlib
import hmac
import json
import math
import selectors
import socket
import threading
import time
from typing import TYPE_CHECKING, Any

from lepton_launcher.coordinator import (
    ACTS,
    END,
    LEAVE,
    PART,
    RUNNING,
    SILENCE_SECONDS,
    STATES,
    Coordinator,
    Order,
    Report,
)
from lepton_launcher.observer import LOOK_SECONDS
from lepton_launcher.slow import OwnTime
from lepton_launcher.speech import say

if TYPE_CHECKING:
    from lepton_launcher.attempts import Attempt
    from lepton_launcher.restarts import Restarts

LINE_BYTES = 4096
_MESSAGE_CHARACTERS = 256
_ASK_SECONDS = 0.25
_ASK_SECONDS_OF_MANY = 1.0
_MANY_NODES = 32
_ANSWER_SECONDS = 2.0
_BACKLOG = 1024
_LONGEST_SECONDS = 1e9
_FACTS = ("reason", "rank", "exitCode", "signal", "step")
_LAST = (END, PART, LEAVE)


def join(attempt: Attempt, restarts: Restarts) -> Leader | Member | None:
    """Return the launcher's part in its gang; None where there is none, or no place to meet."""
    if attempt.num_nodes == 1 or not attempt.gang_port or not attempt.token:
        return None
    try:
        return Member(attempt) if attempt.node_rank else Leader(attempt, restarts)
    except OSError as error:
        say(f"the other launchers cannot reach this one: {error}")
        return None


class Leader:
    """Node 0's part: answers the others, and obeys the same orders."""

    def __init__(self, attempt: Attempt, restarts: Restarts) -> None:
        # A report may be one question old, and another passes until everybody has the answer.
        reach_seconds = 2 * (_ask_seconds(attempt) + LOOK_SECONDS)
        self.coordinator = Coordinator(attempt.num_nodes, restarts, reach_seconds)
        self._attempt = attempt
        self._lock = threading.Lock()
        self._report = Report(0, 0, RUNNING)
        self._selector = selectors.DefaultSelector()
        self._server = _listening(attempt.gang_port)
        self._server.setblocking(False)
        self._selector.register(self._server, selectors.EVENT_READ)
        self._unfinished: dict[socket.socket, bytes] = {}
        self._missing = set(range(1, attempt.num_nodes))
        self._wakeup, self._wake = socket.socketpair()
        self._selector.register(self._wakeup, selectors.EVENT_READ)
        threading.Thread(target=self._serve, name="gang", daemon=True).start()

    @property
    def spent(self) -> dict[str, Any]:
        """What the records of the gang say of its restarts."""
        return self.coordinator.restarts.spent

    def tell(self, report: Report) -> None:
        """Say how this node's ranks are."""
        self._report = report
        self.order()

    def order(self) -> Order | None:
        """What to do."""
        now = time.monotonic()
        with self._lock:
            self.coordinator.hear(self._report, now)
            return self.coordinator.order(now)

    def own_times(self, generation: int) -> list[OwnTime]:
        """The own time of the slowest rank on each other node."""
        with self._lock:
            told = self.coordinator.own_times(generation)
        return [each for each in told if each.node]

    def is_understood(self) -> bool:
        """Whether every other node that still asks was told that this generation is the last."""
        with self._lock:
            asking = self.coordinator.heard_since(time.monotonic() - _ANSWER_SECONDS)
        return not self._missing & asking

    def leave(self) -> None:
        """Answer nobody any more: the attempt is over for this pod."""
        self._wake.close()

    def _serve(self) -> None:
        while True:
            for key, _ in self._selector.select():
                if key.fileobj is self._wakeup:
                    self._close()
                    return
                if key.fileobj is self._server:
                    self._accept()
                else:
                    self._read(key.fileobj)

    def _close(self) -> None:
        for each in (self._server, self._wakeup, *self._unfinished):
            each.close()
        self._selector.close()

    def _accept(self) -> None:
        try:
            connection, _ = self._server.accept()
        except OSError:
            return
        # As many as there can be, and some that were cut off and come back.
        if len(self._unfinished) >= 2 * self._attempt.num_nodes + _MANY_NODES:
            connection.close()
            return
        connection.setblocking(False)
        self._unfinished[connection] = b""
        self._selector.register(connection, selectors.EVENT_READ)

    def _read(self, connection: Any) -> None:
        try:
            received = connection.recv(LINE_BYTES)
            line, found, rest = (self._unfinished[connection] + received).partition(b"\n")
            _check_size(line, received)
            if found:
                self._answer(connection, line)
        except (OSError, _NotOurs):
            self._selector.unregister(connection)
            del self._unfinished[connection]
            connection.close()
        else:
            self._unfinished[connection] = rest if found else line

    def _answer(self, connection: socket.socket, line: bytes) -> None:
        report = _report_in(_opened(line, self._attempt), self._attempt.num_nodes)
        now = time.monotonic()
        with self._lock:
            # This launcher lives, even while it is busy ending its ranks.
            self.coordinator.hear(self._report, now)
            self.coordinator.hear(report, now)
            order = self.coordinator.order(now)
        connection.sendall(_sealed({**_order_facts(order), "spent": self.spent}, self._attempt))
        # Not before: once nobody is missing, this process may end.
        if order.act in _LAST:
            self._missing.discard(report.node)


class Member:
    """Another node's part: asks node 0, and takes its silence for a partition."""

    def __init__(self, attempt: Attempt) -> None:
        self.spent: dict[str, Any] = {}
        """What the records of the gang say of its restarts, as node 0 told last."""
        self._attempt = attempt
        self._report = Report(attempt.node_rank, 0, RUNNING)
        self._order: Order | None = None
        self._answered_at = 0.0
        self._is_new = threading.Event()
        self._has_left = False
        self._ask_seconds = _ask_seconds(attempt)
        threading.Thread(target=self._ask_until_it_leaves, name="gang", daemon=True).start()

    def tell(self, report: Report) -> None:
        """Say how this node's ranks are; a change is told at once."""
        is_changed = _news(report) != _news(self._report)
        self._report = report
        if is_changed:
            self._is_new.set()

    def order(self) -> Order | None:
        """What to do; None as long as node 0 was never reached."""
        order = self._order
        if order is None or time.monotonic() - self._answered_at <= SILENCE_SECONDS:
            return order
        if order.act in _LAST:
            return order  # node 0 may be gone for the same reason
        why = f"Node 0's launcher did not answer for {SILENCE_SECONDS:.0f} s."
        return Order(PART, order.generation, why)

    def own_times(self, generation: int) -> list[OwnTime]:  # noqa: ARG002 - as a Leader's
        """Node 0 alone compares."""
        return []

    def is_understood(self) -> bool:
        """Nobody asks this node."""
        return True

    def leave(self) -> None:
        """Ask no more: the attempt is over for this pod."""
        self._has_left = True
        self._is_new.set()

    def _ask_until_it_leaves(self) -> None:
        while not self._has_left:
            with contextlib.suppress(OSError, _NotOurs):
                self._ask_while_answered()
            # News would wait for nothing here, again and again: they are told once it answers.
            self._is_new.clear()
            self._is_new.wait(self._ask_seconds)

    def _ask_while_answered(self) -> None:
        address = (self._attempt.address, self._attempt.gang_port)
        with socket.create_connection(address, _ANSWER_SECONDS) as connection:
            while not self._has_left:
                self._is_new.clear()
                connection.sendall(_sealed(_report_facts(self._report), self._attempt))
                told = _opened(_line_from(connection), self._attempt)
                self.spent, self._order = _spent_in(told), _order_in(told)
                self._answered_at = time.monotonic()
                self._is_new.wait(self._ask_seconds)


def _ask_seconds(attempt: Attempt) -> float:
    return _ASK_SECONDS_OF_MANY if attempt.num_nodes > _MANY_NODES else _ASK_SECONDS


def _news(report: Report) -> Report:
    """A report without what changes all the time."""
    fastest = min(report.fastest, 0)
    return report._replace(furthest=0, fastest=fastest, step_seconds=0.0, own=None)


class _NotOurs(Exception):
    """What was received is no line of this gang's."""


def _listening(port: int) -> socket.socket:
    if socket.has_dualstack_ipv6():
        family: Any = socket.AF_INET6
        return socket.create_server(
            ("", port), family=family, backlog=_BACKLOG, dualstack_ipv6=True
        )
    return socket.create_server(("", port), backlog=_BACKLOG)


def _line_from(connection: socket.socket) -> bytes:
    line = b""
    while not line.endswith(b"\n"):
        received = connection.recv(LINE_BYTES)
        line += received
        _check_size(line, received)
    return line


def _check_size(line: bytes, received: bytes) -> None:
    if not received or len(line) > LINE_BYTES:
        raise _NotOurs


def _sealed(facts: dict[str, Any], attempt: Attempt) -> bytes:
    told = {"token": attempt.token, "attempt": attempt.number, **facts}
    return json.dumps(told).encode() + b"\n"


def _opened(line: bytes, attempt: Attempt) -> dict[str, Any]:
    try:
        told = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise _NotOurs from error
    if not isinstance(told, dict) or told.get("attempt") != attempt.number:
        raise _NotOurs
    if not hmac.compare_digest(str(told.get("token")).encode(), attempt.token.encode()):
        raise _NotOurs
    return told


def _report_facts(report: Report) -> dict[str, Any]:
    record = {name: report.record[name] for name in _FACTS if name in report.record}
    if "message" in report.record:
        record["message"] = str(report.record["message"])[:_MESSAGE_CHARACTERS]
    own = report.own and report.own._asdict()
    return {**report._asdict(), "record": record, "own": own}


def _report_in(told: dict[str, Any], num_nodes: int) -> Report:
    record = told.get("record")
    report = Report(
        node=_integer(told, "node"),
        generation=_integer(told, "generation"),
        state=str(told.get("state")),
        record=record if isinstance(record, dict) else {},
        furthest=_integer(told, "furthest"),
        collectives=_integer(told, "collectives"),
        own=_own_in(told.get("own"), _integer(told, "node")),
        is_asked=told.get("is_asked") is True,
        fastest=_integer({"fastest": -1, **told}, "fastest"),
        step_seconds=_seconds(told.get("step_seconds")),
    )
    if not 0 < report.node < num_nodes or report.state not in STATES:
        raise _NotOurs
    # A restart needs a reason that is known; without one there is none.
    return report._replace(record={"reason": "", **report.record})


def _own_in(told: object, node: int) -> OwnTime | None:
    if not isinstance(told, dict):
        return None
    seconds, error = _duration(told.get("seconds")), _duration(told.get("error_seconds"))
    return OwnTime(_integer(told, "rank"), node, seconds, error)


def _duration(value: object) -> float:
    if not isinstance(value, (int, float)) or not 0 <= value < _LONGEST_SECONDS:
        raise _NotOurs
    return value


def _order_facts(order: Order) -> dict[str, Any]:
    return {**order._asdict(), "why": order.why[:_MESSAGE_CHARACTERS]}


def _order_in(told: dict[str, Any]) -> Order:
    act, why = str(told.get("act")), str(told.get("why", ""))
    if act not in ACTS:
        raise _NotOurs
    return Order(
        act,
        _integer(told, "generation"),
        why,
        stacks=told.get("stacks") is True,
        silent_node=_integer(told, "silent_node") if act == PART else 0,
        save_at=_integer(told, "save_at") if act == LEAVE else 0,
        leaver=_integer(told, "leaver") if act == END else -1,
    )


def _spent_in(told: dict[str, Any]) -> dict[str, Any]:
    spent = told.get("spent")
    if not isinstance(spent, dict):
        return {}
    counted = {name: _integer(spent, name) for name in ("restarts", "furthest") if name in spent}
    return {**counted, **{name: True for name in ("repeated", "saved") if spent.get(name) is True}}


def _seconds(value: object) -> float:
    return value if isinstance(value, float) and 0 < value < math.inf else 0.0


def _integer(told: dict[str, Any], key: str) -> int:
    value = told.get(key)
    if not isinstance(value, int):
        raise _NotOurs
    return value
