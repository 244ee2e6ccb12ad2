"""Whether the watches live, told from their requests.

The API server is asked to end each watch after `SERVER_SECONDS`, and one that is silent for
`INACTIVITY_SECONDS` (bookmarks come every minute) is begun again. So a watch that has not made a
request for longer than both has nobody who attends to it any more, whether or not there was
anything to say. An API server that does not answer is asked again and again: that is no failure of
the watch.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from types import SimpleNamespace

import aiohttp

from lepton_operator.cluster import RESOURCES
from lepton_operator.metrics import Metrics

SERVER_SECONDS = 120
INACTIVITY_SECONDS = 75.0


class Watches:
    """Keeps the time of each watch's last request; `relisted` is told of kinds listed anew."""

    def __init__(
        self,
        kinds: Iterable[str],
        namespaces: Iterable[str | None],
        metrics: Metrics,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock = clock
        self._metrics = metrics
        self._kinds = {
            RESOURCES[kind].path(namespace if RESOURCES[kind].namespaced else None): kind
            for kind in kinds
            for namespace in namespaces
        }
        self._requested: dict[str, float] = {}
        self._established: set[str] = set()
        self._listed: set[str] = set()  # since the last watch began
        self._all_established = asyncio.Event()
        self.relisted: Callable[[str], None] = lambda _: None

    def trace(self) -> aiohttp.TraceConfig:
        """Return what the watches' session is to call."""
        config = aiohttp.TraceConfig()
        config.on_request_start.append(self._on_start)
        config.on_request_end.append(self._on_answer)
        return config

    async def established(self) -> None:
        """Wait until every watch has begun: whatever is listed from now on misses no deletion."""
        await self._all_established.wait()

    def silent_seconds(self) -> float:
        """Return the longest time that a watch has made no request; 0 before they all began."""
        if not self._all_established.is_set():
            return 0.0
        return self._clock() - min(self._requested.values())

    async def _on_start(
        self,
        _session: aiohttp.ClientSession,
        _context: SimpleNamespace,
        request: aiohttp.TraceRequestStartParams,
    ) -> None:
        path = request.url.path
        if path in self._kinds:
            self._requested[path] = self._clock()

    async def _on_answer(
        self,
        _session: aiohttp.ClientSession,
        _context: SimpleNamespace,
        answer: aiohttp.TraceRequestEndParams,
    ) -> None:
        path = answer.url.path
        if path not in self._kinds or not answer.response.ok:
            return
        if "watch" in answer.url.query:
            self._watch_began(path)
        else:
            self._listed.add(path)

    def _watch_began(self, path: str) -> None:
        kind = self._kinds[path]
        self._metrics.watch_requests.labels(kind).inc()
        listed_anew = path in self._listed and path in self._established
        self._listed.discard(path)
        self._established.add(path)
        if len(self._established) == len(self._kinds):
            self._all_established.set()
        if listed_anew:
            self.relisted(kind)
