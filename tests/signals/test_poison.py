"""Metrics that are missing, old or wrong, and what is then decided by: docs/autoscaling-signals.md.

Each case is a Prometheus that tells something else than before, to an autoscaler that has followed
the same demand for a while: nothing may be added or removed for it.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

import pytest
from aiohttp import web

from lepton_operator.signals import prometheus
from tests.signals.scene import RATE, REPLICAS, STEP_SECONDS, Row, Scene, row, scene, vector

Lie = Callable[[Scene], Awaitable[web.StreamResponse]]
NEXT_SECONDS = 0.8  # after which samples are newer
HOUR_SECONDS = 3600.0
INJECTION = 'digits"} or vector(9e9) or envoy_http_downstream_rq_total{service="'


def says(body: str, status: int = 200, **headers: str) -> Lie:
    async def answer(_: Scene) -> web.Response:
        return web.Response(text=body, status=status, headers=headers)

    return answer


def says_rows(rows: Callable[[Scene], list[Row]]) -> Lie:
    async def answer(scene: Scene) -> web.Response:
        return web.Response(text=vector(rows(scene)))

    return answer


def says_instead(**values: object) -> Lie:
    return says_rows(lambda scene: scene.counters.rows(**values))


def sampled(seconds: float) -> Lie:
    """Tell true counts under a time that lies so many seconds from now."""
    return says_rows(lambda scene: scene.counters.rows(at=time.time() + seconds))


async def waits(_: Scene) -> web.Response:
    await asyncio.sleep(prometheus.ANSWER_SECONDS + 1)
    return web.Response(text=vector([]))


async def goes_on_for_ever(_: Scene) -> web.Response:
    return web.Response(
        body=b'{"status":"success","data":{"resultType":"vector","result":['
        + b" " * (17 << 20)  # for one service
    )


def of_strangers(scene: Scene) -> list[Row]:
    others = (
        row("envoy_http_downstream_rq_total", 9e9, service=f"service-{index}", pod=f"pod-{index}")
        for index in range(10_000)
    )
    return [*scene.counters.rows(), *others]


def of_another_cluster(scene: Scene) -> list[Row]:
    """Return rows of a service and namespace of the same names, behind other doors."""
    others = scene.counters.rows(rq_total=9e9, rq_active=5000)
    return [*scene.counters.rows(), *(({**it, "pod": "door-9"}, at, n) for it, at, n in others)]


def of_injected_names(scene: Scene) -> list[Row]:
    return [*scene.counters.rows(), row("envoy_http_downstream_rq_total", 9e9, service=INJECTION)]


def twice(scene: Scene) -> list[Row]:
    return scene.counters.rows() * 2


RESULT = '{"status":"success","data":{"resultType":"%s","result":%s}}'
BAD_QUERY = json.dumps({"status": "error", "errorType": "bad_data", "error": "parse error"})

REFUSED: Mapping[str, tuple[Lie, str]] = {
    "slow": (waits, "TimeoutError"),
    "scalar": (says(RESULT % ("scalar", '[1,"2"]')), "scalar"),
    "string": (says(RESULT % ("string", '[1,"2"]')), "string"),
    "matrix": (says(RESULT % ("matrix", '[{"metric":{},"values":[[1,"2"]]}]')), "matrix"),
    "html": (says("<html>Sign in</html>", 200), "JSON is malformed"),
    "gateway": (says("<html>502 Bad Gateway</html>", 502), "answers 502"),
    "redirect": (says("", 302, Location="http://127.0.0.1:1/"), "answers 302"),
    "error": (says(BAD_QUERY, 400), "parse error"),
    "endless": (goes_on_for_ever, "longer than 16 MiB"),
    "deep": (says("[" * 100_000), "something else"),
    "cut": (says(RESULT[:40]), "something else"),
}
"""No answer to the query: nothing of it is used, and the operator says what was wrong."""

SILENT: Mapping[str, Lie] = {
    "empty": says_rows(lambda _: []),
    "NaN": says_instead(rq_total="NaN"),
    "+Inf": says_instead(rq_active="+Inf"),
    "-Inf": says_instead(rq_total="-Inf"),
    "negative": says_instead(rq_active=-1.0),
    "no number": says_instead(rq_total="many"),
    "beyond counting": says_instead(rq_total=1e300),
    "sampled never": says_instead(at="NaN"),
    "an hour old": sampled(-HOUR_SECONDS),
    "an hour ahead": sampled(HOUR_SECONDS),
    "another service": says_rows(lambda _: [row("envoy_http_downstream_rq_total", 1, service="x")]),
}
"""An answer without usable counts of this service's doors."""

