"""What a scrape of the door holds: few series a service, and each under its service's name."""

from __future__ import annotations

import re
import time
from collections import Counter
from pathlib import Path

import pytest

from e2e.doors import cpu_seconds
from images.door.stats import LATENCY_BUCKETS_MILLISECONDS
from tests.door.conftest import Doors, RunningDoor, get
from tests.door.services import REVISIONS

MOST_SERIES = 60
SERIES = re.compile(r"^([a-z_]+)\{(.*)\} (\S+)$", re.MULTILINE)


def scraped(door: RunningDoor) -> list[tuple[str, dict[str, str], float]]:
    return series_of(door.ask("/metrics").text)


def series_of(text: str) -> list[tuple[str, dict[str, str], float]]:
    return [
        (name, dict(re.findall(r'(\w+)="([^"]*)"', labels)), float(value))
        for name, labels, value in SERIES.findall(text)
    ]


@pytest.fixture
def door(doors: Doors, upstream: str) -> RunningDoor:
    found = doors.start(3, {upstream: "HEALTHY"})
    found.until_ready()
    return found


def test_a_service_in_the_middle_of_a_rollout_has_at_most_sixty_series(door: RunningDoor) -> None:
    for port in door.services.values():
        for revision in REVISIONS:
            assert get(port, "/0", revision=revision).status == 200
    series = Counter(labels.get("service") for _, labels, _ in scraped(door))
    assert {name: series[name] for name in series if name} == dict.fromkeys(
        door.services, series["digits-0"]
    )
    assert 40 < series["digits-0"] <= MOST_SERIES
    assert series[None] < MOST_SERIES, "and so has the door itself"


def test_every_series_has_labels_of_its_own(door: RunningDoor) -> None:
    """Two of the same name and labels would be refused by Prometheus, and all others with them."""
    every = Counter((name, tuple(labels.items())) for name, labels, _ in scraped(door))
    assert set(every.values()) == {1}


def test_requests_are_counted_by_service_and_revision(door: RunningDoor) -> None:
    port = door.services["digits-1"]
    for revision in (*REVISIONS, REVISIONS[0]):
        get(port, "/0", revision=revision)
    found = {
        (labels["service"], labels["revision"]): value
        for name, labels, value in scraped(door)
        if name == "envoy_service_requests"
    }
    assert found == {("digits-1", REVISIONS[0]): 2, ("digits-1", REVISIONS[1]): 1}


def test_of_many_revisions_those_are_shown_that_had_requests_last(door: RunningDoor) -> None:
    """Envoy forgets no revision, and a service has a new one with each change."""
    port = door.services["digits-0"]
    for revision in ("one", "two", "three", "four", "five", "six", "one", "seven"):
        assert get(port, "/0", revision=revision).status == 200
        door.ask("/metrics")
    found = scraped(door)
    shown = {
        (labels["revision"], value)
        for name, labels, value in found
        if name == "envoy_service_requests" and labels["service"] == "digits-0"
    }
    assert shown == {("five", 1), ("six", 1), ("one", 2), ("seven", 1)}
    series = Counter(labels.get("service") for _, labels, _ in found)
    assert series["digits-0"] <= MOST_SERIES


def test_what_comes_in_what_is_under_way_and_what_is_refused_is_counted(door: RunningDoor) -> None:
    """The numbers that a service is scaled by."""
    get(door.services["digits-1"], "/0")
    counted = {name for name, labels, _ in scraped(door) if labels.get("service") == "digits-1"}
    assert counted >= {
        "envoy_http_downstream_rq_total",
        "envoy_http_downstream_rq_active",
        "envoy_http_downstream_rq_time_bucket",
        "envoy_cluster_upstream_rq_active",
        "envoy_cluster_upstream_rq_pending_active",
        "envoy_cluster_upstream_rq_pending_overflow",
    }


def test_answers_are_as_fresh_as_the_scrape_and_latencies_some_seconds_old(
    door: RunningDoor,
) -> None:
    began = time.monotonic()
    get(door.services["digits-2"], "/0.06")
    most_milliseconds = (time.monotonic() - began) * 1000
    answers = "envoy_http_downstream_rq_xx"
    assert valued(door, answers, service="digits-2", **{"class": "2"}) == 1
    bucket = "envoy_http_downstream_rq_time_bucket"
    above = next(each for each in LATENCY_BUCKETS_MILLISECONDS if each > most_milliseconds)
    line = f'{bucket}{{service="digits-2",le="{above}"}} 1'
    door.until(lambda told: line in told.text, "/metrics")
    assert valued(door, bucket, service="digits-2", le="50") == 0


def valued(door: RunningDoor, series: str, **labels: str) -> float:
    (found,) = [value for name, of, value in scraped(door) if (name, of) == (series, labels)]
    return found


def test_a_thousand_services_are_scraped_for_half_a_second_of_cpu(
    doors: Doors, upstream: str
) -> None:
    door = doors.start(1000, {upstream: "HEALTHY"})
    door.until_ready()
    itself = str(door.process.pid)
    (envoy,) = Path(f"/proc/{itself}/task/{itself}/children").read_text().split()
    before, taken = resident_bytes(itself), []
    for _ in range(3):
        began = cpu_seconds(int(itself), int(envoy))
        answer = door.ask("/metrics")
        taken.append(cpu_seconds(int(itself), int(envoy)) - began)
    assert answer.status == 200
    assert min(taken) < 0.5
    series = Counter(labels.get("service") for _, labels, _ in series_of(answer.text))
    assert len(series) == 1001, "those of the door itself have no service"
    assert max(series.values()) <= MOST_SERIES
    # PID 1 holds the configuration of this test here, and else takes some 20 MB.
    memory, grown = resident_bytes(envoy), resident_bytes(itself) - before
    print(f"scrape {min(taken):.3f} s, {len(answer.text)} bytes, Envoy {memory}, PID 1 +{grown}")
    assert memory < 220 * 10**6
    assert grown < 10 * 10**6


def resident_bytes(pid: str) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(re.findall(r"VmRSS:\s+(\d+) kB", status)[0]) * 1024
