"""What autoscaling is told: a real Envoy's counts, by a real Prometheus and by the door itself."""

from __future__ import annotations

import asyncio
import json
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest
import yaml

from e2e.cluster import tool
from e2e.cluster.ports import free_ports
from lepton_operator.bodies import pod_view
from lepton_operator.inquiry import inquiry
from lepton_operator.signals import doors as by_doors
from lepton_operator.signals import prometheus
from lepton_operator.signals.counts import Counts, Service
from tests.door.conftest import Doors, RunningDoor, get
from tests.unit.runtime import objects

LIMIT_SECONDS = 30.0
DIGITS = Service("team", "digits-0")


@dataclass(frozen=True)
class Prometheus:
    url: str

    async def until(self, holds: Callable[[Counts], bool]) -> Counts:
        """Return the first counts of the service of which this is true."""
        text = prometheus.query({}, ["team"])
        end = time.monotonic() + LIMIT_SECONDS
        async with aiohttp.ClientSession() as session:
            while True:
                try:
                    found = (await prometheus.read(session, self.url, text)).get(DIGITS, Counts())
                except prometheus.SignalError:
                    found = Counts()
                if holds(found):
                    return found
                assert time.monotonic() < end, found
                await asyncio.sleep(0.2)


def doing(counts: Counts) -> tuple[float, float]:
    found = counts.doors.values()
    return sum(each.arrivals for each in found), sum(each.active for each in found)


def answers(counts: Counts) -> float:
    return sum(each.answers or 0 for each in counts.doors.values())


@pytest.fixture
def door(doors: Doors, upstream: str) -> RunningDoor:
    found = doors.start(2, {upstream: "HEALTHY"})
    found.until_ready()
    return found


@pytest.fixture
def scraping(door: RunningDoor, tmp_path: Path) -> Iterator[Prometheus]:
    """A Prometheus that scrapes the door each second, as one pod of the namespace `team`."""
    (port,) = free_ports(1)
    target = {"targets": [f"127.0.0.1:{door.port}"], "labels": {"namespace": "team", "pod": "a"}}
    configuration = {
        "global": {"scrape_interval": "1s"},
        "scrape_configs": [{"job_name": "doors", "static_configs": [target]}],
    }
    file = tmp_path / "prometheus.yaml"
    file.write_text(yaml.safe_dump(configuration))
    argv = (
        str(tool("prometheus")),
        f"--config.file={file}",
        f"--storage.tsdb.path={tmp_path}/data",
        f"--web.listen-address=127.0.0.1:{port}",
    )
    with (
        (tmp_path / "prometheus.log").open("w") as log,
        subprocess.Popen(argv, stdout=log, stderr=log) as process,
    ):
        yield Prometheus(f"http://127.0.0.1:{port}")
        process.terminate()


async def test_prometheus_tells_what_a_door_counted(
    door: RunningDoor, scraping: Prometheus
) -> None:
    port = door.services["digits-0"]
    before = time.time()
    for _ in range(7):
        get(port, "/0")
    slow = threading.Thread(target=get, args=(port, "/6"))
    slow.start()
    found = await scraping.until(
        lambda counts: any(
            each.arrivals == 8 and each.active == 1 for each in counts.doors.values()
        )
    )
    assert list(found.doors) == ["a"]
    assert before < found.doors["a"].at < time.time() + 1
    assert found.doors["a"].rejected == 0
    slow.join()
    found = await scraping.until(lambda counts: doing(counts) == (8, 0) and answers(counts) == 8)
    assert 6000 <= (found.doors["a"].milliseconds or 0) < 20_000


async def test_a_door_tells_the_same_itself(door: RunningDoor) -> None:
    port = door.services["digits-0"]
    for _ in range(3):
        get(port, "/0")
    slow = threading.Thread(target=get, args=(port, "/2"))
    slow.start()
    door.until(lambda answer: json.loads(answer.text)["digits-0"]["active"] == 1, "/counts")
    pod = pod_view(objects.door_pod(address="127.0.0.1"))
    async with inquiry() as asking:
        found = await by_doors.read(asking, [pod], lambda: 12.0, door.port)
    (counts,) = found[Service(pod.namespace, "digits-0")].doors.values()
    assert (counts.at, counts.arrivals, counts.active, counts.rejected) == (12.0, 4, 1, 0)
    assert {service.name for service in found} == {"digits-0", "digits-1"}
    slow.join()


async def test_a_door_that_does_not_answer_tells_nothing() -> None:
    (port,) = free_ports(1)
    pod = pod_view(objects.door_pod(address="127.0.0.1"))
    async with inquiry() as asking:
        assert await by_doors.read(asking, [pod], time.time, port) == {}
