"""A thousand objects at once, on fake nodes: when the last pod is there, when the last is Ready.

The floor, in the same run: a client that creates a thousand bare pods itself.
`make bench-burst KIND=trainingjob|inferenceservice COUNT=1000`; one job of many pods instead:
`make bench-burst PODS=1000`
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

from bench.clients import Client, client
from bench.gang import gang
from bench.installed import Bench, installed, last_line
from bench.objects import bare_pod, inference_service, settle, training_job
from e2e.kubectl import Kubectl
from e2e.waiting import is_ready

FAKE_NODES = 50
WORKERS = 20
_SHOWN_EACH = 100
_LIMIT_SECONDS = 600
KINDS: dict[str, Callable[[str], dict[str, Any]]] = {
    "trainingjob": training_job,
    "inferenceservice": inference_service,
}


async def create_all(made: Client, objects: Sequence[dict[str, Any]]) -> None:
    """Create the objects from a bounded number of callers."""
    waiting = iter(objects)

    async def caller() -> None:
        for manifest in waiting:
            await made.create(manifest)

    await asyncio.gather(*(caller() for _ in range(WORKERS)))


async def seconds_to_last_pod(kubectl: Kubectl, objects: Sequence[dict[str, Any]]) -> float:
    """Return the time from the first call to the last pod's ADDED event."""
    async with client(kubectl) as made, asyncio.timeout(_LIMIT_SECONDS):
        began = time.monotonic()
        await create_all(made, objects)
        await made.until(lambda: len(made.pods) >= len(objects))
        return made.last_added - began


async def floor_seconds(kubectl: Kubectl, count: int) -> float:
    """Return the time that a client needs which creates as many pods itself; remove them."""
    seconds = await seconds_to_last_pod(kubectl, [bare_pod(f"bare-{n}") for n in range(count)])
    async with client(kubectl) as made, asyncio.timeout(_LIMIT_SECONDS):
        await made.until(lambda: len(made.pods) >= count)
        await made.delete_pods()
    return seconds


async def seconds_to_ready(kubectl: Kubectl, kind: str, count: int, began: float) -> float:
    """Return the time from `began` until all objects of the kind are Ready."""
    ready: set[str] = set()
    async with client(kubectl) as made, asyncio.timeout(_LIMIT_SECONDS):
        async for found in made.objects(kind):
            if is_ready(found) and found["metadata"]["name"] not in ready:
                ready.add(found["metadata"]["name"])
                _show(len(ready), count, began)
            if len(ready) >= count:
                break
    return time.monotonic() - began


def _show(ready: int, count: int, began: float) -> None:
    if ready % _SHOWN_EACH == 0:
        print(f"  {ready} of {count} ready after {time.monotonic() - began:.0f} s", flush=True)


def burst(bench: Bench, kind: str, count: int) -> dict[str, object]:
    """Run the floor, then the burst; return the figures."""
    floor = asyncio.run(floor_seconds(bench.kubectl, count))
    before, since = bench.usage(), datetime.now(UTC)
    objects = [KINDS[kind](f"burst-{n}") for n in range(count)]
    began = time.monotonic()
    created = asyncio.run(seconds_to_last_pod(bench.kubectl, objects))
    ready = asyncio.run(seconds_to_ready(bench.kubectl, objects[0]["kind"], count, began))
    writes = len(bench.writes(since, datetime.now(UTC)))
    after = bench.usage()
    return {
        "pods_created_s": round(created, 1),
        "ready_s": round(ready, 1),
        "floor_pods_created_s": round(floor, 1),
        "writes_per_object": round(writes / count, 2),
        "operator_rss_mb": after.rss_mb,
        "operator_cpu_s": round(after.cpu_s - before.cpu_s, 1),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kind", choices=KINDS, default="trainingjob")
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--pods", type=int, help="one TrainingJob of so many pods, instead")
    options = parser.parse_args()
    with installed(FAKE_NODES) as bench:
        if options.pods:
            what, figures = f"One TrainingJob of {options.pods} pods", gang(bench, options.pods)
        else:
            bench.kubectl.apply(bench.accepted_model())
            settle(bench)
            what = f"{options.count} objects of kind {options.kind}, one pod each"
            figures = burst(bench, options.kind, options.count)
    print(f"\n{what}, {FAKE_NODES} fake nodes")
    for name, value in figures.items():
        print(f"  {name:<22}{value:>8}")
    last_line(figures)
    return 0


if __name__ == "__main__":
    sys.exit(main())
