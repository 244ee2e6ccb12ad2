"""Doors are asked over real HTTP, only while a pod drains, and nothing they answer is trusted."""

from __future__ import annotations

import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web

from lepton_operator.cache import Cache, Key
from lepton_operator.inquiry import MAX_BYTES, MOST_AT_ONCE, Inquiry
from lepton_operator.traffic import Traffic, parse
from tests.unit.runtime import objects
from tests.unit.runtime.answering import PATIENCE_SECONDS, answering

SERVICE = Key("InferenceService", "team", "digits")


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Door:
    """Answers as it is told to, and remembers what it was asked."""

    def __init__(self, answer: Any, status: int = 200) -> None:
        self.body = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        self.status = status
        self.asked: list[str] = []

    def answers(self, answer: Any) -> None:
        self.body = json.dumps(answer).encode()

    async def answer(self, request: web.Request) -> web.Response:
        self.asked.append(request.path_qs)
        return web.Response(body=self.body, status=self.status)


class Asking:
    """A Traffic over a cache, and whom it woke."""

    def __init__(self, cache: Cache, port: int, asking: Inquiry) -> None:
        self.clock = Clock()
        self.woken: list[Key] = []
        self.port = port
        self._traffic = Traffic(cache, port, self.clock)
        self._asking = asking

    async def once(self) -> list[dict[str, int]]:
        """Ask once, and return what is told then, door by door."""
        await self._traffic.ask_all(self._asking, self.woken.append)
        return [dict(each.in_flight) for each in self._traffic.told("team").values()]


@asynccontextmanager
async def asking(
    door: Door, cache: Cache, answer_seconds: float = PATIENCE_SECONDS
) -> AsyncIterator[Asking]:
    answers = answering("/in-flight", door.answer, answer_seconds=answer_seconds)
    async with answers as (port, asked_with):
        yield Asking(cache, port, asked_with)


def a_cache(*pods: dict[str, Any]) -> Cache:
    cache = Cache("nvidia.com/gpu")
    cache.put("InferenceService", objects.service())
    cache.put("Pod", objects.door_pod())
    for pod in pods:
        cache.put("Pod", pod)
    return cache


def draining(version: int = 1) -> dict[str, Any]:
    return objects.serving_pod(version=version, since=objects.CREATED)


async def test_nobody_is_asked_while_no_pod_drains() -> None:
    door = Door({})
    async with asking(door, a_cache(objects.serving_pod())) as asked:
        assert await asked.once() == []
    assert (door.asked, asked.woken) == ([], [])


async def test_doors_are_asked_about_pods_that_they_know_to_drain() -> None:
    door = Door({"10.0.0.1:8000": 2, "10.0.0.1:8001": 1, "[fd00::1]:8000": 4})
    async with asking(door, a_cache(draining())) as asked:
        assert await asked.once() == [{"10.0.0.1": 3, "fd00::1": 4}]
    assert (door.asked, asked.woken) == (["/in-flight?draining"], [SERVICE])


async def test_what_goes_up_and_down_is_told_seldom_and_the_end_at_once() -> None:
    door = Door({"10.0.0.1:8000": 2})
    async with asking(door, a_cache(draining())) as asked:
        await asked.once()
        door.answers({"10.0.0.1:8000": 1})
        assert await asked.once() == [{"10.0.0.1": 2}]
        asked.clock.now = 10.0
        assert await asked.once() == [{"10.0.0.1": 1}]
        door.answers({"10.0.0.1:8000": 0})
        assert await asked.once() == [{"10.0.0.1": 0}]
        await asked.once()
    assert asked.woken == [SERVICE] * 3


async def test_it_is_over_when_no_pod_drains_any_more() -> None:
    cache, door = a_cache(draining()), Door({"10.0.0.1:8000": 2})
    async with asking(door, cache) as asked:
        await asked.once()
        gone = draining(2)
        gone["metadata"]["deletionTimestamp"] = objects.CREATED
        cache.put("Pod", gone)
        assert await asked.once() == []
    assert len(door.asked) == 1


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        pytest.param({}, 503, id="an error"),
        pytest.param(b"{", 200, id="no JSON"),
        pytest.param([1], 200, id="no object"),
        pytest.param({"10.0.0.1:8000": "0"}, 200, id="no number"),
        pytest.param({"10.0.0.1:8000": -1}, 200, id="less than nothing"),
        pytest.param({"10.0.0.1:8000": True}, 200, id="yes"),
        pytest.param(b" " * (MAX_BYTES + 1), 200, id="no end"),
        pytest.param(b"[" * 100_000, 200, id="a deep one"),
    ],
)
async def test_an_answer_that_cannot_be_read_is_none(answer: Any, status: int) -> None:
    async with asking(Door(answer, status), a_cache(draining())) as asked:
        assert await asked.once() == []


async def test_what_a_door_told_before_it_fell_silent_still_holds() -> None:
    door = Door({"10.0.0.1:8000": 2})
    async with asking(door, a_cache(draining())) as asked:
        await asked.once()
        door.status = 503
        asked.clock.now = 10.0
        assert await asked.once() == [{"10.0.0.1": 2}]


async def test_a_door_that_nobody_listens_at_holds_up_nobody() -> None:
    cache = a_cache(draining())
    cache.put("Pod", objects.door_pod("lepton-door-2", "door-2", address="127.0.0.2"))
    async with asking(Door({"10.0.0.1:8000": 0}), cache) as asked:
        assert await asked.once() == [{"10.0.0.1": 0}]


def test_an_address_without_a_port_is_no_pod() -> None:
    assert parse(b'{"nonsense": 1}') == {"": 1}


async def test_many_silent_doors_do_not_use_up_the_time_of_one_that_answers() -> None:
    door = Door({"10.0.0.1:8000": 2})
    cache = a_cache()
    async with asking(door, cache, answer_seconds=2) as asked:
        addresses = [f"127.0.1.{number + 1}" for number in range(2 * MOST_AT_ONCE)]
        silent = [socket.create_server((each, asked.port)) for each in addresses]
        # The one that answers is the last.
        cache.remove("Pod", objects.door_pod())
        for number, address in enumerate(addresses):
            cache.put("Pod", objects.door_pod(f"a-{number}", f"silent-{number}", address=address))
        cache.put("Pod", objects.door_pod("z", "door-2"))
        cache.put("Pod", draining())
        assert await asked.once() == [{"10.0.0.1": 2}]
        for each in silent:
            each.close()
