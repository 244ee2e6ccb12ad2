from __future__ import annotations

import json

import pytest
from aiohttp import web

from lepton_operator.bodies import pod_view
from lepton_operator.signals.counts import DoorCounts
from lepton_operator.signals.doors import parse, read
from tests.unit.runtime import objects
from tests.unit.runtime.answering import answering

TOLD = {"arrivals": 7, "active": 2, "rejected": 1}


def test_only_services_that_there_are_count() -> None:
    page = json.dumps({"digits": TOLD, "nobody": TOLD, "": {"arrivals": -1}}).encode()
    assert parse(page, {"digits", "another"}, 12.0) == {"digits": DoorCounts(12.0, 7, 2, 1)}


@pytest.mark.parametrize(
    "page",
    [
        b"[]",
        b'{"digits": 7}',
        b'{"digits": {"arrivals": true}}',
        b'{"digits": {"arrivals": "7"}}',
        b'{"digits": {"arrivals": -7}}',
        b'{"digits": {"active": 1e300}}',
        b'{"digits": {"active": NaN}}',
        b'{"digits": ' * 100_000,
        b"",
    ],
)
def test_what_is_no_count_is_refused(page: bytes) -> None:
    with pytest.raises((ValueError, RecursionError)):
        parse(page, {"digits"}, 12.0)


@pytest.mark.parametrize(("strangers", "services"), [(0, 1), (100, 1), (10_000, 0)])
async def test_no_more_is_read_than_a_door_can_have_to_tell(strangers: int, services: int) -> None:
    page = {"digits": TOLD} | {f"stranger-{index}": {} for index in range(strangers)}

    async def answer(_: web.Request) -> web.Response:
        return web.json_response(page)

    async with answering("/counts", answer) as (port, asking):
        door = pod_view(objects.door_pod(address="127.0.0.1"))
        told = await read(asking, door, {"digits"}, lambda: 12.0, port)
    assert len(told or ()) == services
