"""Who is in an attempt, as the operator tells it through the pod's annotation."""

from __future__ import annotations

import json
import socket
from typing import TYPE_CHECKING, Any, NamedTuple

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


class NotThisAttempt(ValueError):
    """The text does not describe the attempt that this pod is part of; the message says why."""


def parse_attempt(text: str, options: Options) -> Attempt:
    """Read the annotation; raises NotThisAttempt if it is not about this pod's attempt."""
    told = _object(text)
    attempt = Attempt(
        number=_integer(told, "attempt"),
        node_rank=_integer(told, "nodeRank"),
        num_nodes=_integer(told, "numNodes"),
        address=_address(told),
        port=_integer(told, "port"),
        gang_port=_integer(told, "gangPort") if "gangPort" in told else 0,
        token=str(told.get("token", "")),
    )
    if attempt.number != options.attempt:
        raise NotThisAttempt(f"it is attempt {attempt.number}, not {options.attempt}")
    if (attempt.node_rank, attempt.num_nodes) != (options.node_rank, options.num_nodes):
        raise NotThisAttempt(
            f"it is node {attempt.node_rank} of {attempt.num_nodes}, "
            f"not {options.node_rank} of {options.num_nodes}"
        )
    for port in (attempt.port, attempt.gang_port or attempt.port):
        if not 0 < port <= _HIGHEST_PORT:
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
