"""A thousand objects at once, on fake nodes: when the last pod is there, when the last is Ready.

Of services also when every door has all of them, and what a change of one takes beside the others.
The floor, in the same run: a client that creates a thousand bare pods itself.
`make bench-burst KIND=trainingjob|inferenceservice COUNT=1000`; one job of many pods instead:
`make bench-burst PODS=1000`
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

from bench.clients import Client, client
from bench.doors import doors, look
from bench.gang import gang
from bench.installed import Bench, installed, last_line
from bench.objects import bare_pod, inference_service, settle, training_job
from e2e.kubectl import Kubectl
from e2e.waiting import is_ready

FAKE_NODES = 50
WORKERS = 20
CHANGES = 5
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
        owners = {each["metadata"]["name"] for each in objects}
        await made.until(lambda: owners <= made.added.keys())
        return max(made.added[each] for each in owners) - began


async def floor_seconds(kubectl: Kubectl, count: int) -> float:
    """Return the time that a client needs which creates as many pods itself; remove them."""
    seconds = await seconds_to_last_pod(kubectl, [bare_pod(f"bare-{n}") for n in range(count)])
    async with client(kubectl) as made, asyncio.timeout(_LIMIT_SECONDS):
        await made.until(lambda: len(made.pods) >= count)
        await made.delete_pods()
    return seconds


async def seconds_to_ready(kubectl: Kubectl, kind: str, count: int, began: float) -> float:
    """Return the time from `began` until all objects of the kind have been Ready."""
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


async def seconds_to_doors(kubectl: Kubectl, count: int, began: float) -> float:
    """Return the time from `began` until every door has all services."""
    names = await asyncio.to_thread(doors, kubectl)
    looking = await asyncio.to_thread(look, kubectl, names, services=count, pods=1)
    await asyncio.to_thread(looking.end)
    return time.monotonic() - began


async def change_seconds(kubectl: Kubectl, count: int) -> dict[str, object]:
    """Return the median times from a change of one service to its new pod, and to all doors."""
    names = await asyncio.to_thread(doors, kubectl)
    async with client(kubectl) as made, asyncio.timeout(_LIMIT_SECONDS):
        await made.until(lambda: len(made.pods) >= count + len(names))
        took = [await _change(made, kubectl, names, f"burst-{n}") for n in range(CHANGES)]
    to_pod, to_doors = zip(*took, strict=True)
    return {
        "change_to_pod_s": round(statistics.median(to_pod), 3),
        "change_to_route_s": round(statistics.median(to_doors), 3),
    }


async def _change(
    made: Client, kubectl: Kubectl, names: Sequence[str], service: str
) -> tuple[float, float]:
    """Change what a service says about its pods: a new one comes beside the old one."""
    looking = await asyncio.to_thread(look, kubectl, names, pods=2, service=service)
    before = frozenset(made.pods)
    asked, began = time.time(), time.monotonic()
    await made.patch_spec("InferenceService", service, {"podLabels": {"changed": "once"}})
    await made.until(lambda: not made.pods <= before)
    return made.last_added - began, await asyncio.to_thread(looking.end) - asked


async def settled_seconds(
    kubectl: Kubectl, kind: str, count: int, began: float
) -> dict[str, float]:
    """Return when all are Ready; of services also when all doors have them."""
    if kind != "InferenceService":
        return {"ready_s": await seconds_to_ready(kubectl, kind, count, began)}
    ready, at_doors = await asyncio.gather(
        seconds_to_ready(kubectl, kind, count, began), seconds_to_doors(kubectl, count, began)
    )
    return {"ready_s": ready, "ready_at_door_s": at_doors}


def burst(bench: Bench, kind: str, count: int) -> dict[str, object]:
    """Run the floor, then the burst, then a change of one; return the figures."""
    floor = asyncio.run(floor_seconds(bench.kubectl, count))
    before, since = bench.usage(), datetime.now(UTC)
    objects = [KINDS[kind](f"burst-{n}") for n in range(count)]
    began = time.monotonic()
    created = asyncio.run(seconds_to_last_pod(bench.kubectl, objects))
    settled = asyncio.run(settled_seconds(bench.kubectl, objects[0]["kind"], count, began))
    writes = len(bench.writes(since, datetime.now(UTC)))
    after = bench.usage()
    changed = {}
    if kind == "inferenceservice":
        changed = asyncio.run(change_seconds(bench.kubectl, count))
    return {
        "pods_created_s": round(created, 1),
        **{name: round(seconds, 1) for name, seconds in settled.items()},
        **changed,
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