BELIEVED: Mapping[str, Lie] = {
    "10,000 strangers": says_rows(of_strangers),
    "another cluster's": says_rows(of_another_cluster),
    "injected names": says_rows(of_injected_names),
    "duplicates": says_rows(twice),
    "a latency that is no number": says_instead(rq_time_sum="NaN", rq_time_count="NaN"),
}
"""An answer in which our doors' counts are right, whatever else is in it."""


@dataclass(frozen=True)
class Outcome:
    source: str | None
    held: bool
    why: str


async def outcome(scene: Scene) -> Outcome:
    scene.counters.go_on(time.time())
    account = await scene.look()
    assert account.last is not None
    assert account.last.replicas == REPLICAS, account.last.reason
    return Outcome(account.source, account.last.held, scene.asking.why)


@pytest.mark.parametrize("case", [*REFUSED, *SILENT])
async def test_what_tells_nothing_changes_nothing_and_the_doors_are_asked(case: str) -> None:
    lie, why = REFUSED[case] if case in REFUSED else (SILENT[case], "")
    async with scene() as it:
        steady = await it.go_steady()
        assert (steady.source, steady.last and steady.last.held) == ("Prometheus", False)
        it.answer = lambda _: lie(it)
        while case in REFUSED and not it.asking.why:  # who is slow holds up no look
            await it.look()
        without = await outcome(it)
        assert (without.source, without.held) == (None, True)
        assert why in without.why
        it.door_answers = True
        await asyncio.sleep(NEXT_SECONDS)
        by_doors = await outcome(it)
        assert (by_doors.source, by_doors.held) == ("Doors", False)
        it.answer, it.door_answers = None, False
        while it.asking.why:
            await it.look()
        healed = await outcome(it)
        assert (healed.source, healed.why) == ("Prometheus", "")
        assert it.scaled == []


@pytest.mark.parametrize("case", BELIEVED)
async def test_what_is_wrong_beside_our_counts_is_not_used(case: str) -> None:
    async with scene() as it:
        await it.go_steady()
        it.answer = lambda _: BELIEVED[case](it)
        found = await outcome(it)
        assert (found.source, found.held) == ("Prometheus", False)
        assert it.scaled == []


async def test_older_samples_are_none() -> None:
    async with scene() as it:
        before = (await it.go_steady()).last
        it.answer = lambda _: says_instead(at=time.time() - 20, rq_total=1.0)(it)
        account = await it.look()
        assert account.last is before
        assert it.scaled == []


async def test_a_counter_that_begins_anew_counts_what_it_counted_since() -> None:
    async with scene() as it:
        account = await it.go_steady()
        assert account.meter.totals is not None
        before = account.meter.totals.arrivals
        await asyncio.sleep(NEXT_SECONDS)
        it.counters.arrivals = 7.0
        it.counters.at = time.time()
        account = await it.look()
        assert account.meter.totals is not None
        assert account.meter.totals.arrivals == before + 7
        assert account.last is not None
        assert account.last.replicas == REPLICAS


async def test_a_prometheus_that_is_gone_is_not_waited_for_and_not_missed() -> None:
    """The doors tell of a demand that has grown, and replicas are added for it."""
    async with scene() as it:
        await it.go_steady()
        it.asking.settings = it.asking.settings.model_copy(
            update={
                "prometheus": it.asking.settings.prometheus.model_copy(
                    update={"url": "http://127.0.0.1:1"}
                )
            }
        )
        it.door_answers = True
        assert (await outcome(it)).source == "Doors"
        it.counters.rate = 3 * RATE
        await asyncio.sleep(2 * STEP_SECONDS)
        account = await it.look()
        assert "does not answer" in it.asking.why
        assert account.last is not None
        assert account.last.replicas > REPLICAS
        assert it.scaled == [account.last.replicas]


async def test_the_query_names_the_cluster_and_quotes_what_it_is_given() -> None:
    async with scene(matchers={"cluster": 'blue"} or vector(1)'}) as it:
        await it.look()
    (query,) = it.queries
    selectors = query.count("__name__=~") + 1  # and that of the times
    assert query.count('cluster="blue\\"} or vector(1)"') == selectors
