"""Pods that fetch a model are asked over real HTTP, no others; no answer is trusted."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web

from lepton_operator.cache import Cache, Key
from lepton_operator.downloads import TELL_SECONDS, Downloads
from lepton_operator.inquiry import MAX_BYTES, Inquiry, inquiry
from lepton_operator.views import Fetched
from tests.unit.runtime import objects

SERVICE = Key("InferenceService", "team", "digits")


class Pod:
    """Answers as it is told to."""

    def __init__(self) -> None:
        self.body = b""
        self.asked = 0

    def has(self, fetched: Any, total: Any = 100) -> None:
        self.body = json.dumps({"fetchedBytes": fetched, "totalBytes": total}).encode()

    async def answer(self, _: web.Request) -> web.Response:
        self.asked += 1
        return web.Response(body=self.body)


class Asking:
    """A Downloads over a cache, and whom it woke."""

    def __init__(self, cache: Cache, port: int, asking: Inquiry) -> None:
        self.now = 0.0
        self.woken: list[Key] = []
        self.cache = cache
        self._downloads = Downloads(cache, port, lambda: self.now)
        self._asking = asking

    async def once(self) -> Fetched | None:
        await self._downloads.ask_all(self._asking, self.woken.append)
        (pod,) = self.cache.pods("svc-1")
        return self._downloads.of(pod)


def a_pod(version: int = 1, *, state: str = "running", name: str = "fetch") -> dict[str, Any]:
    pod = objects.serving_pod(version=version, ip="127.0.0.1")
    container = {"name": name, "state": {state: {"exitCode": 0} if state == "terminated" else {}}}
    pod["status"]["initContainerStatuses"] = [container]
    return pod


@asynccontextmanager
async def asking(pod: Pod, body: dict[str, Any]) -> AsyncIterator[Asking]:
    app = web.Application()
    app.router.add_get("/progress", pod.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    cache = Cache("nvidia.com/gpu")
    cache.put("InferenceService", objects.service())
    cache.put("Pod", body)
    async with inquiry() as found:
        yield Asking(cache, runner.addresses[0][1], found)
    await runner.cleanup()


async def test_how_far_a_download_is_becomes_known_at_once_and_then_seldom() -> None:
    pod = Pod()
    pod.has(1)
    async with asking(pod, a_pod()) as asked:
        assert await asked.once() == Fetched(1, 100)
        pod.has(50)
        assert await asked.once() == Fetched(1, 100)
        asked.now = TELL_SECONDS
        assert await asked.once() == Fetched(50, 100)
        asked.now = 2 * TELL_SECONDS
        await asked.once()
    assert asked.woken == [SERVICE] * 2, "that nothing has come since is no news"


@pytest.mark.parametrize(
    "body",
    [a_pod(state="waiting"), a_pod(state="terminated"), a_pod(name="other")],
    ids=["not begun", "fetched", "another init container"],
)
async def test_a_pod_that_fetches_nothing_is_not_asked(body: dict[str, Any]) -> None:
    pod = Pod()
    pod.has(1)
    async with asking(pod, body) as asked:
        assert await asked.once() is None
    assert (pod.asked, asked.woken) == (0, [])


async def test_what_is_fetched_is_no_longer_told() -> None:
    pod = Pod()
    pod.has(1)
    async with asking(pod, a_pod()) as asked:
        await asked.once()
        asked.cache.put("Pod", a_pod(2, state="terminated"))
        assert await asked.once() is None


@pytest.mark.parametrize(
    "body",
    [
        b"no JSON",
        b"[]",
        b"{}",
        b'{"fetchedBytes": 2, "totalBytes": 1}',
        b'{"fetchedBytes": -1, "totalBytes": 1}',
        b'{"fetchedBytes": "1", "totalBytes": 2}',
        b'{"fetchedBytes": 0, "totalBytes": 0}',
        b'{"fetchedBytes": 1, "totalBytes": 2' + b" " * MAX_BYTES + b"}",
        b"[" * 5000,
    ],
    ids=[
        "no JSON",
        "a list",
        "nothing",
        "more than all",
        "less than nothing",
        "a text",
        "not known yet",
        "a long one",
        "a deep one",
    ],
)
async def test_an_answer_that_cannot_be_read_is_none(body: bytes) -> None:
    pod = Pod()
    pod.body = body
    async with asking(pod, a_pod()) as asked:
        assert await asked.once() is None
    assert asked.woken == []
