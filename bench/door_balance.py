"""How long requests wait behind two doors, and behind a plain Service of the same pods.

Four pods of a real Triton whose model takes 100 ms and no CPU, at 80 % of what they can do. The
same arrivals over the same number of connections: kube-proxy gives each connection a pod at random,
the doors give each request the pod that has fewest. `make bench-door-balance CONNECTIONS=100`
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from bench.inference import over_http
from bench.installed import FIXTURE, Bench, installed, last_line, missed
from bench.load import Client, Told, fill
from bench.objects import SHARE
from e2e.doors import doors_of
from e2e.jobs import service
from e2e.kubectl import Kubectl
from e2e.test_serving import serves
from e2e.waiting import wait_until
from images.build import build

IMAGE = "sleeper"
REPLICAS = 4
DOORS = 2
LOAD = 0.8
ROUNDS = 3
ROUND_SECONDS = 50.0
MOST_OF_KUBE_PROXYS = 0.5
CAPACITY_SECONDS = 10.0
_PLAIN = "plain"


def plain_service(kubectl: Kubectl) -> str:
    """Make a Service that leads to the serving pods themselves; return its address."""
    kubectl.apply(
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": _PLAIN},
            "spec": {
                "selector": {"lepton.ai/role": "serve", "lepton.ai/name": FIXTURE},
                "ports": [{"name": "http", "port": 8000}],
            },
        }
    )
    wait_until(lambda: _endpoints(kubectl), lambda found: found == REPLICAS, "a pod runs")
    return address_of(kubectl, _PLAIN)


def address_of(kubectl: Kubectl, name: str) -> str:
    return str((kubectl.get("service", name) or {})["spec"]["clusterIP"])


def _endpoints(kubectl: Kubectl) -> int:
    slices = kubectl.list("endpointslices", f"kubernetes.io/service-name={_PLAIN}")
    return sum(len(each.get("endpoints") or ()) for each in slices)


async def capacity(address: str) -> float:
    """Return how many requests a second the pods answer: on a busy machine they wait longer."""
    callers = 4 * REPLICAS
    async with over_http(address, FIXTURE, callers) as ask:
        told = await fill(ask, callers, CAPACITY_SECONDS)
    return len(told.milliseconds) / CAPACITY_SECONDS


async def asked(address: str, rate: float, connections: int, seed: int) -> Told:
    async with over_http(address, FIXTURE, connections) as ask:
        return await Client(ask, rate, seed).run(ROUND_SECONDS)


async def measure(rivals: Mapping[str, str], connections: int) -> dict[str, Any]:
    """Ask each rival in turn, some times: kube-proxy's luck is another with new connections."""
    rate = LOAD * await capacity(rivals["door"])
    found = {name: Told() for name in rivals}
    for seed in range(ROUNDS):
        for name, address in rivals.items():
            told = await asked(address, rate, connections, seed)
            print(f"  {name}, round {seed + 1} of {ROUNDS}: {told.figures()}", flush=True)
            found[name].add(told)
    figures: dict[str, Any] = {name: each.figures() for name, each in found.items()}
    ratio = figures["door"]["p99_ms"] / figures["kube_proxy"]["p99_ms"]
    return {"rate_per_second": round(rate, 1), **figures, "p99_ratio": round(ratio, 2)}


def serve(bench: Bench) -> None:
    """Have the pods served by two doors."""
    bench.kubectl.apply(
        bench.accepted_model(),
        service(
            FIXTURE,
            resources=SHARE,
            replicas=REPLICAS,
            batching={"maxBatchSize": 1},
            triton={"instances": 1},
        ),
    )
    serves(bench.kubectl, FIXTURE, version=1)
    wait_until(lambda: doors_of(bench.kubectl), lambda found: len(found) == DOORS, "a pod runs")


def wrong(figures: Mapping[str, Any]) -> Iterator[str]:
    """Yield what is not as it should be."""
    if figures["p99_ratio"] > MOST_OF_KUBE_PROXYS:
        yield f"p99 is {figures['p99_ratio']} of kube-proxy's, bar {MOST_OF_KUBE_PROXYS}"
    for name in ("door", "kube_proxy"):
        if figures[name]["failed"]:
            yield f"{name}: {figures[name]['failed']} requests failed, bar 0"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--connections", type=int, default=100)
    connections = parser.parse_args().connections
    reference = build((IMAGE,))[IMAGE]
    with installed(values={"images": {"triton": reference}}, images=(reference,)) as bench:
        serve(bench)
        rivals = {
            "door": address_of(bench.kubectl, FIXTURE),
            "kube_proxy": plain_service(bench.kubectl),
        }
        figures = asyncio.run(measure(rivals, connections))
    print(f"\n{REPLICAS} pods at {LOAD:.0%} of what they can do, {connections} connections")
    for name, each in figures.items():
        print(f"  {name:<17}{each}")
    missed(wrong(figures))
    last_line({"connections": connections, **figures})
    return 0


if __name__ == "__main__":
    sys.exit(main())
