"""What the door adds, in time and CPU, beside Triton reached directly.

One pod of a real Triton. Latency: both ways are asked at the same time, at times of their own. CPU:
one way after the other, as fast as it goes; what the processes used is read from /proc, so that
other load on the machine costs latency only. `make bench-door-cost`
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from functools import partial
from typing import Any

from bench.door_balance import address_of
from bench.inference import Ask, over_grpc, over_http
from bench.installed import FIXTURE, Bench, installed, last_line, missed
from bench.load import Client, fill
from bench.objects import SHARE
from e2e.doors import cpu_seconds, doors_of
from e2e.jobs import service
from e2e.processes import processes_of
from e2e.test_serving import serves

RATE = 50.0
SECONDS = 60.0
CONNECTIONS = 20
FULL_SECONDS = 10.0

Way = Callable[[str], AbstractAsyncContextManager[Ask]]
WAYS: Mapping[str, Way] = {
    "http": partial(over_http, model=FIXTURE, connections=CONNECTIONS),
    "grpc": partial(over_grpc, model=FIXTURE),
}


@dataclass(frozen=True, slots=True)
class Rig:
    """Two ways to one pod, and the processes that work for them."""

    direct: str
    door: str
    triton: Sequence[int]
    doors: Sequence[int]


def rig(bench: Bench) -> Rig:
    (pod,) = bench.kubectl.list("pods", f"lepton.ai/role=serve,lepton.ai/name={FIXTURE}")
    return Rig(
        direct=pod["status"]["podIP"],
        door=address_of(bench.kubectl, FIXTURE),
        triton=processes_of(pod["metadata"]["uid"], running=b"triton"),
        doors=[pid for door in doors_of(bench.kubectl) for pid in (door.envoy, door.pid_one)],
    )


async def latencies(way: Way, rig: Rig) -> dict[str, Any]:
    """Ask both at the same time, so that what disturbs one disturbs the other."""

    async def asked(address: str, seed: int) -> dict[str, float]:
        async with way(address) as ask:
            return (await Client(ask, RATE, seed).run(SECONDS)).figures()

    direct, door = await asyncio.gather(asked(rig.direct, 0), asked(rig.door, 1))
    added = {name: round(door[name] - direct[name], 2) for name in ("p50_ms", "p99_ms")}
    return {"direct": direct, "door": door, **{f"added_{name}": added[name] for name in added}}


async def per_core(way: Way, rig: Rig) -> dict[str, int]:
    """Return how many requests a second of a CPU's time is good for: at Triton, at the doors."""
    alone, triton, _ = await _filled(way, rig, rig.direct)
    through, behind, doors = await _filled(way, rig, rig.door)
    return {
        "triton_per_core": round(alone / triton),
        "triton_and_door_per_core": round(through / (behind + doors)),
        "door_per_core": round(through / doors),
        "direct_per_second": round(alone / FULL_SECONDS),
        "through_the_door_per_second": round(through / FULL_SECONDS),
    }


async def _filled(way: Way, rig: Rig, address: str) -> tuple[int, float, float]:
    """Return the answers to as many requests as there can be, and the CPU time they took."""
    async with way(address) as ask:
        triton, doors = cpu_seconds(*rig.triton), cpu_seconds(*rig.doors)
        told = await fill(ask, CONNECTIONS, FULL_SECONDS)
    if told.failures:
        raise RuntimeError(told.failures[0])
    return (
        len(told.milliseconds),
        cpu_seconds(*rig.triton) - triton,
        cpu_seconds(*rig.doors) - doors,
    )


async def measure(rig: Rig) -> dict[str, Any]:
    found = {}
    for name, way in WAYS.items():
        found[name] = {**await latencies(way, rig), **await per_core(way, rig)}
        print(f"  {name}: {found[name]}", flush=True)
    return found


def wrong(figures: Mapping[str, Any]) -> Iterator[str]:
    """Yield what is not as it should be."""
    for protocol, each in figures.items():
        for path in ("direct", "door"):
            if each[path]["failed"]:
                yield f"{protocol}, {path}: {each[path]['failed']} requests failed, bar 0"


def main() -> int:
    with installed() as bench:
        bench.kubectl.apply(bench.accepted_model(), service(FIXTURE, resources=SHARE))
        serves(bench.kubectl, FIXTURE, version=1)
        figures = asyncio.run(measure(rig(bench)))
    print(f"\n{'':<8}{'direct p50':>12}{'p99':>8}{'added p50':>12}{'p99 ms':>8}   a core's second:")
    for name, each in figures.items():
        direct = each["direct"]
        print(
            f"{name:<8}{direct['p50_ms']:>12}{direct['p99_ms']:>8}"
            f"{each['added_p50_ms']:>12}{each['added_p99_ms']:>8}"
            f"   {each['triton_per_core']} by Triton, {each['door_per_core']} by the door"
        )
    missed(wrong(figures))
    last_line(figures)
    return 0


if __name__ == "__main__":
    sys.exit(main())
