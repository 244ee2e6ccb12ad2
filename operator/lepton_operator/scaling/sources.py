"""Where counts come from: Prometheus first, and the doors themselves where that tells nothing."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Collection, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import aiohttp

from lepton_operator import logs
from lepton_operator.build.door import HEALTH_PORT
from lepton_operator.inquiry import Inquiry, inquiry
from lepton_operator.settings import Settings
from lepton_operator.signals import doors as door_counts
from lepton_operator.signals import prometheus
from lepton_operator.signals.counts import Counts, DoorCounts, Service
from lepton_operator.views import PodView

RETRY_SECONDS = 10.0
"""A Prometheus that did not answer is not asked again at once: each wait for it is one for all."""

_log = logs.logger(__name__)

Told = Mapping[Service, Counts]


@dataclass(slots=True)
class Sources:
    """Asks; `why` is what is wrong with Prometheus, nothing if it answers, or if there is none."""

    settings: Settings
    session: aiohttp.ClientSession
    asking: Inquiry
    port: int = HEALTH_PORT
    why: str = ""
    _query: str = ""
    _asks_again_at: float = field(default=0.0)

    def __post_init__(self) -> None:
        self._query = prometheus.query(
            self.settings.prometheus.matchers, self.settings.watch_namespaces
        )

    async def prometheus(self) -> Told:
        """Return what Prometheus tells; nothing if it does not answer."""
        url, now = self.settings.prometheus.url, time.monotonic()
        if not url or now < self._asks_again_at:
            return {}
        try:
            told = await prometheus.read(self.session, url, self._query)
        except prometheus.SignalError as error:
            self._asks_again_at = now + RETRY_SECONDS
            self._say(str(error))
            return {}
        self._say("")
        return told

    async def doors(self, doors: Collection[PodView]) -> Told:
        """Return what these doors tell, asked themselves."""
        if not doors:
            return {}
        return await door_counts.read(self.asking, doors, time.time, self.port)

    def _say(self, why: str) -> None:
        if why and why != self.why:
            _log.warning("The doors are asked in place of Prometheus", why=why)
        elif self.why and not why:
            _log.info("Prometheus answers again")
        self.why = why


@asynccontextmanager
async def sources(settings: Settings, port: int = HEALTH_PORT) -> AsyncIterator[Sources]:
    """Yield what is asked with."""
    timeout = aiohttp.ClientTimeout(total=prometheus.ANSWER_SECONDS)
    async with aiohttp.ClientSession(timeout=timeout) as session, inquiry() as asking:
        yield Sources(settings, session, asking, port)


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


def joined(told: Counts, asked: Counts | None, tritons: Iterable[str]) -> Counts:
    """Return what was told, with what doors said themselves, and of these Tritons only."""
    known: dict[str, DoorCounts] = {**(asked.doors if asked else {}), **told.doors}
    return Counts(known, {pod: told.tritons[pod] for pod in tritons if pod in told.tritons})
