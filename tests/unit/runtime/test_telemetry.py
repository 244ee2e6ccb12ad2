"""Sidecars are asked over real HTTP, and nothing that they answer is trusted."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import pytest
from aiohttp import web

from lepton_launcher.restarts import OF_RANKS
from lepton_operator import names, progress
from lepton_operator.api.training import SlowRank, Spent
from lepton_operator.cache import Cache, Key
from lepton_operator.inquiry import inquiry
from lepton_operator.telemetry import Telemetry
from lepton_operator.views import Earlier, Told
from tests.builders import NOW
from tests.unit.runtime import objects
from tests.unit.runtime.answering import answering

JOB = Key("TrainingJob", "team", "digits")
TOLD: dict[str, Any] = {
    "attempt": 2,
    "generation": 1,
    "phase": "training",
    "step": 120,
    "totalSteps": 1000,
    "stepSeconds": 0.25,
    "metrics": {"loss": 0.5, "lr": 1e-3},
    "learningRate": 1e-3,
    "checkpoint": {"step": 100, "ageSeconds": 5.0, "seconds": 1.5},
    "checkpointProblem": "The store is full.",
    "ranks": [{"rank": 0, "step": 121}],
    "earlier": [{"attempt": 1, "ledger": {"hang": 4.5}}],
    "slow": {"rank": 5, "node": 1, "factor": 1.973},
    "ledger": {"start": 3.5, "unknown": 1},
}


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Sidecar:
    """Answers as it is told to, and counts how often it was asked."""

    def __init__(
        self, body: bytes, status: int = 200, headers: Mapping[str, str] | None = None
    ) -> None:
        self.body, self.status, self.headers = body, status, headers
        self.asked = 0

    async def answer(self, _request: web.Request) -> web.Response:
        self.asked += 1
        return web.Response(body=self.body, status=self.status, headers=self.headers)


def a_cache(rank: str = "0", **status: Any) -> Cache:
    cache = Cache("nvidia.com/gpu")
    cache.put("TrainingJob", objects.job())
    pod = objects.pod(phase="Running")
    pod["metadata"]["labels"] = {names.RANK: rank}
    pod["status"] |= {"podIP": "127.0.0.1", **status}
    cache.put("Pod", pod)
    return cache


async def heard(sidecar: Sidecar, cache: Cache, rounds: int = 1) -> tuple[Told | None, int]:
    """What is known of the job after so many rounds, and how often it was woken."""
    woken: list[Key] = []
    async with answering("/progress", sidecar.answer, progress.MAX_BYTES) as (port, asking):
        telemetry = Telemetry(cache, port)
        for _ in range(rounds):
            await telemetry.ask_all(asking, woken.append)
    assert set(woken) <= {JOB}
    return telemetry.of(cache.pods("job-1")), len(woken)


async def test_what_rank_0_tells_is_known_and_wakes_its_job_once() -> None:
    sidecar = Sidecar(json.dumps(TOLD).encode())
    found, woken = await heard(sidecar, a_cache(), rounds=3)
    assert found is not None
    told = found.progress
    assert (told.attempt, told.phase, told.step, told.eta_seconds) == (2, "training", 120, 220)
    assert (told.steps, told.steps_per_second, told.learning_rate) == ("120/1000", "4", "0.001")
    assert told.metrics == {"loss": "0.5", "lr": "0.001"}
    assert told.checkpoint_step == 100
    assert told.checkpoint_problem == "The store is full."
    assert told.checkpoint_time == told.time - timedelta(seconds=5)
    assert told.leave_seconds == 4  # twice 1.5 s, and three steps of 0.25 s
    assert found.earlier == (Earlier(1, {"hang": 4.5}),)
    assert told.slow == SlowRank(rank=5, pod=1, factor="1.97")
    assert told.ledger == Spent(start="3.5")
    assert (sidecar.asked, woken) == (1, 1)


SPENT: dict[str, Any] = {
    "resumedFrom": 100,
    "furthest": 110,
    "saved": True,
    "countedRestarts": 2,
    "restarts": [
        {"generation": each, "reason": "UserError", "rank": 3, "signal": 9, "message": "x\n" * 300}
        for each in range(8)
    ],
}


def test_what_the_launchers_did_themselves_is_told_too() -> None:
    found = progress.parse(json.dumps(TOLD | SPENT).encode(), NOW)
    assert found is not None
    told = found.in_place
    assert (told.restarts, told.resumed_from, told.furthest, told.saved) == (2, 100, 110, True)
    assert [each.generation for each in told.last] == [3, 4, 5, 6, 7]
    assert len(told.last[0].message or "") == 256
    assert "\n" not in (told.last[0].message or "")
    assert found.progress.wire().keys().isdisjoint(SPENT)


@pytest.mark.parametrize("reason", OF_RANKS)
def test_every_restart_that_a_launcher_makes_is_understood(reason: str) -> None:
    told = TOLD | {"restarts": [{"generation": 0, "reason": reason, "rank": 3, "signal": 9}]}
    found = progress.parse(json.dumps(told).encode(), NOW)
    assert found is not None
    assert [each.reason for each in found.in_place.last] == [reason]


LOST = {"node": 0, "message": "Node 0's launcher did not answer for 10 s.", "seconds": 12.5}


async def test_a_peer_of_a_rank_0_that_does_not_answer_tells_that_it_is_lost() -> None:
    sidecar = Sidecar(json.dumps({**TOLD, "lost": LOST}).encode())
    cache = a_cache(podIP="127.0.0.9")
    for rank in (3, 2, 1):
        peer = objects.pod(phase="Running")
        peer["metadata"] |= {"uid": f"pod-of-{rank}", "name": f"digits-train-1-{rank}"}
        peer["metadata"]["labels"] = {names.RANK: str(rank)}
        peer["status"]["podIP"] = "127.0.0.1" if rank > 1 else "127.0.0.8"
        cache.put("Pod", peer)
    woken: list[Key] = []
    async with answering("/progress", sidecar.answer) as (port, asking):
        telemetry = Telemetry(cache, port)
        for _ in range(2):  # rank 0 does not answer, then rank 1 does not
            await telemetry.ask_all(asking, woken.append)
            assert (sidecar.asked, telemetry.of(cache.pods("job-1"))) == (0, None)
        for _ in range(2):
            await telemetry.ask_all(asking, woken.append)
    found = telemetry.of(cache.pods("job-1"))
    assert (sidecar.asked, woken) == (1, [JOB])
    assert found is not None
    assert found.loss is not None
    assert (found.progress.attempt, found.loss.node_rank) == (2, 0)
    assert found.loss.message == LOST["message"]


@pytest.mark.parametrize(
    "changed",
    [
        pytest.param({"lost": {"node": -1, "seconds": 1}}, id="no such node"),
        pytest.param({"lost": {"node": 1}}, id="since when is not told"),
        pytest.param({"lost": {"node": 1, "seconds": 1e300}}, id="before the big bang"),
    ],
)
def test_a_loss_that_is_out_of_bounds_is_none(changed: dict[str, Any]) -> None:
    assert progress.parse(json.dumps(TOLD | changed).encode(), NOW) is None


def test_a_loss_counts_from_when_the_node_was_heard_last() -> None:
    found = progress.parse(json.dumps(TOLD | {"lost": LOST}).encode(), NOW)
    assert found is not None
    assert found.loss is not None
    assert found.loss.since == (NOW - timedelta(seconds=12.5)).replace(microsecond=0)


@pytest.mark.parametrize(
    "cache",
    [
        pytest.param(a_cache(rank="1"), id="another rank"),
        pytest.param(a_cache(podIP=None), id="no address yet"),
        pytest.param(a_cache(phase="Succeeded"), id="it has ended"),
    ],
)
async def test_only_running_pods_of_rank_0_are_asked(cache: Cache) -> None:
    sidecar = Sidecar(json.dumps(TOLD).encode())
    assert await heard(sidecar, cache) == (None, 0)
    assert sidecar.asked == 0


@pytest.mark.parametrize(
    "sidecar",
    [
        pytest.param(Sidecar(b"No rank has begun yet.", status=404), id="nothing to tell yet"),
        pytest.param(
            Sidecar(b"", 302, {"Location": "http://127.0.0.1/progress"}), id="sent elsewhere"
        ),
        pytest.param(Sidecar(b" " * progress.MAX_BYTES + json.dumps(TOLD).encode()), id="too long"),
        pytest.param(
            Sidecar(gzip.compress(json.dumps(TOLD).encode()), headers={"Content-Encoding": "gzip"}),
            id="packed",
        ),
        pytest.param(Sidecar(b"\xff{"), id="no text"),
        pytest.param(Sidecar(b"[" * 100_000), id="nested without end"),
    ],
)
async def test_what_is_no_answer_is_none(sidecar: Sidecar) -> None:
    assert await heard(sidecar, a_cache()) == (None, 0)
    assert sidecar.asked == 1


async def test_a_pod_that_does_not_answer_is_asked_more_and_more_seldom() -> None:
    clock, asked = Clock(), set[float]()  # the client itself tries once more, at once

    def hang_up(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.add(clock.now)
        writer.close()

    server = await asyncio.start_server(hang_up, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    cache = a_cache()
    async with server, inquiry() as asking:
        telemetry = Telemetry(cache, port, clock)
        for clock.now in range(0, 2200, 20):
            await telemetry.ask_all(asking, lambda _: pytest.fail("nobody told anything"))
    assert sorted(asked) == [0, 60, 180, 420, 900, 1500, 2100]
    assert telemetry.of(cache.pods("job-1")) is None


@pytest.mark.parametrize(
    "changed",
    [
        pytest.param({"attempt": 0}, id="no attempt"),
        pytest.param({"attempt": "2"}, id="a text for a number"),
        pytest.param({"step": -1}, id="a step below 0"),
        pytest.param({"step": 2**60}, id="a step that JSON cannot hold"),
        pytest.param({"phase": "idle"}, id="an unknown phase"),
        pytest.param({"stepSeconds": float("inf")}, id="an endless step"),
        pytest.param({"checkpoint": {"step": 1, "ageSeconds": 1e300}}, id="before the big bang"),
        pytest.param({"metrics": [1]}, id="a list for metrics"),
        pytest.param({"countedRestarts": 1001}, id="more restarts than a job may have"),
        pytest.param({"restarts": [{"generation": 0, "reason": "PodLost"}]}, id="not its word"),
        pytest.param({"restarts": SPENT["restarts"] * 9}, id="too many restarts"),
        pytest.param({"ledger": {"hang": -1}}, id="a time below 0"),
        pytest.param({"slow": {"rank": 0, "node": 0, "factor": 0.5}}, id="a fast slow rank"),
    ],
)
def test_a_document_that_is_out_of_bounds_is_none(changed: dict[str, Any]) -> None:
    assert progress.parse(json.dumps(TOLD | changed).encode(), NOW) is None


def test_a_metric_that_is_none_is_left_out() -> None:
    told = TOLD | {"metrics": {"loss": float("nan"), "a b": 1, "ok": 1}}
    found = progress.parse(json.dumps(told).encode(), NOW)
    assert found is not None
    assert found.progress.metrics == {"ok": "1"}


def test_an_end_that_no_calendar_holds_is_not_told() -> None:
    found = progress.parse(json.dumps(TOLD | {"totalSteps": 2**50}).encode(), NOW)
    assert found is not None
    assert found.progress.eta_seconds is None
