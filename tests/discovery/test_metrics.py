"""What the operator configures has the names that the door counts by."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from functools import partial

from e2e.cluster.ports import free_port
from lepton_operator.door.config import runtime
from tests.discovery.conftest import Scene
from tests.discovery.rig import NAMESPACE, a_service, until

MOST_SERIES = 60
SERIES = re.compile(r"^(\w+)\{(.*)\} (\S+)$", re.MULTILINE)


async def counted(scene: Scene, name: str) -> dict[tuple[str, str], float]:
    """Return a counter of the door by service and revision."""
    found = await scraped(scene)
    return {
        (labels["service"], labels["revision"]): value
        for each, labels, value in found
        if each == f"envoy_service_{name}"
    }


async def scraped(scene: Scene) -> list[tuple[str, dict[str, str], float]]:
    text = (await asyncio.to_thread(scene.envoy.admin.metrics)).decode()
    return [
        (name, dict(re.findall(r'(\w+)="([^"]*)"', labels)), float(value))
        for name, labels, value in SERIES.findall(text)
    ]


async def test_a_service_has_few_series_and_its_requests_are_counted_by_revision(
    scene: Scene,
) -> None:
    scene.serve(*(pod.endpoint() for pod in scene.pods))
    await scene.until_served()
    for _ in range(20):
        assert (await scene.get())[0] == 200
    found = await scraped(scene)
    series = Counter(labels.get("service") for _, labels, _ in found)
    assert 40 < series["digits"] <= MOST_SERIES
    requests = await counted(scene, "requests")
    assert requests.keys() == {("digits", pod.revision) for pod in scene.pods}
    assert sum(requests.values()) == 20
    assert {labels.get("protocol") for _, labels, _ in found} == {None, "http", "grpc"}


async def test_each_service_has_a_target_and_each_revision_is_held_against_it(
    scene: Scene,
) -> None:
    """Two revisions serve at once, and the same answers are late for one service only."""
    places = [pod.endpoint() for pod in scene.pods]
    strict = a_service("strict", free_port(), *places)
    scene.serve(*places)
    scene.operator.put(strict)
    scene.operator.catalogue.replace(NAMESPACE, runtime({"digits": 10_000, "strict": 100}))
    await scene.until_served()
    await scene.envoy.until("/stats?filter=total_listeners_active", "active: 2")
    await scene.envoy.until("/clusters", "strict/http::127.")
    await scene.envoy.until("/runtime", "lepton.latency_target_milliseconds.strict")
    await scene.until_listening(strict.port)
    urls = [f"http://127.0.0.1:{port}/?sleep=1" for port in (scene.port, strict.port)]

    async def ask(url: str) -> None:
        async with scene.http.get(url) as response:
            assert response.status == 200

    def requests() -> int:
        return sum(len(pod.seen) for pod in scene.pods)

    for url in urls:
        before = requests()
        first = asyncio.create_task(ask(url))
        await until(partial(lambda seen: requests() > seen, before), "a pod works on it")
        await ask(url)  # goes to the other one, which has nothing to do
        await first
    every = {(name, pod.revision): 1.0 for name in ("digits", "strict") for pod in scene.pods}
    assert await counted(scene, "requests") == every
    late = {each: 1.0 for each in every if each[0] == "strict"}
    assert await counted(scene, "over_target") == late


async def test_what_no_pod_had_is_counted_under_no_revision(scene: Scene) -> None:
    scene.serve()
    await scene.envoy.until("/listeners", f":{scene.port}")
    await scene.until_listening(scene.port)
    assert (await scene.get())[0] == 503
    assert await counted(scene, "requests") == {("digits", ""): 1}
