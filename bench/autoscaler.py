"""What the operator's decisions cost: COUNT services that ask for a latency, looked at each 2 s.

A real Prometheus scrapes two doors and two Tritons of each service, whose counters grow as those of
8 requests a second; the autoscaler is the operator's own, over a cache with the services and their
pods. Its CPU is that of its thread. `make bench-autoscaler COUNT=1000`
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from kubernetes.aio.client.configuration import Configuration

from bench.installed import last_line, missed
from lepton_operator.cache import Cache
from lepton_operator.cluster import Cluster
from lepton_operator.metrics import Metrics
from lepton_operator.run import spare_the_collector
from lepton_operator.scaling.autoscaler import ROUND_SECONDS, Autoscaler
from lepton_operator.scaling.sources import sources
from lepton_operator.settings import Prometheus as Source
from lepton_operator.settings import Settings
from tests.builders import defaults
from tests.prometheus import exporting, job, running, told
from tests.unit.runtime import objects

DOORS, PODS = ("door-a", "door-b"), 2
RATE, SERVICE_SECONDS = 4.0, 0.1  # at each door
LOOKS, FIRST_LOOKS = 60, 10  # the first ones learn
MOST_CORES = 0.1
_NAMESPACE = "team"
_STARTED = "2026-11-22T04:00:20Z"


def names(count: int) -> list[str]:
    return [f"service-{index:04d}" for index in range(count)]


def door_page(count: int, since: float) -> str:
    """Return what a door tells of all services now."""
    came = int((time.time() - since) * RATE)
    counts = {"arrivals": came, "active": 1, "answers": came, "milliseconds": came * 100}
    return "".join(told(name, **counts) for name in names(count))


def triton_page(count: int, pod: int, since: float) -> str:
    """Return what one Triton of each service tells now."""
    done = int((time.time() - since) * RATE)
    told_of_it = {
        "nv_inference_request_success": done,
        "nv_inference_exec_count": done,
        "nv_inference_compute_input_duration_us": 0,
        "nv_inference_compute_infer_duration_us": int(done * SERVICE_SECONDS * 1e6),
        "nv_inference_compute_output_duration_us": 0,
    }
    return "".join(
        f'{metric}{{service="{name}",pod="{pod_name(name, pod)}",model="m"}} {value}\n'
        for name in names(count)
        for metric, value in told_of_it.items()
    )


def pod_name(service: str, index: int) -> str:
    return f"digits-serve-{service}-{index}"


@contextmanager
def prometheus(count: int) -> Iterator[str]:
    """Yield the address of one that scrapes them all."""
    since = time.time()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="lepton-bench-")))
        jobs: list[dict[str, Any]] = []
        for door in DOORS:
            page = stack.enter_context(exporting(partial(door_page, count, since)))
            jobs.append(job(door, page.address, namespace=_NAMESPACE, pod=door))
        for pod in range(PODS):
            page = stack.enter_context(exporting(partial(triton_page, count, pod, since)))
            triton = job(f"triton-{pod}", page.address, namespace=_NAMESPACE)
            jobs.append(triton | {"honor_labels": True})
        yield stack.enter_context(running(folder, jobs, "2s")).url


def fleet(count: int) -> Cache:
    """Return a cache that knows the doors, and all services with their pods."""
    cache = Cache("nvidia.com/gpu")
    for door in DOORS:
        cache.put("Pod", objects.door_pod(door, f"uid-{door}"))
    for name in names(count):
        service = objects.service(name, f"uid-{name}")
        target = {"latencyMilliseconds": 500}
        service["spec"] |= {
            "replicas": PODS,
            "autoscaling": {"minReplicas": PODS, "maxReplicas": 20, "target": target},
        }
        cache.put("InferenceService", service)
        for index in range(PODS):
            pod = objects.serving_pod(f"{name}-{index}")
            (owner,) = pod["metadata"]["ownerReferences"]
            owner |= {"name": name, "uid": f"uid-{name}"}
            ready = {"type": "Ready", "status": "True", "lastTransitionTime": _STARTED}
            pod["status"]["conditions"] = [ready]
            cache.put("Pod", pod)
    return cache


async def measure(url: str, count: int) -> dict[str, float]:
    """Return the CPU seconds of a look, in the median and at most."""
    settings = Settings(defaults=defaults(), prometheus=Source(url=url))
    metrics, cache = Metrics(), fleet(count)
    cluster = Cluster(Configuration(host="http://127.0.0.1:1"), metrics)  # nothing is to be scaled
    found = Autoscaler(cluster, cache, settings, metrics)
    spare_the_collector()
    taken = []
    async with sources(settings) as asking:
        for look in range(LOOKS):
            began, cpu = time.monotonic(), time.thread_time()
            await found.look(asking, lambda _: None)
            taken.append(time.thread_time() - cpu)
            print(f"  look {look + 1} of {LOOKS}: {taken[-1] * 1e3:.0f} ms of CPU", flush=True)
            await asyncio.sleep(max(0.0, ROUND_SECONDS - (time.monotonic() - began)))
    await cluster.close()
    accounts = [account for _, account in found.accounts()]
    decided = [each for each in accounts if each.last is not None and not each.last.held]
    settled = taken[FIRST_LOOKS:]
    median = statistics.median(settled)
    return {
        "services": count,
        "decided": len(decided),
        "median_ms": round(median * 1e3, 1),
        "worst_ms": round(max(settled) * 1e3, 1),
        "cores": round(median / ROUND_SECONDS, 3),
    }


def wrong(figures: dict[str, float]) -> Iterator[str]:
    """Yield what is not as it should be."""
    if figures["decided"] < figures["services"]:
        yield f"only {figures['decided']} services were decided about"
    if figures["cores"] > MOST_CORES:
        yield f"decisions take {figures['cores']} cores, bar {MOST_CORES}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=1000)
    count = parser.parse_args().count
    with prometheus(count) as url:
        figures = asyncio.run(measure(url, count))
    print(f"\n{count} services, a look each {ROUND_SECONDS:g} s (bar {MOST_CORES} cores)")
    for name, figure in figures.items():
        print(f"  {name:<10}{figure}")
    missed(wrong(figures))
    last_line(figures)
    return 0


if __name__ == "__main__":
    sys.exit(main())
