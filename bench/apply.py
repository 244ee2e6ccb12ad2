"""From `kubectl apply` to the first pod, on an idle cluster; what the operator writes at rest.

Also from a pod's failure to the condition that tells of it.

Latency runs from the start of the client's create call to the pod's ADDED bytes on the same
client's watch. The floor, in the same run, is a pod that the client creates itself.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

from bench.clients import Client, client
from bench.installed import Bench, installed, last_line
from bench.objects import bare_pod, inference_service, settle, training_job
from e2e.waiting import is_true

OBJECTS = 30
FAILURES = 10
VERDICT = "a failure told"
IDLE_SECONDS = 60
_SEEN_SECONDS = 10
_KWOK_SECONDS = 1.0  # by then the pod runs
_FAILED = {
    "phase": "Failed",
    "containerStatuses": [
        {
            "name": "train",
            "image": "none",
            "imageID": "",
            "ready": False,
            "restartCount": 0,
            "state": {"terminated": {"exitCode": 1, "reason": "Error"}},
        }
    ],
}


async def latency_ms(made: Client, manifest: dict[str, Any]) -> float:
    """Create an object; return how long its first pod took."""
    name = manifest["metadata"]["name"]
    began = time.monotonic()
    async with asyncio.timeout(_SEEN_SECONDS):
        await made.create(manifest)
        await made.until(lambda: name in made.added)
    return (made.added[name] - began) * 1000


async def latencies_ms(made: Client, objects: Sequence[dict[str, Any]]) -> list[float]:
    """Create the objects one after another; return how long each one's first pod took."""
    found = []
    for manifest in objects:
        found.append(await latency_ms(made, manifest))
        # The next object meets an idle operator: this one's status is written by then.
        await asyncio.sleep(0.2)
    return found


async def verdict_ms(made: Client, name: str) -> float:
    """Let the only pod of a job fail; return how long the job's condition took to say so."""
    await latency_ms(made, training_job(name, failurePolicy={"maxRestarts": 0}))
    await asyncio.sleep(_KWOK_SECONDS)
    began = time.monotonic()
    await made.patch_status("Pod", f"{name}-train-1-0", _FAILED)
    async with asyncio.timeout(_SEEN_SECONDS):
        async for found in made.objects("TrainingJob"):
            if found["metadata"]["name"] == name and is_true(found, "Failed"):
                break
    return (time.monotonic() - began) * 1000


async def measure(bench: Bench) -> dict[str, list[float]]:
    builders: dict[str, Callable[[str], dict[str, Any]]] = {
        "bare_pod": bare_pod,
        "trainingjob": training_job,
        "inferenceservice": inference_service,
    }
    found = {}
    async with client(bench.kubectl) as made:
        for kind, build in builders.items():
            objects = [build(f"{kind.replace('_', '-')}-{n}") for n in range(OBJECTS)]
            found[kind] = await latencies_ms(made, objects)
        found[VERDICT] = [await verdict_ms(made, f"failing-{n}") for n in range(FAILURES)]
    return found


def idle_writes(bench: Bench) -> list[str]:
    """Return what the operator wrote in a minute in which nothing happened."""
    settle(bench)
    since = datetime.now(UTC)
    time.sleep(IDLE_SECONDS)
    return bench.writes(since, datetime.now(UTC))


def main() -> int:
    with installed(fake_nodes=10) as bench:
        bench.kubectl.apply(bench.accepted_model())
        settle(bench)
        found = asyncio.run(measure(bench))
        writes = idle_writes(bench)
        usage = bench.usage()
    print(f"\n{'':<18}{'p50 ms':>8}{'p95 ms':>8}   (one after another)")
    figures: dict[str, object] = {}
    for kind, values in found.items():
        p50, p95 = statistics.median(values), statistics.quantiles(values, n=20)[18]
        print(f"{kind:<18}{p50:>8.1f}{p95:>8.1f}")
        if kind not in {"bare_pod", VERDICT}:
            figures |= {f"{kind}_p50_ms": round(p50, 1), f"{kind}_p95_ms": round(p95, 1)}
    print(f"writes in {IDLE_SECONDS} idle seconds: {len(writes)} {sorted(set(writes))}")
    last_line(figures | {"idle_writes_60s": len(writes), "operator_rss_mb": usage.rss_mb})
    return 0


if __name__ == "__main__":
    sys.exit(main())
