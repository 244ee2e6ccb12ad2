"""What the operator configures has the names that the door counts by."""

from __future__ import annotations

import asyncio
import re
from collections import Counter

from tests.discovery.conftest import Scene

MOST_SERIES = 60
SERIES = re.compile(r"^(\w+)\{(.*)\} (\S+)$", re.MULTILINE)


async def scraped(scene: Scene) -> list[tuple[str, dict[str, str], float]]:
    def ask() -> str:
        with scene.envoy.admin.metrics() as response:
            return response.read().decode()

    text = await asyncio.to_thread(ask)
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
    requests = {
        labels["revision"]: value
        for name, labels, value in found
        if name == "envoy_service_requests"
    }
    assert requests.keys() == {pod.revision for pod in scene.pods}
    assert sum(requests.values()) == 20
    assert {labels.get("protocol") for _, labels, _ in found} == {None, "http", "grpc"}
