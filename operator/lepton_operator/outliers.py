"""Hears from the doors which pods fail the requests that they get.

One request a door, which it answers for as long as it lives: at once, whenever the pods that fail
are others, and each minute. So a fleet in which nothing fails costs a line a minute and door, and a
new leader knows at once what the one before it knew. Nothing that a door says is trusted.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import aiohttp
from yarl import URL

from lepton_operator import logs, names
from lepton_operator.build.door import HEALTH_PORT
from lepton_operator.cache import Cache, Key
from lepton_operator.conditions import cut
from lepton_operator.inference.draining import takes_requests
from lepton_operator.views import Fault, PodView

ROUND_SECONDS = 1.0
SILENCE_SECONDS = 150.0
"""A door says something each minute; one that did not for so long is asked anew."""
CONNECT_SECONDS = 2.0
RETRY_SECONDS = 1.0
LONGEST_RETRY_SECONDS = 60.0
MAX_BYTES = 1_048_576
MAX_WHAT = 80

_log = logs.logger(__name__)

Faults = Mapping[str, Mapping[str, Fault]]
"""By the service's name, and the pod's address."""


@dataclass(slots=True)
class _Heard:
    """A door that is listened to, and what it told last."""

    task: asyncio.Task[None]
    namespace: str
    faults: Faults


class Outliers:
    """Pods that fail requests, as the doors of their namespace see them."""

    def __init__(self, cache: Cache, port: int = HEALTH_PORT) -> None:
        self._cache = cache
        self._port = port
        self._heard: dict[str, _Heard] = {}  # by the door's UID

    def of(self, namespace: str, service: str) -> dict[str, Fault]:
        """Return the faults of a service's pods by their addresses; one door's word is enough."""
        found: dict[str, Fault] = {}
        for door in self._cache.pods(names.door_uid(namespace)):
            heard = self._heard.get(door.uid)
            for address, fault in (heard.faults.get(service, {}) if heard else {}).items():
                found[address] = fault.joined(found.get(address))
        return found

    async def run(self, wake: Callable[[Key], None]) -> None:
        """Listen for ever; `wake` is told about whose pods something else was told."""
        timeout = aiohttp.ClientTimeout(
            total=None, sock_connect=CONNECT_SECONDS, sock_read=SILENCE_SECONDS
        )
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(
            connector=connector, timeout=timeout, auto_decompress=False, read_bufsize=MAX_BYTES
        ) as session:
            try:
                while True:
                    self.follow(session, wake)
                    await asyncio.sleep(ROUND_SECONDS)
            finally:
                await self._stop(list(self._heard))

    def follow(self, session: aiohttp.ClientSession, wake: Callable[[Key], None]) -> None:
        """Listen to every door that there is, and no longer to those that are gone."""
        doors = {door.uid: door for door in self._cache.doors() if takes_requests(door)}
        for uid in self._heard.keys() - doors.keys():
            gone = self._heard.pop(uid)
            gone.task.cancel()
            self._wake(gone.namespace, gone.faults, {}, wake)
        for uid in doors.keys() - self._heard.keys():
            listening = self._listen(session, doors[uid], wake)
            self._heard[uid] = _Heard(asyncio.create_task(listening), doors[uid].namespace, {})

    async def _stop(self, uids: list[str]) -> None:
        tasks = [self._heard.pop(uid).task for uid in uids]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _listen(
        self, session: aiohttp.ClientSession, door: PodView, wake: Callable[[Key], None]
    ) -> None:
        """Take in what a door tells; what it told last holds while it is not reached."""
        wait = RETRY_SECONDS
        while True:
            try:
                async with session.get(self._url(door), allow_redirects=False) as response:
                    response.raise_for_status()
                    while line := await response.content.readline():
                        self._hear(door, parse(line), wake)
                        wait = RETRY_SECONDS
            except Exception as error:  # noqa: BLE001 - whatever it says, others are listened to
                _log.debug("A door cannot be heard", pod=door.name, error=str(error))
            await asyncio.sleep(wait)
            wait = min(2 * wait, LONGEST_RETRY_SECONDS)

    def _url(self, door: PodView) -> URL:
        return URL.build(scheme="http", host=door.ip or "", port=self._port, path="/failing")

    def _hear(self, door: PodView, faults: Faults, wake: Callable[[Key], None]) -> None:
        heard = self._heard.get(door.uid)
        if heard is None:
            return
        before, heard.faults = heard.faults, faults
        self._wake(door.namespace, before, faults, wake)

    def _wake(
        self, namespace: str, before: Faults, after: Faults, wake: Callable[[Key], None]
    ) -> None:
        for service in sorted(before.keys() | after.keys()):
            key = Key("InferenceService", namespace, service)
            if before.get(service) != after.get(service) and self._cache.own(key) is not None:
                wake(key)


def parse(line: bytes) -> Faults:
    """Return what a door tells; raises whatever comes of an answer that is something else.

    A pod that fails HTTP and gRPC has two entries, of which the first counts.
    """
    found: dict[str, dict[str, Fault]] = {}
    for cluster, places in json.loads(line).items():
        faults = found.setdefault(cluster.rpartition("/")[0], {})
        for place, told in places.items():
            address = place.rpartition(":")[0].strip("[]")
            faults[address] = _fault(told).joined(faults.get(address))
    return found


def _fault(told: Mapping[str, Any]) -> Fault:
    since = datetime.fromisoformat(told["since"])
    if since.tzinfo is None or not isinstance(told["what"], str):
        raise ValueError("it tells no time, or not what a pod did")
    return Fault(since, cut(told["what"], MAX_WHAT), told["ejected"] is True)
