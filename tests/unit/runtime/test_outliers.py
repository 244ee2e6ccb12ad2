"""Doors are listened to over real HTTP, one request each, and nothing they say is trusted."""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from lepton_operator.cache import Cache, Key
from lepton_operator.outliers import MAX_BYTES, MAX_WHAT, Outliers, parse
from lepton_operator.views import Fault
from tests.unit.runtime import objects

SERVICE = Key("InferenceService", "team", "digits")
SINCE = datetime(2026, 11, 22, 4, tzinfo=UTC)
LIMIT_SECONDS = 10.0


def fault(what: str = "erred", *, ejected: bool = False, second: int = 0) -> dict[str, Any]:
    since = SINCE.replace(second=second)
    return {"since": since.isoformat(), "what": what, "ejected": ejected}


def line(told: Any) -> bytes:
    return f"{json.dumps(told)}\n".encode()


class Door:
    """Tells each who listens what it is told to: who came last, if nobody is named."""

    def __init__(self) -> None:
        self.asked = 0
        self._lines: defaultdict[int, asyncio.Queue[bytes | None]] = defaultdict(asyncio.Queue)

    def says(self, told: Any, listener: int | None = None) -> None:
        said = told if isinstance(told, bytes) else line(told)
        self._lines[self.asked if listener is None else listener].put_nowait(said)

    def hangs_up(self) -> None:
        self._lines[self.asked].put_nowait(None)

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.asked += 1
        lines = self._lines[self.asked]
        response = web.StreamResponse()
        await response.prepare(request)
        while (said := await lines.get()) is not None:
            await response.write(said)
        return response


class Hearing:
    """An Outliers over a cache, and whom it woke."""

    def __init__(self, cache: Cache, port: int, session: aiohttp.ClientSession) -> None:
        self.cache = cache
        self.woken: list[Key] = []
        self.outliers = Outliers(cache, port)
        self._session = session

    def follow(self) -> None:
        self.outliers.follow(self._session, self.woken.append)

    def told(self, service: str = "digits") -> dict[str, Fault]:
        return self.outliers.of("team", service)

    async def until(self, holds: Callable[[], object]) -> None:
        async with asyncio.timeout(LIMIT_SECONDS):
            while not holds():  # noqa: ASYNC110 - of what tasks hear
                await asyncio.sleep(0.01)


@asynccontextmanager
async def hearing(door: Door) -> AsyncIterator[Hearing]:
    app = web.Application()
    app.router.add_get("/failing", door.answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    cache = Cache("nvidia.com/gpu")
    cache.put("InferenceService", objects.service())
    cache.put("Pod", objects.door_pod())
    async with aiohttp.ClientSession(auto_decompress=False, read_bufsize=MAX_BYTES) as session:
        found = Hearing(cache, runner.addresses[0][1], session)
        found.follow()
        try:
            await found.until(lambda: door.asked)
            yield found
        finally:
            for each in cache.doors():
                cache.vanish(each.uid)
            found.follow()
            await runner.cleanup()


async def test_what_a_door_says_is_known_and_wakes_whose_pods_it_is_about() -> None:
    door = Door()
    async with hearing(door) as heard:
        door.says(
            {"digits/http": {"10.0.0.1:8000": fault()}, "gone/http": {"10.0.0.9:8000": fault()}}
        )
        await heard.until(heard.told)
        assert heard.told() == {"10.0.0.1": Fault(SINCE, "erred", ejected=False)}
        assert heard.woken == [SERVICE], "and nobody for a service that is not there"
        door.says({"digits/http": {"10.0.0.1:8000": fault()}})
        door.says({})
        await heard.until(lambda: not heard.told())
        assert heard.woken == [SERVICE] * 2, "what was known already is no news"
    assert door.asked == 1


async def test_a_door_that_hangs_up_is_asked_again_and_its_word_holds_meanwhile() -> None:
    door = Door()
    async with hearing(door) as heard:
        door.says({"digits/http": {"10.0.0.1:8000": fault()}})
        await heard.until(heard.told)
        door.hangs_up()
        await heard.until(lambda: door.asked == 2)
        assert heard.told()
        door.says({})
        await heard.until(lambda: not heard.told())


async def test_the_word_of_a_door_that_is_gone_is_forgotten() -> None:
    door = Door()
    async with hearing(door) as heard:
        door.says({"digits/http": {"10.0.0.1:8000": fault()}})
        await heard.until(heard.told)
        heard.cache.remove("Pod", objects.door_pod(version=2))
        heard.follow()
        assert heard.told() == {}
        assert heard.woken == [SERVICE] * 2


@pytest.mark.parametrize(
    ("first", "second", "joined"),
    [
        ({}, fault(), Fault(SINCE, "erred")),
        (fault(second=9, ejected=True), fault(), Fault(SINCE, "erred", ejected=True)),
        (fault(), fault(second=9, ejected=True), Fault(SINCE, "erred", ejected=True)),
    ],
    ids=["one is enough", "the second saw it first", "the first saw it first"],
)
async def test_what_two_doors_say_is_one_fault(first: Any, second: Any, joined: Fault) -> None:
    door = Door()
    async with hearing(door) as heard:
        heard.cache.put("Pod", objects.door_pod("lepton-door-2", "door-2"))
        heard.follow()
        await heard.until(lambda: door.asked == 2)
        for listener, said in enumerate((first, second), start=1):
            door.says({"digits/http": {"10.0.0.1:8000": said}} if said else {}, listener)
        await heard.until(lambda: heard.told() == {"10.0.0.1": joined})


@pytest.mark.parametrize(
    "said",
    [
        b"no JSON\n",
        line([]),
        line({"digits/http": []}),
        line({"digits/http": {"10.0.0.1:8000": {}}}),
        line({"digits/http": {"10.0.0.1:8000": {**fault(), "since": "2026-11-22T04:00:00"}}}),
        line({"digits/http": {"10.0.0.1:8000": {**fault(), "what": 1}}}),
        b"[" * 100_000 + b"\n",
        b" " * (3 * MAX_BYTES),
    ],
    ids=[
        "no JSON",
        "a list",
        "a list of places",
        "nothing of a place",
        "a time without a zone",
        "a number as a deed",
        "a deep one",
        "an endless line",
    ],
)
async def test_an_answer_that_cannot_be_read_is_none(said: bytes) -> None:
    door = Door()
    async with hearing(door) as heard:
        door.says({"digits/http": {"10.0.0.1:8000": fault()}})
        await heard.until(heard.told)
        door.says(said)
        await heard.until(lambda: door.asked == 2)
        assert set(heard.told()) == {"10.0.0.1"}


def test_both_protocols_of_a_pod_are_one_fault() -> None:
    found = parse(
        line(
            {
                "digits/http": {"[fd00::1]:8000": fault("erred later", second=9)},
                "digits/grpc": {"[fd00::1]:8001": fault("x" * 500, ejected=True)},
            }
        )
    )
    (one,) = found["digits"].values()
    assert set(found["digits"]) == {"fd00::1"}
    assert (one.since, len(one.what), one.ejected) == (SINCE, MAX_WHAT, True)
