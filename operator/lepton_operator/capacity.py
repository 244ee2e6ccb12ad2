"""How many GPUs are free: looked at only while some pod of ours finds no room.

All unfinished pods of the cluster are listed then, now and again, and nothing but a sum a node is
kept of them. Where nodes are not watched nobody looks, and the scheduler's own words must do.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace

from lepton_operator import bodies, errors, logs
from lepton_operator.cache import Cache, Key
from lepton_operator.cluster import Cluster
from lepton_operator.views import NodeView

ROUND_SECONDS = 2.0
LOOK_SECONDS = 60.0
_UNFINISHED = "status.phase!=Succeeded,status.phase!=Failed"

_log = logs.logger(__name__)


class Capacity:
    """What the pods of all owners take of each node."""

    def __init__(
        self,
        cluster: Cluster,
        cache: Cache,
        gpu_resource: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._cluster = cluster
        self._cache = cache
        self._gpu_resource = gpu_resource
        self._clock = clock
        self._taken: Mapping[str, int] | None = None  # GPUs, by node
        self._looked_at: float | None = None
        self._seen: tuple[tuple[NodeView, ...], tuple[NodeView, ...]] | None = None

    def of(self, nodes: tuple[NodeView, ...]) -> tuple[NodeView, ...]:
        """Return the nodes with what is free on each, while that is known."""
        taken = self._taken
        if taken is None:
            return nodes
        if self._seen is None or self._seen[0] is not nodes:
            free = [replace(each, free_gpus=each.gpus - taken.get(each.name, 0)) for each in nodes]
            self._seen = (nodes, tuple(free))
        return self._seen[1]

    async def run(self, wake: Callable[[Key], None]) -> None:
        """Look for ever, while some pod waits; `wake` is told whose pods there is news about."""
        while True:
            await self.look(wake)
            await asyncio.sleep(ROUND_SECONDS)

    async def look(self, wake: Callable[[Key], None]) -> None:
        """Look once, if some pod waits for room and it is time."""
        waiting = self._cache.without_room()
        if not waiting:
            self._take(None)
            self._looked_at = None
            return
        now = self._clock()
        if self._looked_at is not None and now - self._looked_at < LOOK_SECONDS:
            return
        self._looked_at = now
        try:
            taken = await self._list()
        except errors.ApiError as error:
            _log.debug("Free GPUs could not be counted", error=error.message)
            return
        if taken != self._taken:
            self._take(taken)
            for key in {self._cache.owner(pod) for pod in waiting}:
                if key is not None:
                    wake(key)

    def _take(self, taken: Mapping[str, int] | None) -> None:
        self._taken, self._seen = taken, None

    async def _list(self) -> Mapping[str, int]:
        taken: Counter[str] = Counter()
        pages = self._cluster.list_pages("Pod", selector="", fields=_UNFINISHED)
        async for page in pages:
            for pod in page:
                node = (pod.get("spec") or {}).get("nodeName")
                if node:
                    taken[node] += bodies.gpus_of_pod(pod, self._gpu_resource)
        return dict(taken)
