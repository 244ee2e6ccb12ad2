"""Ports of this host for servers that are told theirs before they start."""

from __future__ import annotations

import random
import socket
from contextlib import suppress

_PORTS = range(10_000, 32_768)
"""Linux gives connections their near ends from 32,768 up: one of those that is free now may be
taken by anybody's connection before the server binds it."""


def free_ports(count: int) -> list[int]:
    """Return so many different ports that nobody listens on."""
    found: set[int] = set()
    while len(found) < count:
        port = random.choice(_PORTS)  # noqa: S311 - two callers at once should differ, no more
        if _is_free(port):
            found.add(port)
    return list(found)


def free_port() -> int:
    return free_ports(1)[0]


def _is_free(port: int) -> bool:
    with suppress(OSError), socket.create_server(("", port)):
        return True
    return False
