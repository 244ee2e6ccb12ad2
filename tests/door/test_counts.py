"""What autoscaling is told: a real Envoy's counts, by a real Prometheus and by the door itself."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from e2e.cluster.ports import free_ports
from lepton_operator.bodies import pod_view
from lepton_operator.inquiry import inquiry
from lepton_operator.signals import doors as by_doors
from lepton_operator.signals.counts import Counts, Service
from tests.door.conftest import HELD, Doors, RunningDoor, get
from tests.prometheus import Prometheus, job, running
from tests.unit.runtime import objects

DIGITS = Service("team", "digits-0")


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
    target = job("doors", f"127.0.0.1:{door.port}", namespace="team", pod="a")
    with running(tmp_path, [target]) as found:
        yield found


async def test_prometheus_tells_what_a_door_counted(
    door: RunningDoor, scraping: Prometheus, held: threading.Event
) -> None:
    port = door.services["digits-0"]
    before = time.time()
    for _ in range(7):
        get(port, "/0")
    slow = threading.Thread(target=get, args=(port, HELD))
    slow.start()
    found = await scraping.until(DIGITS, lambda counts: doing(counts) == (8, 1))
    assert list(found.doors) == ["a"]
    first = found.doors["a"].at
    assert before < first < time.time() + 1
    assert found.doors["a"].rejected == 0
    await scraping.until(
        DIGITS, lambda counts: any(each.at > first + 5 for each in counts.doors.values())
    )
    held.set()
    slow.join()
    whole = time.time() - before
    found = await scraping.until(
        DIGITS, lambda counts: doing(counts) == (8, 0) and answers(counts) == 8
    )
    # Of latencies Envoy keeps two digits.
    assert 5000 <= (found.doors["a"].milliseconds or 0) < 1.1 * 1000 * whole


async def test_a_door_tells_the_same_itself(door: RunningDoor, held: threading.Event) -> None:
    port = door.services["digits-0"]
    for _ in range(3):
        get(port, "/0")
    slow = threading.Thread(target=get, args=(port, HELD))
    slow.start()
    door.until_told("/counts", lambda told: told["digits-0"]["active"] == 1)
    pod = pod_view(objects.door_pod(address="127.0.0.1"))
    async with inquiry() as asking:
        asked = ("digits-0", "digits-1", "nobody")
        found = await by_doors.read(asking, pod, asked, lambda: 12.0, door.port)
        one = await by_doors.read(asking, pod, asked[:1], time.time, door.port)
    assert found is not None
    counts = found["digits-0"]
    assert (counts.at, counts.arrivals, counts.active, counts.rejected) == (12.0, 4, 1, 0)
    assert found.keys() == {"digits-0", "digits-1"}
    assert one is not None
    assert one.keys() == {"digits-0"}
    held.set()
    slow.join()


async def test_a_door_that_does_not_answer_tells_nothing() -> None:
    (port,) = free_ports(1)
    pod = pod_view(objects.door_pod(address="127.0.0.1"))
    async with inquiry() as asking:
        assert await by_doors.read(asking, pod, ("digits-0",), time.time, port) is None
