"""Ports of this host for servers that are told theirs before they start."""

from __future__ import annotations

import fcntl
import itertools
import os
import random
import socket
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path

_PORTS = range(10_000, 32_768)
"""Linux gives connections their near ends from 32,768 up: one of those that is free now may be
taken by anybody's connection before the server binds it."""
_PARTS = 10


def free_ports(count: int) -> list[int]:
    """Return so many different ports that nobody listens on."""
    free = filter(_is_free, _in_turn(os.getpid()))
    return list(itertools.islice(free, count))


def free_port() -> int:
    return free_ports(1)[0]


@cache
def _in_turn(process: int) -> Iterator[int]:
    """Yield the ports of this process's part: one that was told comes again after all others.

    Nobody may listen on it yet.
    """
    ports = _part(process)
    return itertools.cycle(random.sample(ports, len(ports)))


@cache
def _part(_: int) -> range:
    """Return a part of the ports in which no other process looks while this one lives.

    To try a port is to listen on it: a server that was just told it would find it taken. Where all
    parts are taken, several look in all.
    """
    size = len(_PORTS) // _PARTS
    for part in random.sample(range(_PARTS), _PARTS):
        with suppress(OSError):
            path = Path(tempfile.gettempdir()) / f"lepton-ports-{part}.lock"
            lock = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o666)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                os.close(lock)
                raise
            return _PORTS[part * size : (part + 1) * size]
    return _PORTS


def _is_free(port: int) -> bool:
    with suppress(OSError), socket.create_server(("", port)):
        return True
    return False
