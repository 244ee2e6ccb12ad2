"""Where counts come from: Prometheus first, and the doors themselves where that tells nothing.

Nobody who is asked can hold up the decisions about others' services: an answer that takes longer
than a look waits is there for the next one.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Collection, Coroutine, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from lepton_operator import logs
from lepton_operator.build.door import HEALTH_PORT
from lepton_operator.inquiry import Inquiry, inquiry
from lepton_operator.settings import Settings
from lepton_operator.signals import doors as door_counts
from lepton_operator.signals import prometheus
from lepton_operator.signals.counts import Counts, DoorCounts, Service
from lepton_operator.views import PodView

PATIENCE_SECONDS = 1.0
"""What a look waits for answers: half of the time between two."""
RETRY_SECONDS = 10.0
"""A Prometheus that did not answer is asked again after so long."""
LONGEST_RETRY_SECONDS = 60.0
_NOT_SET = (
    "prometheus.url is not set in the chart, and prometheus.enabled, which installs one, is not."
)

_log = logs.logger(__name__)

Told = Mapping[Service, Counts]


@dataclass(slots=True)
class _Door:
    """What a door told last, and when it may be asked again: one that is silent, ever later."""

    told: Mapping[str, DoorCounts] = field(default_factory=dict)  # by service
    asked: asyncio.Task[None] | None = None
    wait_seconds: float = 0.0
    asks_again_at: float = 0.0

    def stop(self) -> None:
        if self.asked is not None:
            self.asked.cancel()


@dataclass(slots=True)
class Sources:
    """Asks; `why` is what is wrong with Prometheus, nothing if it answers."""

    settings: Settings
    session: aiohttp.ClientSession
    asking: Inquiry
    port: int = HEALTH_PORT
    why: str = ""
    _told: Told = field(default_factory=dict)
    _reading: asyncio.Task[None] | None = None
    _asks_again_at: float = 0.0
    _doors: dict[str, _Door] = field(default_factory=dict)  # by UID

    async def prometheus(self, services: Collection[Service]) -> Told:
        """Return what Prometheus told last of these services; nothing if it did not answer."""
        due = time.monotonic() >= self._asks_again_at
        if self.settings.prometheus.url and due and is_over(self._reading):
            self._reading = started(self._read(services))
        await wait_a_while([self._reading])
        return self._told

    async def doors(self, doors: Collection[PodView], services: Collection[Service]) -> Told:
        """Return what these doors told last of these services, asked themselves."""
        asked = {door.uid: self._doors.get(door.uid, _Door()) for door in doors}
        for uid in self._doors.keys() - asked.keys():
            self._doors[uid].stop()
        self._doors = asked
        now, names = time.monotonic(), _by_namespace(services) if doors else {}
        for door in doors:
            known = asked[door.uid]
            if is_over(known.asked) and now >= known.asks_again_at:
                known.asked = started(self._ask(door, names.get(door.namespace, set()), known))
        await wait_a_while([each.asked for each in asked.values()])
        found: dict[Service, dict[str, DoorCounts]] = {}
        for door in doors:
            for name, counts in asked[door.uid].told.items():
                found.setdefault(Service(door.namespace, name), {})[door.name] = counts
        return {service: Counts(counted) for service, counted in found.items()}

    async def stop(self) -> None:
        """Ask nobody any more."""
        await ended([self._reading, *(each.asked for each in self._doors.values())])

    async def _read(self, services: Collection[Service]) -> None:
        query = prometheus.query(self.settings.prometheus.matchers, self.settings.watch_namespaces)
        try:
            url = self.settings.prometheus.url
            self._told = await prometheus.read(self.session, url, query, services)
        except prometheus.SignalError as error:
            self._asks_again_at = time.monotonic() + RETRY_SECONDS
            self._told = {}
            self._say(str(error))
        else:
            self._say("")

    async def _ask(self, door: PodView, services: Collection[str], known: _Door) -> None:
        told = await door_counts.read(self.asking, door, services, time.time, self.port)
        known.told = told or {}
        known.wait_seconds = longer(known.wait_seconds, 1.0) if told is None else 0.0
        known.asks_again_at = time.monotonic() + known.wait_seconds

    def _say(self, why: str) -> None:
        if why and why != self.why:
            _log.warning("The doors are asked in place of Prometheus", why=why)
        elif self.why and not why:
            _log.info("Prometheus answers again")
        self.why = why


def _by_namespace(services: Iterable[Service]) -> Mapping[str, Collection[str]]:
    found: dict[str, set[str]] = {}
    for each in services:
        found.setdefault(each.namespace, set()).add(each.name)
    return found


def longer(wait_seconds: float, first_seconds: float) -> float:
    """Return the next wait for who did not do what it was asked: twice the one before."""
    return min(max(first_seconds, 2 * wait_seconds), LONGEST_RETRY_SECONDS)


def is_over(task: asyncio.Task[None] | None) -> bool:
    """Whether nothing is under way."""
    return task is None or task.done()


def started(work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
    """Return a task of it; a defect in one must not end the others."""
    task = asyncio.create_task(work)
    task.add_done_callback(_log_defect)
    return task


def _log_defect(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        _log.error("This is a defect of the operator; it goes on", exc_info=error)


async def wait_a_while(tasks: Iterable[asyncio.Task[None] | None]) -> None:
    """Wait for at most PATIENCE_SECONDS."""
    running = [each for each in tasks if each is not None]
    if running:
        await asyncio.wait(running, timeout=PATIENCE_SECONDS)


async def ended(tasks: Iterable[asyncio.Task[None] | None]) -> None:
    """End them."""
    running = [each for each in tasks if each is not None]
    for each in running:
        each.cancel()
    await asyncio.gather(*running, return_exceptions=True)


@asynccontextmanager
async def sources(settings: Settings, port: int = HEALTH_PORT) -> AsyncIterator[Sources]:
    """Yield what is asked with."""
    async with aiohttp.ClientSession() as session, inquiry() as asking:
        why = "" if settings.prometheus.url else _NOT_SET
        found = Sources(settings, session, asking, port, why)
        try:
            yield found
        finally:
            await found.stop()


def fresh(told: Counts | None, doors: Iterable[str], now: float, max_age_seconds: float) -> Counts:
    """Return what was told of these doors of late: others may be gone, or nobody's.

    What was sampled as far in the future is as wrong, and would make all that follows look old.
    """
    if told is None:
        return Counts()
    found = {name: told.doors.get(name) for name in doors}
    return Counts(
        {
            name: each
            for name, each in found.items()
            if each and abs(now - each.at) <= max_age_seconds
        },
        told.tritons,
    )


def why_not(told: Counts | None, doors: Iterable[str], now: float, max_age_seconds: float) -> str:
    """Return why a Prometheus that answers is of no use for these doors."""
    times = [told.doors[name].at for name in doors if name in told.doors] if told else []
    if not times:
        return "Prometheus tells nothing of this service's doors: does it scrape them?"
    age = now - max(times)
    when = f"{age:.0f} s old" if age > 0 else f"{-age:.0f} s in the future"
    return (
        f"What Prometheus tells of this service's doors is {when}, and {max_age_seconds:.0f} s are "
        "allowed: it scrapes them too seldom, or clocks differ (prometheus.maxAgeSeconds)."
    )
