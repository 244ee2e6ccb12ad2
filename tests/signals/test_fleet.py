"""A look at a whole fleet: a real Prometheus that knows 1,000 services, and one query."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest

from lepton_operator.signals.counts import Service
from tests.prometheus import Prometheus, exporting, job, running, told

SERVICES = 1000
REPLICAS = ("a", "b")
TRITON = """
nv_inference_request_success{{service="{service}",pod="{pod}",model="m"}} 120
nv_cache_num_misses_per_model{{service="{service}",pod="{pod}",model="m"}} 0
nv_inference_exec_count{{service="{service}",pod="{pod}",model="m"}} 60
nv_inference_compute_input_duration_us{{service="{service}",pod="{pod}",model="m"}} 1000
nv_inference_compute_infer_duration_us{{service="{service}",pod="{pod}",model="m"}} 12000000
nv_inference_compute_output_duration_us{{service="{service}",pod="{pod}",model="m"}} 1000
"""


@pytest.fixture
def scraping(tmp_path: Path) -> Iterator[Prometheus]:
    names = [f"service-{index:04d}" for index in range(SERVICES)]
    door = "".join(
        told(name, arrivals=150, active=3, answers=147, milliseconds=30_000) for name in names
    )
    with ExitStack() as stack:
        jobs = []
        for replica in REPLICAS:
            tritons = "".join(
                TRITON.format(service=name, pod=f"{name}-a1b2c3-{replica}") for name in names
            )
            page = stack.enter_context(exporting(partial(str, tritons)))
            jobs.append(
                {**job(f"triton-{replica}", page.address, namespace="team"), "honor_labels": True}
            )
            page = stack.enter_context(exporting(partial(str, door)))
            jobs.append(
                job(f"door-{replica}", page.address, namespace="team", pod=f"door-{replica}")
            )
        yield stack.enter_context(running(tmp_path, jobs, "2s"))


async def test_one_query_tells_of_all_services(scraping: Prometheus) -> None:
    last = Service("team", f"service-{SERVICES - 1:04d}")
    await scraping.until(
        last, lambda found: len(found.doors) == len(found.tritons) == len(REPLICAS)
    )
    found = await scraping.read(["team"])
    assert len(found) == SERVICES
    assert {len(each.doors) for each in found.values()} == {len(REPLICAS)}
    assert {len(each.tritons) for each in found.values()} == {len(REPLICAS)}
