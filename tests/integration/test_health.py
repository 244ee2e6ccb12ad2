"""What the probes say, with real watches, a real Lease and a loop that is really blocked."""

from __future__ import annotations

import asyncio
import time

import aiohttp

from lepton_operator.cluster import Cluster
from lepton_operator.health import Health, LoopLag
from lepton_operator.leader import Candidate, Leader
from lepton_operator.metrics import Metrics
from lepton_operator.settings import LeaderElection
from lepton_operator.watches import Watches
from tests.integration.conftest import Namespace


class Clock:
    """Goes on when it is told to: what a request takes is no part of what is looked at."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Watching:
    """Makes the requests that Kopf would make, in a namespace."""

    def __init__(self, client: Cluster, namespace: Namespace, clock: Clock) -> None:
        self.watches = Watches(["Pod", "TrainingJob"], [namespace.name], Metrics(), clock)
        self.relisted: list[str] = []
        self.watches.relisted = self.relisted.append
        self._session = client.watch_session(self.watches.trace())
        self._root = client.address
        self._namespace = namespace

    async def list(self, kind: str) -> None:
        async with self._session.get(self._root + self._namespace.path(kind)) as answer:
            assert answer.ok

    async def watch(self, kind: str) -> None:
        url = f"{self._root}{self._namespace.path(kind)}?watch=true&timeoutSeconds=60"
        async with self._session.get(url, timeout=aiohttp.ClientTimeout(total=10)) as answer:
            assert answer.ok
            assert answer.connection
            assert answer.connection.transport
            # Leaving it half read would begin TLS's goodbye, which outlives the test's loop.
            answer.connection.transport.abort()

    async def begin(self) -> None:
        for kind in ("Pod", "TrainingJob"):
            await self.list(kind)
            await self.watch(kind)

    async def close(self) -> None:
        await self._session.close()


async def test_the_watches_are_established_when_each_has_begun(
    client: Cluster, namespace: Namespace
) -> None:
    watching = Watching(client, namespace, Clock())
    await watching.list("Pod")
    await watching.watch("Pod")
    waiting = asyncio.create_task(watching.watches.established())
    await asyncio.sleep(0.05)
    assert not waiting.done()
    await watching.list("TrainingJob")
    await watching.watch("TrainingJob")
    await asyncio.wait_for(waiting, 5)
    assert watching.relisted == []
    await watching.close()


async def test_a_kind_that_had_to_be_listed_anew_is_told_when_its_watch_is_back(
    client: Cluster, namespace: Namespace
) -> None:
    watching = Watching(client, namespace, Clock())
    await watching.begin()
    await watching.watch("Pod")  # a watch that goes on where the last one ended
    assert watching.relisted == []
    await watching.list("Pod")
    assert watching.relisted == []
    await watching.watch("Pod")
    assert watching.relisted == ["Pod"]
    await watching.close()


async def test_health_tells_a_watch_that_nobody_attends_to(
    client: Cluster, namespace: Namespace
) -> None:
    clock = Clock()
    watching = Watching(client, namespace, clock)
    leader = Leader(client, LeaderElection(), Candidate(namespace.name, "a"), Metrics())
    health = Health(leader, watching.watches, LoopLag())
    clock.now = 1000
    assert health.ailments() == []  # they have not begun: a standby has none
    await watching.begin()
    assert health.ailments() == []
    clock.now += 179
    await watching.watch("Pod")
    assert health.ailments() == []
    clock.now += 2
    (sentence,) = health.ailments()
    assert "A watch has made no request for 181 s" in sentence
    await watching.close()


async def test_health_tells_a_lease_that_is_held_but_not_renewed(
    client: Cluster, namespace: Namespace
) -> None:
    clock = Clock()
    watches = Watches(["Pod"], [namespace.name], Metrics())
    settings = LeaderElection(lease_seconds=60, renew_deadline_seconds=50)
    leader = Leader(client, settings, Candidate(namespace.name, "a"), Metrics(), clock)
    health = Health(leader, watches, LoopLag())
    assert not health.ready()  # it has listed nothing yet
    await leader.acquire()
    assert health.ailments() == []
    clock.now = 16
    (sentence,) = health.ailments()
    assert sentence == "The Lease is held but was not renewed for 16 s."


async def test_a_blocked_loop_is_a_lag() -> None:
    lag = LoopLag()
    ticking = asyncio.create_task(lag.measure())
    await asyncio.sleep(1.2)
    assert lag.seconds() < 1
    time.sleep(2.5)  # noqa: ASYNC251 - what must never happen
    await asyncio.sleep(0)
    assert lag.seconds() > 1
    ticking.cancel()
