"""Probes and metrics over HTTP.

Liveness says whether a restart would help, so it never depends on the API server: a watch that
nobody attends to, a loop that lags, a Lease that is held but not renewed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from aiohttp import web

from lepton_operator import metrics as prometheus
from lepton_operator.leader import Leader
from lepton_operator.metrics import Metrics
from lepton_operator.watches import Watches

MAX_SILENT_WATCH_SECONDS = 180.0
MAX_LAG_SECONDS = 10.0
MAX_UNRENEWED_SECONDS = 15.0
_TICK_SECONDS = 1.0


class LoopLag:
    """How late the event loop does what it was asked to do at a certain time."""

    def __init__(self) -> None:
        self._clock = asyncio.get_running_loop().time
        self._last_tick = self._clock()
        self._last_lag = 0.0

    async def measure(self) -> None:
        """Tick for ever."""
        while True:
            await asyncio.sleep(_TICK_SECONDS)
            self._last_lag = self._since_tick()
            self._last_tick = self._clock()

    def seconds(self) -> float:
        """Return the lag of the last tick, or of the one that is overdue."""
        return max(self._last_lag, self._since_tick())

    def _since_tick(self) -> float:
        return max(0.0, self._clock() - self._last_tick - _TICK_SECONDS)


@dataclass(slots=True)
class Health:
    leader: Leader
    watches: Watches
    lag: LoopLag
    listed: Callable[[], bool] = field(default=lambda: False)

    def ailments(self) -> list[str]:
        """Return a sentence for each thing that only a restart can mend."""
        found = []
        silent = self.watches.silent_seconds()
        if silent > MAX_SILENT_WATCH_SECONDS:
            found.append(f"A watch has made no request for {silent:.0f} s.")
        lag = self.lag.seconds()
        if lag > MAX_LAG_SECONDS:
            found.append(f"The event loop lags by {lag:.0f} s.")
        unrenewed = self.leader.unrenewed_seconds()
        if unrenewed > MAX_UNRENEWED_SECONDS:
            found.append(f"The Lease is held but was not renewed for {unrenewed:.0f} s.")
        return found

    def ready(self) -> bool:
        """A leader is ready to work, a standby to take over at once."""
        return self.listed()


async def serve(health: Health, metrics: Metrics, port: int) -> web.AppRunner:
    """Serve /healthz, /readyz and /metrics; `cleanup()` of what is returned ends that."""

    async def healthz(_: web.Request) -> web.Response:
        ailments = health.ailments()
        return web.Response(text=" ".join(ailments) or "ok", status=503 if ailments else 200)

    async def readyz(_: web.Request) -> web.Response:
        if health.ready():
            return web.Response(text="ok")
        return web.Response(text="The first list is not done yet.", status=503)

    async def render(_: web.Request) -> web.Response:
        headers = {"Content-Type": prometheus.CONTENT_TYPE}
        return web.Response(body=metrics.render(), headers=headers)

    application = web.Application()
    application.router.add_get("/healthz", healthz)
    application.router.add_get("/readyz", readyz)
    application.router.add_get("/metrics", render)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, port=port).start()
    return runner
