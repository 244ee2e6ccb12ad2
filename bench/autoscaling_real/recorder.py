"""Watches a service, its pods, its doors and the machine while there is load."""

from __future__ import annotations

import asyncio
import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from bench.autoscaling_real.recording import (
    AtDoors,
    Bounds,
    Phase,
    Pod,
    Recording,
    Replicas,
    Request,
    Usage,
)
from bench.clients import Client
from e2e.doors import Door, cpu_seconds
from lepton_operator import names
from lepton_operator.build.serving import SERVE

_DOOR_SECONDS = 0.25
_USAGE_SECONDS = 1.0
_SCALING = ("ScalingActive", "ScalingLimited")


@dataclass(slots=True)
class Recorder:
    """What was seen so far; times are seconds since 1970."""

    service: str
    doors: Sequence[Door]
    k6: subprocess.Popen[bytes]
    replicas: list[Replicas] = field(default_factory=list)
    at_doors: list[AtDoors] = field(default_factory=list)
    pods: dict[str, Pod] = field(default_factory=dict)  # by UID
    decisions: list[Mapping[str, Any]] = field(default_factory=list)
    conditions: list[Mapping[str, Any]] = field(default_factory=list)
    usage: list[Usage] = field(default_factory=list)
    _addresses: dict[str, str] = field(default_factory=dict)  # a pod's UID, by its address

    async def watch(self, cluster: Client) -> None:
        """Watch until the load ends."""
        async with asyncio.TaskGroup() as group:
            watching = [
                group.create_task(each)
                for each in (
                    self._watch_service(cluster),
                    self._watch_pods(cluster),
                    self._look_at_doors(),
                )
            ]
            await self._look_at_machine()
            for each in watching:
                each.cancel()

    async def _watch_service(self, cluster: Client) -> None:
        async for found in cluster.objects("InferenceService"):
            if found["metadata"]["name"] == self.service:
                self._saw_service(found, time.time())

    def _saw_service(self, found: Mapping[str, Any], now: float) -> None:
        status = found.get("status", {})
        ready = status.get("replicas", {}).get("ready", 0)
        self.replicas.append(Replicas(now, found["spec"]["replicas"], ready))
        told = status.get("autoscaling", {}).get("decisions", ())
        known = [{**each, "seen": 0} for each in self.decisions]
        new = [each for each in reversed(told) if {**each, "seen": 0} not in known]
        self.decisions += ({**each, "seen": now} for each in new)
        for each in status.get("conditions", ()):
            if each["type"] in _SCALING:
                self._saw_condition(each, now)

    def _saw_condition(self, found: Mapping[str, Any], now: float) -> None:
        said = {name: found[name] for name in ("type", "status", "reason", "message")}
        before = [each for each in self.conditions if each["type"] == found["type"]]
        if not before or {**before[-1], **said} != before[-1]:
            self.conditions.append({**said, "seen": now})

    async def _watch_pods(self, cluster: Client) -> None:
        async for found in cluster.objects("Pod"):
            labels = found["metadata"].get("labels", {})
            if labels.get(names.ROLE) == SERVE and labels.get(names.NAME) == self.service:
                self._saw_pod(found, time.time())

    def _saw_pod(self, found: Mapping[str, Any], now: float) -> None:
        metadata, status = found["metadata"], found.get("status", {})
        uid = metadata["uid"]
        # The API server's times have no fractions.
        created = datetime.fromisoformat(metadata["creationTimestamp"]).timestamp() + 1
        pod = self.pods.setdefault(uid, Pod(metadata["name"], min(now, created)))
        if address := status.get("podIP"):
            self._addresses[address] = uid
        conditions = {each["type"]: each["status"] for each in status.get("conditions", ())}
        if pod.ready is None and conditions.get("Ready") == "True":
            pod.ready = now
        if metadata.get("deletionTimestamp"):
            pod.gone = now  # until the last that is heard of it

    async def _look_at_doors(self) -> None:
        while True:
            found = await asyncio.to_thread(
                lambda: [each.pods_of(self.service) for each in self.doors]
            )
            self._saw_doors(set.intersection(*found), time.time())
            await asyncio.sleep(_DOOR_SECONDS)

    def _saw_doors(self, everywhere: set[str], now: float) -> None:
        if not self.at_doors or self.at_doors[-1].pods != len(everywhere):
            self.at_doors.append(AtDoors(now, len(everywhere)))
        taken = {self._addresses[each] for each in everywhere if each in self._addresses}
        for uid, pod in self.pods.items():
            if uid in taken and pod.taken is None:
                pod.taken = now
            elif uid not in taken and pod.taken is not None and pod.left is None:
                pod.left = now

    async def _look_at_machine(self) -> None:
        before = _used(self.k6)
        while self.k6.poll() is None:
            now = _used(self.k6)
            if seconds := now.at - before.at:
                free = (now.free - before.free) / seconds / (os.cpu_count() or 1)
                self.usage.append(Usage(now.at, free, (now.k6_cores - before.k6_cores) / seconds))
            before = now
            await asyncio.sleep(_USAGE_SECONDS)

    def recording(
        self,
        began: float,
        asked: Bounds,
        phases: Sequence[Phase],
        requests: Sequence[Request],
        operator_cores: float,
    ) -> Recording:
        """Return all that was seen, with times since the load began."""
        return Recording(
            asked=asked,
            phases=phases,
            requests=requests,
            replicas=[each._replace(at=each.at - began) for each in self.replicas],
            at_doors=[each._replace(at=each.at - began) for each in self.at_doors],
            pods=[each.since(began) for each in self.pods.values()],
            decisions=[{**each, "seen": each["seen"] - began} for each in self.decisions],
            conditions=[{**each, "seen": each["seen"] - began} for each in self.conditions],
            usage=[each._replace(at=each.at - began) for each in self.usage],
            operator_cores=operator_cores,
        )


def _used(k6: subprocess.Popen[bytes]) -> Usage:
    """Return the seconds of CPU time that were free, and that k6 used, since they began.

    What is niced gives way to what is not: its time counts as free.
    """
    _, _, nice, _, idle = Path("/proc/stat").read_text().split(maxsplit=5)[:5]  # proc(5)
    free = (int(nice) + int(idle)) / os.sysconf("SC_CLK_TCK")
    return Usage(time.time(), free, cpu_seconds(k6.pid))
