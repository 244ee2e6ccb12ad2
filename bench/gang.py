"""One job of many pods on fake nodes: until all are there, until all run, and after one is lost."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime

from bench.clients import Client, Manifest, client
from bench.installed import Bench
from bench.objects import training_job
from e2e.jobs import attempts
from e2e.waiting import is_ready

NAME = "gang"
_KIND = "TrainingJob"
_LIMIT_SECONDS = 900


def gang(bench: Bench, pods: int) -> dict[str, object]:
    """Return the figures of one job of so many pods."""
    before, since = bench.usage(), datetime.now(UTC)
    created, ready = asyncio.run(_start(bench, pods))
    started = datetime.now(UTC)
    recovered = asyncio.run(_lose_one(bench))
    after, until = bench.usage(), datetime.now(UTC)
    return {
        "pods_created_s": round(created, 1),
        "ready_s": round(ready, 1),
        "recovered_s": round(recovered, 1),
        "writes_to_start": len(bench.writes(since, started)),
        "writes_to_recover": len(bench.writes(started, until)),
        "operator_rss_mb": after.rss_mb,
        "operator_cpu_s": round(after.cpu_s - before.cpu_s, 1),
    }


async def _start(bench: Bench, pods: int) -> tuple[float, float]:
    """Create the job; return the seconds to its last pod, and until all of them run."""
    async with client(bench.kubectl) as made, asyncio.timeout(_LIMIT_SECONDS):
        began = time.monotonic()
        await made.create(training_job(NAME, numNodes=pods))
        await made.until(lambda: len(made.pods) >= pods)
        created = made.last_added - began
        await _until(made, is_ready)
        return created, time.monotonic() - began


async def _lose_one(bench: Bench) -> float:
    """Delete a pod; return the seconds until all ranks run again under another attempt."""
    async with client(bench.kubectl) as made, asyncio.timeout(_LIMIT_SECONDS):
        began = time.monotonic()
        await made.delete("Pod", f"{NAME}-train-1-1")
        await _until(made, lambda job: len(attempts(job)) > 1 and is_ready(job))
        return time.monotonic() - began


async def _until(made: Client, holds: Callable[[Manifest], bool]) -> None:
    async for job in made.objects(_KIND):
        if holds(job):
            return
