"""Who is in an attempt, as the operator tells it through the pod's annotation.

A pod may be part of several attempts, one after the other: when a peer is lost, the operator tells
those that live of the next one.
"""

from __future__ import annotations

import json
import socket
from typing import TYPE_CHECKING, Any, NamedTuple

from lepton_launcher.speech import say

if TYPE_CHECKING:
    from lepton_launcher.options import Options

_HIGHEST_PORT = 65535


class Attempt(NamedTuple):
    """A static rendezvous: this node's rank among so many, and where node 0 listens."""

    number: int
    node_rank: int
    num_nodes: int
    address: str
    port: int
    gang_port: int = 0
    """Where node 0's launcher listens for the others'; 0 if they do not talk."""
    token: str = ""
    """What they know each other by."""
    max_restarts: int | None = None
    """What is left of that budget now; None: as the command line said."""
    furthest_step: int | None = None
    """The furthest step of the attempts before; None: as the command line said."""
    leave: bool = False
    """Whether the pod is asked to leave by the same word."""

    @property
    def is_placed(self) -> bool:
        """Whether node 0 has an address; until then it is only known that the attempt comes."""
        return bool(self.address)


class NotThisAttempt(ValueError):
    """The text does not describe the attempt that this pod is part of; the message says why."""


class AttemptFile:
    """The file that the kubelet writes whenever the annotation changes."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._doubt = ""

    def newest(self) -> Attempt | None:
        """What it tells, if it is about this pod; why not is said once."""
        try:
            text = self._options.attempt_file.read_text("utf-8", "replace")
        except OSError:
            return None
        if not text.strip():
            return None
        try:
            return parse_attempt(text, self._options)
        except NotThisAttempt as doubt:
            if self._doubt != str(doubt):
                self._doubt = str(doubt)
                say(f"the attempt file is not followed: {doubt}; waiting for another")
            return None

    def after(self, number: int) -> Attempt | None:
        """An attempt beyond this one that can begin."""
        told = self.newest()
        return told if told and told.number > number and told.is_placed else None

    def says_leave(self) -> bool:
        """Whether it asks this pod to leave."""
        try:
            return says_leave(self._options.attempt_file.read_text("utf-8", "replace"))
        except OSError:
            return False

    def is_closed(self, number: int) -> bool:
        """Whether a later attempt is told of, so that this one counts no more."""
        told = self.newest()
        return told is not None and told.number > number


def parse_attempt(text: str, options: Options) -> Attempt:
    """Read the annotation; raises NotThisAttempt if it is not about an attempt of this pod's."""
    told = _object(text)
    attempt = Attempt(
        number=_integer(told, "attempt"),
        node_rank=_integer(told, "nodeRank"),
        num_nodes=_integer(told, "numNodes"),
        address=_address(told) if "address" in told else "",
        port=_integer(told, "port") if "address" in told else 0,
        gang_port=_integer(told, "gangPort") if "gangPort" in told else 0,
        token=str(told.get("token", "")),
        max_restarts=_integer(told, "maxRestarts") if "maxRestarts" in told else None,
        furthest_step=_integer(told, "furthestStep") if "furthestStep" in told else None,
        leave=told.get("leave") is True,
    )
    if attempt.number < options.attempt:
        raise NotThisAttempt(f"it is attempt {attempt.number}, not {options.attempt} or later")
    if (attempt.node_rank, attempt.num_nodes) != (options.node_rank, options.num_nodes):
        raise NotThisAttempt(
            f"it is node {attempt.node_rank} of {attempt.num_nodes}, "
            f"not {options.node_rank} of {options.num_nodes}"
        )
    for port in (attempt.port, attempt.gang_port or attempt.port):
        if attempt.is_placed and not 0 < port <= _HIGHEST_PORT:
            raise NotThisAttempt(f"{port} is not a port")
    return attempt


def says_leave(text: str) -> bool:
    """Whether the annotation asks this pod to leave."""
    try:
        return _object(text).get("leave") is True
    except NotThisAttempt:
        return False


def attempt_alone(options: Options) -> Attempt:
    """An attempt of one node on this machine, on a port that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return Attempt(options.attempt, node_rank=0, num_nodes=1, address="127.0.0.1", port=port)


def _object(text: str) -> dict[str, Any]:
    try:
        told = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise NotThisAttempt("it is not JSON") from error
    if not isinstance(told, dict):
        raise NotThisAttempt("it is not an object")
    return told


def _integer(told: dict[str, Any], key: str) -> int:
    value = told.get(key)
    if not isinstance(value, int) or isinstance(value, bool):
        raise NotThisAttempt(f"its {key} is not a whole number")
    return value


def _address(told: dict[str, Any]) -> str:
    value = told.get("address")
    if not isinstance(value, str) or not value.strip():
        raise NotThisAttempt("its address is missing")
    return value.strip()
