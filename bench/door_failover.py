"""What doors and clients notice of a leader that is killed, and of one that is restarted: nothing.

COUNT services in one namespace, most of them on fake nodes: their pods are there for the doors to
know. A few are real, and asked all the time. From before each event until after it the pods of
others change one after another; a change is late by the time that the doors need to know it, once
it was made and a leader held the Lease. `make bench-door-failover COUNT=1000`
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import re
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from bench.burst import FAKE_NODES, create_all, seconds_to_ready
from bench.clients import Client as ApiClient
from bench.clients import client as api_client
from bench.door_balance import address_of
from bench.door_scale import MOST_MB, MOST_SCRAPE_SECONDS
from bench.inference import over_http
from bench.installed import FIXTURE, Bench, installed, last_line, missed
from bench.load import Client, Told
from bench.objects import SHARE, inference_service, settle
from e2e.discovery import told_to_a_door_of
from e2e.doors import Door, doors_of
from e2e.installation import RELEASE, SYSTEM
from e2e.jobs import service
from e2e.kubectl import Kubectl, KubectlError
from e2e.operators import OPERATORS, kill_leader, leader_uid
from e2e.test_serving import serves

SERVED = 2
RATE = 15.0
CONNECTIONS = 5
MOST_LATE_SECONDS = 1.0
_CHANGE_EACH_SECONDS = 0.25
_LOOK_SECONDS = 0.1
_AFTERWARDS_SECONDS = 5.0
_LIMIT_SECONDS = 600.0
_COUNTERS = r"^(cluster_manager\.cluster_|listener_manager\.listener_)(added|removed|modified)$"
_LEADING = re.compile(r"^timestamp=(\S+) .*event=Leading ", re.MULTILINE)
_HEALTHY = r"^cluster\.far-\d+/http\.membership_healthy$"


@dataclass(slots=True)
class Change:
    """A pod that is ready no more; `seen` is when the last door knew it."""

    service: str
    made: float
    seen: float | None = None

    def late_seconds(self, leading_since: float) -> float:
        if self.seen is None:
            raise RuntimeError(f"No door has heard of the change of {self.service}.")
        return max(0.0, self.seen - max(self.made, leading_since))


@dataclass(slots=True)
class Scene:
    bench: Bench
    api: ApiClient
    doors: Sequence[Door]
    pods: Iterator[Mapping[str, Any]]
    changes: list[Change] = field(default_factory=list)

    async def change_pods(self) -> None:
        """Have one pod after another not ready any more, until cancelled."""
        while True:
            pod = next(self.pods)
            name = pod["metadata"]["labels"]["lepton.ai/name"]
            await self.api.patch_status("Pod", pod["metadata"]["name"], _unready(pod))
            self.changes.append(Change(name, time.time()))
            await asyncio.sleep(_CHANGE_EACH_SECONDS)

    async def look(self) -> None:
        """Note when all doors know of a change, until cancelled."""
        while True:
            found = [await asyncio.to_thread(door.gauges, _HEALTHY) for door in self.doors]
            now = time.time()
            for change in self.changes:
                key = f"cluster.{change.service}/http.membership_healthy"
                if change.seen is None and all(healthy.get(key) == 0 for healthy in found):
                    change.seen = now
            await asyncio.sleep(_LOOK_SECONDS)

    def counted(self) -> dict[str, int]:
        """Return what all doors together have taken in and dropped."""
        found = [door.counters(_COUNTERS) for door in self.doors]
        return {name: sum(each[name] for each in found) for name in found[0]}


def _unready(pod: Mapping[str, Any]) -> dict[str, Any]:
    conditions = [
        {**each, "status": "False"} if each["type"] in ("Ready", "ContainersReady") else each
        for each in pod["status"]["conditions"]
    ]
    return {"conditions": conditions}


def restart_leader(kubectl: Kubectl) -> None:
    """Delete the pod of the active operator, as a rollout or a drain does."""
    system, uid = kubectl.within(SYSTEM), leader_uid(kubectl)
    pods = system.list("pods", OPERATORS)
    (name,) = [pod["metadata"]["name"] for pod in pods if pod["metadata"]["uid"] == uid]
    system.delete("pod", name, "--wait=false")


EVENTS: Mapping[str, Callable[[Kubectl], None]] = {
    "killed": kill_leader,
    "restarted": restart_leader,
    "restarted_again": restart_leader,
}


async def during(scene: Scene, event: Callable[[Kubectl], None]) -> dict[str, Any]:
    """Let it happen; return what the doors took in, and how late the latest change was."""
    kubectl = scene.bench.kubectl
    await asyncio.to_thread(_operators_ready, kubectl)
    before = scene.counted()
    scene.changes.clear()
    async with _running(scene.look()):
        async with _running(scene.change_pods()):
            began = time.time()
            await asyncio.to_thread(event, kubectl)
            since = await asyncio.to_thread(_led_since, kubectl, began)
            await asyncio.sleep(_AFTERWARDS_SECONDS)
        await asyncio.sleep(_AFTERWARDS_SECONDS)
    after = scene.counted()
    return {
        "next_leads_s": round(since - began, 2),
        "changes": len(scene.changes),
        "late_s": round(max(each.late_seconds(since) for each in scene.changes), 2),
        **{name.partition(".")[2]: after[name] - before[name] for name in before},
    }


@asynccontextmanager
async def _running(work: Any) -> AsyncIterator[None]:
    """Work beside the block, and end with it; what fails there ends the block."""
    async with asyncio.TaskGroup() as group:
        task = group.create_task(work)
        yield
        task.cancel()


def _operators_ready(kubectl: Kubectl) -> None:
    """Wait for a standby, as a rollout does."""
    status = ("rollout", "status", f"deployment/{RELEASE}", "--timeout=5m")
    kubectl.within(SYSTEM).run(*status, timeout_seconds=_LIMIT_SECONDS)


def _led_since(kubectl: Kubectl, began: float) -> float:
    """Wait until a process has taken the Lease since; return when, in seconds of the epoch.

    Its log says so. The Lease does not, if it is the same pod again with another container.
    """
    end = time.monotonic() + _LIMIT_SECONDS
    system = kubectl.within(SYSTEM)
    while time.monotonic() < end:
        for pod in system.list("pods", OPERATORS):
            with suppress(KubectlError):
                told = _LEADING.findall(system.logs(pod["metadata"]["name"]))
                when = [datetime.fromisoformat(each).timestamp() for each in told]
                if when and when[-1] > began:
                    return when[-1]
        time.sleep(_LOOK_SECONDS)
    raise RuntimeError("No operator has taken the Lease.")


async def make_services(bench: Bench, count: int) -> None:
    """Make all services, the real ones first, and wait until every one is ready."""
    real = [_real(number) for number in range(SERVED)]
    bench.kubectl.apply(*(service(name, FIXTURE, resources=SHARE) for name in real))
    for name in real:
        await asyncio.to_thread(serves, bench.kubectl, name, 1)
    began = time.monotonic()
    async with api_client(bench.kubectl) as made:
        await create_all(
            made, [inference_service(f"far-{number}") for number in range(count - SERVED)]
        )
    seconds = await seconds_to_ready(bench.kubectl, "InferenceService", count, began)
    print(f"  {count} services are ready after {seconds:.0f} s", flush=True)


def _real(number: int) -> str:
    return f"near-{number}"


async def clients_of(kubectl: Kubectl, until: AsyncExitStack) -> list[Client]:
    """Return two clients a real service: one keeps its connections, one has one a request."""
    found = []
    for number, connections in itertools.product(range(SERVED), (CONNECTIONS, 0)):
        address = address_of(kubectl, _real(number))
        ask = await until.enter_async_context(over_http(address, FIXTURE, connections))
        found.append(Client(ask, RATE, seed=number))
    return found


async def measure(bench: Bench, count: int) -> dict[str, Any]:
    await make_services(bench, count)
    pods = bench.kubectl.list("pods", "lepton.ai/role=serve")
    far = (pod for pod in pods if pod["metadata"]["labels"]["lepton.ai/name"].startswith("far-"))
    async with AsyncExitStack() as until:
        api = await until.enter_async_context(api_client(bench.kubectl))
        clients = await clients_of(bench.kubectl, until)
        scene = Scene(bench, api, doors_of(bench.kubectl), far)
        found = await _events(scene, clients)
    here = bench.kubectl.namespace
    for told, namespace in (("own_certificate", here), ("anothers_certificate", "another")):
        found[told] = sum((await told_to_a_door_of(bench.kubectl, namespace, _real(0))).values())
    return found


async def _events(scene: Scene, clients: Sequence[Client]) -> dict[str, Any]:
    """Let all of it happen while the clients ask."""
    found: dict[str, Any] = {}
    async with asyncio.TaskGroup() as group:
        asking = [group.create_task(client.run(_LIMIT_SECONDS)) for client in clients]
        for name, event in EVENTS.items():
            found[name] = await during(scene, event)
            print(f"  {name}: {found[name]}", flush=True)
        for client in clients:
            client.is_ending = True
    found["clients"] = _together([task.result() for task in asking]).figures()
    found["door"] = at_rest(scene.doors)
    return found


def _together(told: Sequence[Told]) -> Told:
    found = Told()
    for each in told:
        found.add(each)
    print("".join(f"  {failure}\n" for failure in found.failures[:10]), end="")
    return found


def at_rest(doors: Sequence[Door]) -> dict[str, float]:
    """Return what the larger door takes, and how long Prometheus waits for the slower one."""
    return {
        "mb": round(max(door.resident_bytes() for door in doors) / 1e6, 1),
        "scrape_s": round(max(door.scrape_seconds() for door in doors), 2),
    }


def wrong(figures: Mapping[str, Any]) -> Iterator[str]:
    """Yield what is not as it should be."""
    for name in EVENTS:
        each = figures[name]
        for counter in ("cluster_removed", "listener_removed", "listener_modified"):
            if each[counter]:
                yield f"{name}: {counter} is {each[counter]}, and must be 0"
        if each["late_s"] > MOST_LATE_SECONDS:
            yield f"{name}: a change was {each['late_s']} s late, bar {MOST_LATE_SECONDS:.0f} s"
    if figures["anothers_certificate"]:
        yield "Another namespace's certificate gets resources"
    if figures["clients"]["failed"]:
        yield f"{figures['clients']['failed']} requests failed, bar 0"
    if figures["door"]["mb"] > MOST_MB:
        yield f"A door takes {figures['door']['mb']} MB, bar {MOST_MB} MB"
    if figures["door"]["scrape_s"] > MOST_SCRAPE_SECONDS:
        yield f"A scrape takes {figures['door']['scrape_s']} s, bar {MOST_SCRAPE_SECONDS} s"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=1000)
    count = parser.parse_args().count
    with installed(FAKE_NODES) as bench:
        bench.kubectl.apply(bench.accepted_model())
        settle(bench)
        figures = asyncio.run(measure(bench, count))
    print(f"\n{count} services, {SERVED} of them asked {2 * RATE:.0f} times a second each")
    for name, each in figures.items():
        print(f"  {name:<18}{each}")
    missed(wrong(figures))
    last_line({"services": count, **figures})
    return 0


if __name__ == "__main__":
    sys.exit(main())
