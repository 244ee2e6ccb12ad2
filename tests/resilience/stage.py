"""What a person does in one namespace, and the end that each pod is told to come to."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from tests.resilience.api import Api, own_path
from tests.resilience.history import Body, World
from tests.resilience.pods import ENDING
from tests.resilience.process import Operator

_LOOK_SECONDS = 0.2


class TooLongError(AssertionError):
    """The scenario did not get on in time; the text says what was there."""


@dataclass(frozen=True, slots=True)
class Stage:
    api: Api
    world: World
    namespace: str
    deadline_seconds: float
    operator: Operator

    def path(self, api: str, resource: str, name: str) -> str:
        """Return the path of an object that is not of ours."""
        return f"/{api}/namespaces/{self.namespace}/{resource}/{name}"

    async def apply(self, manifest: dict[str, Any]) -> None:
        await self.api.create(own_path(self.namespace, manifest["kind"]), manifest)

    async def change(self, kind: str, name: str, spec: dict[str, Any]) -> None:
        await self.api.patch(own_path(self.namespace, kind, name), {"spec": spec})

    async def delete(self, kind: str, name: str) -> None:
        await self.api.delete(own_path(self.namespace, kind, name))

    async def cordon(self, node: str, *, unschedulable: bool) -> None:
        await self.api.patch(f"/api/v1/nodes/{node}", {"spec": {"unschedulable": unschedulable}})

    async def delete_pod(self, name: str, *, grace_seconds: int | None = None) -> None:
        """Delete it as a person would; with a grace period of 0 it is gone at once."""
        query = "" if grace_seconds is None else f"?gracePeriodSeconds={grace_seconds}"
        await self.api.delete(f"/api/v1/namespaces/{self.namespace}/pods/{name}{query}")

    async def until(self, holds: Callable[[World], object]) -> None:
        """Wait until this is true of the namespace; looked at with every event."""
        deadline = time.monotonic() + self.deadline_seconds
        while not holds(self.world):
            left = deadline - time.monotonic()
            if left < 0:
                raise TooLongError(self._seen())
            await _next_event(self.world, left)

    async def direct(self, ending: Callable[[World, Body], str | None]) -> None:
        """Tell pods, for ever, when they end and how."""
        told: set[str] = set()
        while True:
            await asyncio.gather(*self._tell(ending, told))
            await _next_event(self.world, _LOOK_SECONDS)

    def _tell(
        self, ending: Callable[[World, Body], str | None], told: set[str]
    ) -> list[Awaitable[None]]:
        due: list[Awaitable[None]] = []
        for pod in self.world.list("pods"):
            metadata = pod["metadata"]
            if not _is_to_be_told(pod) or metadata["uid"] in told:
                continue
            name = ending(self.world, pod)
            if name is not None and "deletionTimestamp" not in metadata:
                told.add(metadata["uid"])
                change = {"metadata": {"annotations": {ENDING: name}}}
                path = f"/api/v1/namespaces/{self.namespace}/pods/{metadata['name']}"
                due.append(self.api.patch(path, change))
        return due

    def _seen(self) -> str:
        lines = [f"{self.namespace}: nothing more after {self.deadline_seconds} s; there are"]
        for (resource, name), body in sorted(self.world.present.items()):
            lines.append(f"  {resource} {name}: {body.get('status', {})}")
        return "\n".join(lines)


def _is_to_be_told(pod: Body) -> bool:
    """Whether it runs; one that is to fail at its start has to know before."""
    starts = pod["metadata"]["labels"].get("lepton.ai/role") == "serve"
    return starts or bool(pod["status"].get("phase") == "Running")


async def _next_event(world: World, seconds: float) -> None:
    world.changed.clear()
    try:
        await asyncio.wait_for(world.changed.wait(), seconds)
    except TimeoutError:
        return
