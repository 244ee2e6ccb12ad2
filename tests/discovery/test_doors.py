"""A real Envoy, fed by the real server: what it routes, what it refuses, and what cuts nothing."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any

import aiohttp
import grpc
import pytest
from structlog.testing import capture_logs

from e2e.cluster.ports import free_port
from lepton_operator.door.config import runtime
from lepton_operator.door.served import Endpoint
from tests.discovery.conftest import Scene
from tests.discovery.rig import NAMESPACE, a_service, until
from tests.discovery.upstreams import STREAM, UNARY

NOBODY = "127.255.255.1"  # an address at which nothing listens


Request = Callable[[], Awaitable[str]]


@dataclass
class Load:
    """What clients got who ask all the time, over HTTP and over gRPC."""

    answers: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    rounds: Counter[Request] = field(default_factory=Counter)  # that are over, of each client

    async def ask(self, request: Request) -> None:
        self.rounds[request] = 0
        while True:
            try:
                self.answers.append(await request())
            except (OSError, grpc.aio.AioRpcError, AssertionError) as error:
                self.failures.append(repr(error))
            self.rounds[request] += 1
            await asyncio.sleep(0.002)

    async def next_round(self) -> None:
        """Wait until what is asked now has its answer."""
        before = Counter(self.rounds)
        await until(
            lambda: all(self.rounds[each] > count for each, count in before.items()), "answers"
        )


@asynccontextmanager
async def load(scene: Scene) -> AsyncIterator[Load]:
    """Ask over a keep-alive HTTP connection and over one gRPC channel, while the block runs."""
    found = Load()

    async def over_http() -> str:
        status, text = await scene.get()
        assert status == 200, text
        return text

    async with scene.channel() as channel:
        method = channel.unary_unary(UNARY)

        async def over_grpc() -> str:
            return str((await method(b"0")).decode())

        asking = [asyncio.create_task(found.ask(each)) for each in (over_http, over_grpc)]
        try:
            await until(lambda: len(found.answers) > 20, "clients are answered")
            yield found
            seen = len(found.answers)
            await until(lambda: len(found.answers) > seen + 20, "clients are answered still")
        finally:
            for each in asking:
                each.cancel()
            await asyncio.gather(*asking, return_exceptions=True)


async def test_http_and_grpc_find_the_pods_on_one_port(scene: Scene) -> None:
    one, _ = scene.pods
    scene.serve(one.endpoint())
    await scene.until_served()
    assert await scene.get("/v2/health/ready") == (200, one.address)
    async with scene.channel() as channel:
        assert await channel.unary_unary(UNARY)(b"0") == one.address.encode()
        call = channel.stream_stream(STREAM)()
        for word in (b"first", b"second"):  # each is answered before the next is sent
            await call.write(word)
            assert await call.read() == one.address.encode() + b" " + word
        await call.done_writing()


async def test_requests_follow_the_endpoints_and_none_fails(scene: Scene) -> None:
    one, other = scene.pods
    scene.serve(one.endpoint())
    await scene.until_served()
    async with load(scene) as seen:
        scene.serve(one.endpoint(), other.endpoint())
        await until(lambda: other.address in seen.answers, "the new pod is asked")
        scene.serve(one.endpoint(takes_requests=False), other.endpoint())
        await scene.envoy.until("/clusters", "eds_status_draining")
        await seen.next_round()
        since = len(seen.answers)
        scene.serve(other.endpoint())
        await scene.envoy.until("/clusters", one.address, absent=True)
    assert set(seen.answers[since:]) == {other.address}
    assert seen.failures == []


async def test_what_a_draining_pod_works_on_is_answered(scene: Scene) -> None:
    one, other = scene.pods
    scene.serve(one.endpoint())
    await scene.until_served()
    slow = asyncio.create_task(scene.get("/?sleep=1.5"))
    await until(lambda: one.seen, "the pod has the request")
    scene.serve(one.endpoint(takes_requests=False), other.endpoint())
    await scene.envoy.until("/clusters", "eds_status_draining")
    assert {(await scene.get())[1] for _ in range(10)} == {other.address}
    assert await slow == (200, one.address)


async def test_where_all_pods_drain_nobody_is_asked(scene: Scene) -> None:
    one, other = scene.pods
    leaving = [each.endpoint(takes_requests=False) for each in (one, other)]
    scene.serve(*leaving)
    await scene.until_served()
    status, text = await scene.get()
    assert (status, text) == (
        503,
        "No pod of this InferenceService takes requests now; its status says why.",
    )
    assert one.seen == other.seen == []


async def test_a_pod_that_cannot_be_reached_costs_no_request(scene: Scene) -> None:
    one, _ = scene.pods
    scene.serve(one.endpoint(), Endpoint(NOBODY, "a1b2c3", takes_requests=True))
    await scene.until_served()
    assert {await scene.get() for _ in range(30)} == {(200, one.address)}


async def test_a_pod_that_answers_errors_is_taken_out(scene: Scene) -> None:
    one, other = scene.pods
    one.is_broken = True
    scene.serve(one.endpoint(), other.endpoint())
    await scene.until_served()
    found = []
    # Envoy's main thread takes it out and tells the others: what it says itself is true of all.
    while "failed_outlier_check" not in await scene.envoy.ask("/clusters"):
        found.append((await scene.get())[0])
        assert found.count(500) <= 20
    assert {await scene.get() for _ in range(20)} == {(200, other.address)}


async def test_a_pod_that_fails_is_taken_out_sooner(scene: Scene) -> None:
    one, other = scene.pods
    scene.serve(one.endpoint(), other.endpoint())
    await scene.until_served()
    asked = 0
    while "failed_outlier_check" not in await scene.envoy.ask("/clusters"):
        assert (await scene.get("/?status=503"))[0] == 503
        asked += 1
        assert asked < 10, "one of two had five in a row"
    assert {(await scene.get("/?status=503"))[0] for _ in range(10)} == {503}
    told = await scene.envoy.ask("/clusters")
    assert told.count("failed_outlier_check") == 1, "never more than half of them"


async def test_a_client_that_makes_no_sense_takes_no_pod_from_the_others(scene: Scene) -> None:
    one, other = scene.pods
    scene.serve(one.endpoint(), other.endpoint())
    await scene.until_served()
    for _ in range(10):
        for path in ("/?status=500", "/"):
            assert len([await scene.get(path) for _ in range(12)]) == 12
    assert "failed_outlier_check" not in await scene.envoy.ask("/clusters")


async def test_a_restarted_operator_tells_a_door_nothing_new(scene: Scene) -> None:
    one, other = scene.pods
    scene.serve(one.endpoint(), other.endpoint())
    await scene.until_served()
    async with load(scene) as seen:
        before = scene.operator.pushed()
        await scene.operator.stop()
        await asyncio.sleep(0.3)
        await scene.operator.start()
        await until(scene.operator.streams, "the door is connected again")
        await asyncio.sleep(0.5)
        assert scene.operator.pushed() == before
        scene.serve(one.endpoint())
        await scene.envoy.until("/clusters", other.address, absent=True)
        assert scene.operator.pushed() - before == {"ClusterLoadAssignment": 1}
    assert seen.failures == []


async def test_what_changed_while_no_operator_led_is_told_by_the_next(scene: Scene) -> None:
    one, other = scene.pods
    scene.serve(one.endpoint())
    await scene.until_served()
    before = scene.operator.pushed()
    await scene.operator.stop()
    scene.serve(other.endpoint())
    assert await scene.get() == (200, one.address)  # the door goes on with what it knows
    await scene.operator.start()
    await scene.envoy.until("/clusters", other.address)
    assert await scene.get() == (200, other.address)
    assert scene.operator.pushed() - before == {"ClusterLoadAssignment": 1}


async def test_other_limits_take_effect_and_cut_nothing(scene: Scene) -> None:
    one, other = scene.pods
    scene.serve(one.endpoint(), other.endpoint())
    await scene.until_served()
    async with load(scene) as seen:
        for concurrency in (7, 8, 9):
            slow = asyncio.create_task(scene.get("/?sleep=0.5"))
            scene.serve(one.endpoint(), other.endpoint(), concurrency=concurrency)
            await scene.envoy.until("/clusters", f"max_connections::{concurrency}\n")
            assert (await slow)[0] == 200
    assert seen.failures == []


async def test_what_is_over_the_limits_gets_429(scene: Scene) -> None:
    one, _ = scene.pods
    scene.serve(one.endpoint(), concurrency=1, queue=1)
    await scene.until_served()
    asking = [asyncio.create_task(asked(scene, "/?held")) for _ in range(8)]
    await until(lambda: sum(each.done() for each in asking) >= 4, "refusals")
    one.let_go.set()
    answers = await asyncio.gather(*asking)
    served = [answer for answer in answers if answer.status == 200]
    refused = [answer for answer in answers if answer.status == 429]
    # Each thread of the door may have a connection, and one more waits while they are made.
    assert 2 <= len(served) <= 4
    assert len(served) + len(refused) == 8
    for answer in refused:
        assert answer.headers["retry-after"] == "1"
        assert "grpc-status" not in answer.headers
        assert (await answer.text()).startswith("Every place of this InferenceService")


async def asked(scene: Scene, path: str) -> aiohttp.ClientResponse:
    response = await scene.http.get(scene.url + path)
    await response.read()
    return response


async def test_what_is_over_the_limits_gets_resource_exhausted(scene: Scene) -> None:
    one, _ = scene.pods
    scene.serve(one.endpoint(), concurrency=1, queue=1)
    await scene.until_served()
    async with scene.channel() as channel:
        method = channel.unary_unary(UNARY)
        asking = [asyncio.create_task(code(method(b"held"))) for _ in range(5)]
        await until(lambda: sum(each.done() for each in asking) >= 3, "refusals")
        one.let_go.set()
        found = await asyncio.gather(*asking)
    assert found.count(grpc.StatusCode.OK) == 2
    assert found.count(grpc.StatusCode.RESOURCE_EXHAUSTED) == 3


async def code(call: Any) -> grpc.StatusCode:
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return error.code()
    return grpc.StatusCode.OK


async def test_a_body_that_is_too_large_reaches_no_pod(scene: Scene) -> None:
    one, _ = scene.pods
    scene.serve(one.endpoint(), body_bytes=1000)
    await scene.until_served()
    for size, status in ((1000, 200), (1001, 413), (5_000_000, 413)):
        async with scene.http.post(scene.url, data=BytesIO(b"x" * size)) as response:
            assert response.status == status
    async with scene.channel() as channel:
        call = channel.unary_unary(UNARY)(b"x" * 100_000)  # gRPC is counted by what is read at once
        assert await code(call) == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "limits.bodyBytes" in await call.details()
    assert one.seen == ["/"]


async def test_an_answer_that_takes_too_long_is_given_up(scene: Scene) -> None:
    one, _ = scene.pods
    scene.serve(one.endpoint(), timeout_seconds=1)
    await scene.until_served()
    status, text = await scene.get("/?sleep=4")
    assert status == 504
    assert "limits.timeoutSeconds" in text
    async with scene.channel() as channel:
        found = await code(channel.unary_unary(UNARY)(b"4"))
        assert found == grpc.StatusCode.DEADLINE_EXCEEDED


HOSTILE = {
    "host": {"Host": "other.team-b.svc:8000"},
    "timeout": {"x-envoy-upstream-rq-timeout-ms": "1"},
    "retries": {"x-envoy-retry-on": "5xx", "x-envoy-max-retries": "50"},
    "destination": {"x-envoy-original-dst-host": "10.0.0.1:80"},
    "forwarded": {"X-Forwarded-For": "10.0.0.1, ::1", "X-Forwarded-Proto": "https"},
}


@pytest.mark.parametrize("name", list(HOSTILE))
async def test_no_header_of_a_client_changes_how_it_is_served(scene: Scene, name: str) -> None:
    one, _ = scene.pods
    scene.serve(one.endpoint())
    await scene.until_served()
    url = scene.url + "/?sleep=0.1&status=500"
    async with scene.http.get(url, headers=HOSTILE[name]) as response:
        assert (response.status, await response.text()) == (500, one.address)
    assert one.seen == ["/"]


@pytest.mark.parametrize(
    "path", ["/%00", "/a\\..\\b", "//v2", "/../../etc", "/%2e%2e/x", "/;a=b?c#d"]
)
async def test_no_path_leads_elsewhere(scene: Scene, path: str) -> None:
    one, other = scene.pods
    scene.serve(one.endpoint())
    scene.operator.put(a_service("other", free_port(), other.endpoint()))
    await scene.until_served()
    reader, writer = await asyncio.open_connection("127.0.0.1", scene.port)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: other\r\nConnection: close\r\n\r\n".encode())
    answer = (await reader.read()).decode()
    writer.close()
    assert answer.split()[1] in ("200", "400")
    assert other.seen == []


async def test_requests_are_counted_by_revision_and_by_their_target(scene: Scene) -> None:
    one, _ = scene.pods
    scene.serve(one.endpoint())
    await scene.until_served()
    for milliseconds, sleeps in ((10_000, (0, 0)), (200, (0.4,))):
        scene.operator.catalogue.replace(NAMESPACE, runtime({"digits": milliseconds}))
        await scene.envoy.until("/runtime", f'"{milliseconds}"')
        for seconds in sleeps:
            await scene.get(f"/?sleep={seconds}")
    await scene.envoy.until("/stats", "service.requests.service.digits.revision.a1b2c3: 3")
    await scene.envoy.until("/stats", "service.over_target.service.digits.revision.a1b2c3: 1")


async def test_a_service_that_was_deleted_leaves_and_the_others_stay(scene: Scene) -> None:
    one, other = scene.pods
    scene.serve(one.endpoint())
    second = a_service("other", free_port(), other.endpoint())
    scene.operator.put(second)
    await scene.until_served()
    await scene.envoy.until("/listeners", f":{second.port}")
    scene.operator.catalogue.remove(NAMESPACE, "other")
    await scene.envoy.until("/listeners", f":{second.port}", absent=True)
    await scene.envoy.until("/clusters", "other/", absent=True)
    assert await scene.get() == (200, one.address)


async def test_what_a_door_refuses_is_counted_and_named_and_holds_up_nothing(scene: Scene) -> None:
    one, _ = scene.pods
    scene.serve(one.endpoint())
    await scene.until_served()
    with capture_logs() as logs:
        scene.operator.put(a_service("rival", scene.port, one.endpoint()))
        scene.operator.put(a_service("third", port := free_port(), one.endpoint()))
        await scene.envoy.until("/listeners", f":{port}")
        await until(
            lambda: scene.operator.value("lepton_door_nacks_total", kind="Listener"), "a NACK"
        )
    (said,) = [each for each in logs if each["log_level"] == "error"]
    assert (said["services"], said["kind"]) == ("rival", "Listener")
    assert await scene.get() == (200, one.address)
