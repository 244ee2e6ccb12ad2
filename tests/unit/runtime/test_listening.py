"""Doors are asked over real HTTP where they listen, while a Service leads past them."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web

from lepton_operator import names
from lepton_operator.cache import Cache, Key
from lepton_operator.inquiry import Inquiry, inquiry
from lepton_operator.listening import Listening, parse
from tests.unit.runtime import objects
from tests.unit.runtime.test_doors import a_service_of_old

SERVICE = Key("InferenceService", "team", "digits")
PORT = 10_000
DOOR = {"door-1": frozenset({PORT})}


class Door:
    def __init__(self, answer: Any, status: int = 200) -> None:
        self.answer: Any = answer
        self.status = status
        self.asked: list[str] = []

    async def tell(self, request: web.Request) -> web.Response:
        self.asked.append(request.path_qs)
        return web.Response(text=json.dumps(self.answer), status=self.status)


class Asking:
    """A Listening over a cache, and whom it woke."""

    def __init__(self, cache: Cache, port: int, asking: Inquiry) -> None:
        self.woken: list[Key] = []
        self._listening = Listening(cache, port)
        self._asking = asking

    async def once(self) -> dict[str, frozenset[int]]:
        await self._listening.ask_all(self._asking, self.woken.append)
        return dict(self._listening.told("team"))


@asynccontextmanager
async def asking(door: Door, cache: Cache) -> AsyncIterator[Asking]:
    app = web.Application()
    app.router.add_get("/listeners", door.tell)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    async with inquiry() as found:
        yield Asking(cache, runner.addresses[0][1], found)
    await runner.cleanup()


@pytest.fixture
def cache() -> Cache:
    """A service from before there were doors, whose port is announced, and a door."""
    found = Cache("nvidia.com/gpu")
    found.put("InferenceService", objects.service())
    found.put("Pod", objects.door_pod())
    found.put("Service", a_service_of_old(1, "InferenceService", "http", str(PORT)))
    return found


async def test_who_waits_for_a_listener_is_woken_when_a_door_has_it(cache: Cache) -> None:
    door = Door([])
    async with asking(door, cache) as asked:
        assert await asked.once() == {"door-1": frozenset()}
        assert asked.woken == []
        door.answer = [PORT + 1, PORT]
        assert await asked.once() == {"door-1": frozenset({PORT, PORT + 1})}
        assert asked.woken == [SERVICE]
        await asked.once()
        assert asked.woken == [SERVICE]


async def test_a_door_that_ceases_to_answer_listens_nowhere(cache: Cache) -> None:
    door = Door([PORT])
    async with asking(door, cache) as asked:
        assert await asked.once() == DOOR
        door.status = 503
        assert await asked.once() == {"door-1": frozenset()}
    assert asked.woken == [SERVICE, SERVICE]


async def test_nobody_is_asked_once_every_service_leads_to_the_doors(cache: Cache) -> None:
    door = Door([PORT])
    async with asking(door, cache) as asked:
        await asked.once()
        cache.put("Service", a_service_of_old(2, names.DOOR_KIND, PORT))
        assert await asked.once() == {}
    assert door.asked == ["/listeners"]


async def test_a_door_that_is_not_ready_is_not_asked(cache: Cache) -> None:
    cache.put("Pod", objects.door_pod(version=2, ready=False))
    door = Door([PORT])
    async with asking(door, cache) as asked:
        assert await asked.once() == {}
    assert door.asked == []


@pytest.mark.parametrize("content", [b"{}", b"10000", b"not JSON", b""])
def test_what_is_no_list_is_no_answer(content: bytes) -> None:
    with pytest.raises((ValueError, TypeError)):
        parse(content)


def test_what_is_no_number_is_no_port() -> None:
    assert parse(b'[10000, "10001", null, 1.5]') == {10_000}
