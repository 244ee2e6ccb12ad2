"""Asks the doors of a namespace where they take connections, while a Service leads past them.

A door may be ready for other services long before it has the listener of this one, and a Service
that is led there too early loses every request. Once no Service is from before there were doors,
nobody is asked.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from functools import partial

from lepton_operator import logs, names
from lepton_operator.build.door import HEALTH_PORT
from lepton_operator.cache import Cache, Key
from lepton_operator.inquiry import NO_ANSWER, Inquiry, ask_for_ever
from lepton_operator.views import PodView

ROUND_SECONDS = 0.5

Ports = Mapping[str, frozenset[int]]
"""The ports on which each door takes connections, by its UID."""

_log = logs.logger(__name__)


class Listening:
    """Where the doors listen, as they told themselves."""

    def __init__(self, cache: Cache, port: int = HEALTH_PORT) -> None:
        self._cache = cache
        self._port = port
        self._told: dict[str, Ports] = {}  # by namespace

    def told(self, namespace: str) -> Ports:
        """Return what the doors of a namespace told; nothing where no Service leads past them."""
        return self._told.get(namespace, {})

    async def run(self, wake: Callable[[Key], None]) -> None:
        """Ask for ever; `wake` is told whose port a door listens on now, or does no more."""
        await ask_for_ever(partial(self.ask_all, wake=wake), ROUND_SECONDS)

    async def ask_all(self, asking: Inquiry, wake: Callable[[Key], None]) -> None:
        """Ask the doors of every namespace in which a Service leads past them."""
        asked = self._cache.bypassed_namespaces()
        found = await asyncio.gather(*(self._ask_namespace(asking, each) for each in asked))
        before, self._told = self._told, dict(zip(asked, found, strict=True))
        for namespace in asked:
            self._wake(namespace, before.get(namespace, {}), wake)

    def _wake(self, namespace: str, before: Ports, wake: Callable[[Key], None]) -> None:
        pairs = _pairs(before) ^ _pairs(self._told[namespace])
        holders = self._cache.ports(namespace)
        for port in {port for _, port in pairs}:
            holder = holders.get(port)
            key = self._cache.owner(holder) if holder is not None else None
            if key is not None:
                wake(key)

    async def _ask_namespace(self, asking: Inquiry, namespace: str) -> Ports:
        doors = [pod for pod in self._cache.pods(names.door_uid(namespace)) if _is_up(pod)]
        found = await asyncio.gather(*(self._ask(asking, door) for door in doors))
        return {door.uid: ports for door, ports in zip(doors, found, strict=True)}

    async def _ask(self, asking: Inquiry, door: PodView) -> frozenset[int]:
        try:
            return parse(await asking.ask(door, self._port, "/listeners"))
        except NO_ANSWER as error:
            _log.debug("A door does not tell where it listens", pod=door.name, error=str(error))
            return frozenset()


def parse(content: bytes) -> frozenset[int]:
    """Return the ports that a door told; raises ValueError or TypeError."""
    found = json.loads(content)
    if not isinstance(found, list):
        raise TypeError("its answer is no list")
    return frozenset(each for each in found if isinstance(each, int))


def _is_up(pod: PodView) -> bool:
    return pod.ready and bool(pod.ip) and not pod.gone


def _pairs(ports: Ports) -> set[tuple[str, int]]:
    return {(door, port) for door, found in ports.items() for port in found}
