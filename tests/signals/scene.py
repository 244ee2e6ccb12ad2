"""A service that is scaled by what is told over HTTP: a Prometheus, a door, and an API server.

The autoscaler and all that it uses are the real ones. Whoever it asks is an HTTP server of the
test, so that it can tell anything.
"""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from kubernetes.aio.client.configuration import Configuration

from lepton_operator.cache import Cache
from lepton_operator.cluster import Cluster
from lepton_operator.metrics import Metrics
from lepton_operator.scaling.account import Account
from lepton_operator.scaling.autoscaler import Autoscaler
from lepton_operator.scaling.sources import Sources, sources
from lepton_operator.settings import Prometheus, Settings
from tests.builders import defaults
from tests.unit.runtime import objects

DOOR, SERVICE, NAMESPACE = "lepton-door-1", "digits", "team"
REPLICAS = 4
RATE = 24.0  # requests a second, of 100 ms each
SERVICE_SECONDS = 0.1
STARTED_BEFORE_SECONDS = 30.0
MAX_AGE_SECONDS = 30
STEP_SECONDS = 2.0

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Row = tuple[Mapping[str, str], float, object]


@dataclass
class Counters:
    """What a door counted of the service up to a time."""

    at: float
    arrivals: float = 5000.0
    rate: float = RATE

    def go_on(self, at: float) -> None:
        self.arrivals += max(0.0, at - self.at) * self.rate
        self.at = at

    def rows(self, **instead: object) -> list[Row]:
        """Return what Prometheus tells of them; `instead` says something else by a name's end."""
        answers = self.arrivals - self.rate * SERVICE_SECONDS
        told: dict[str, object] = {
            "rq_total": self.arrivals,
            "rq_active": self.rate * SERVICE_SECONDS,
            "rq_time_count": answers,
            "rq_time_sum": answers * SERVICE_SECONDS * 1e3,
        } | {name: value for name, value in instead.items() if name != "at"}
        rows = [row(f"envoy_http_downstream_{name}", value) for name, value in told.items()]
        labels = {"counted": "sampled"} | _PLACE
        return [*rows, (labels, time.time(), instead.get("at", self.at))]


_PLACE = {"namespace": NAMESPACE, "pod": DOOR, "service": SERVICE}


def row(name: str, value: object, **labels: str) -> Row:
    return ({"__name__": name} | _PLACE | labels, time.time(), value)


def vector(rows: list[Row]) -> str:
    result = [
        {"metric": metric, "value": [at, value if isinstance(value, str) else repr(value)]}
        for metric, at, value in rows
    ]
    return json.dumps({"status": "success", "data": {"resultType": "vector", "result": result}})


@dataclass
class Scene:
    """`prometheus` is what its server answers now; `scaled` what the API server was asked for."""

    autoscaler: Autoscaler
    asking: Sources
    counters: Counters
    door_answers: bool = False
    queries: list[str] = field(default_factory=list)
    scaled: list[int] = field(default_factory=list)
    answer: Handler | None = None

    async def prometheus(self, request: web.Request) -> web.StreamResponse:
        self.queries.append(str((await request.post())["query"]))
        if self.answer is not None:
            return await self.answer(request)
        return web.Response(text=vector(self.counters.rows()))

    async def door(self, _: web.Request) -> web.Response:
        if not self.door_answers:
            return web.Response(status=503)
        self.counters.go_on(time.time())
        active = self.counters.rate * SERVICE_SECONDS
        counts = {"arrivals": self.counters.arrivals, "active": active, "rejected": 0}
        return web.json_response({SERVICE: counts})

    async def api(self, request: web.Request) -> web.Response:
        self.scaled.append(json.loads(await request.read())["spec"]["replicas"])
        return web.json_response({})

    async def look(self) -> Account:
        """Have the autoscaler look once; return what it knows of the service."""
        self.asking._asks_again_at = 0.0  # who was silent is not asked for a while
        for each in self.asking._doors.values():
            each.asks_again_at = 0.0
        await self.autoscaler.look(self.asking, lambda _: None)
        ((_, account),) = self.autoscaler.accounts()
        return account

    async def go_steady(self) -> Account:
        """Let it see a while of the same demand, up to the present."""
        account = await self.look()
        while self.counters.at < time.time() - STEP_SECONDS:
            self.counters.go_on(self.counters.at + STEP_SECONDS)
            account = await self.look()
        self.scaled.clear()
        return account


@asynccontextmanager
async def scene(**settings: Any) -> AsyncIterator[Scene]:
    """A service of four replicas that has been seen for a while."""
    async with AsyncExitStack() as stack:
        found: dict[str, Scene] = {}

        def served(name: str) -> Handler:
            async def handle(request: web.Request) -> web.StreamResponse:
                handler: Handler = getattr(found["scene"], name)
                return await handler(request)

            return handle

        port = await stack.enter_async_context(_http("POST", served("prometheus")))
        door = await stack.enter_async_context(_http("GET", served("door")))
        api = await stack.enter_async_context(_http("PATCH", served("api")))
        url = f"http://127.0.0.1:{port}"
        chosen = Settings(
            defaults=defaults(),
            prometheus=Prometheus(url=url, max_age_seconds=MAX_AGE_SECONDS, **settings),
        )
        metrics, cache = Metrics(), _cache()
        cluster = Cluster(Configuration(host=f"http://127.0.0.1:{api}"), metrics)
        stack.push_async_callback(cluster.close)
        asking = await stack.enter_async_context(sources(chosen, door))
        counters = Counters(time.time() - STARTED_BEFORE_SECONDS + 1)
        found["scene"] = Scene(Autoscaler(cluster, cache, chosen, metrics, door), asking, counters)
        yield found["scene"]


@asynccontextmanager
async def _http(method: str, handler: Handler) -> AsyncIterator[int]:
    app = web.Application(client_max_size=1 << 20)
    app.router.add_route(method, "/{path:.*}", handler)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield runner.addresses[0][1]
    await runner.cleanup()


def _cache() -> Cache:
    cache = Cache("nvidia.com/gpu")
    service = objects.service()
    service["spec"] |= {
        "replicas": REPLICAS,
        "autoscaling": {"maxReplicas": 10, "target": {"latencyMilliseconds": 250}},
    }
    cache.put("InferenceService", service)
    cache.put("Pod", objects.door_pod(DOOR))
    for index in range(REPLICAS):
        pod = objects.serving_pod(f"pod-{index}")
        since = {"type": "Ready", "status": "True", "lastTransitionTime": "2026-11-22T04:00:20Z"}
        pod["status"]["conditions"] = [since]
        cache.put("Pod", pod)
    return cache
