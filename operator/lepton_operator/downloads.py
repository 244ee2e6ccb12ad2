"""Asks serving pods that fetch their model how far they are, and no others.

Beside the work on objects: a pod that does not answer holds up nobody. What is told becomes new for
plans seldom, so that a download writes a status each ten seconds at most.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from lepton_operator import logs
from lepton_operator.build.serving import FETCH, PROGRESS_PORT
from lepton_operator.cache import Cache, Key
from lepton_operator.inquiry import NO_ANSWER, Inquiry, ask_for_ever
from lepton_operator.views import Fetched, PodView

ROUND_SECONDS = 2.0
TELL_SECONDS = 10.0

_log = logs.logger(__name__)


@dataclass(slots=True)
class _Known:
    """What plans were told of a pod, and when (monotonic seconds)."""

    told: Fetched | None = None
    told_at: float = 0.0


class Downloads:
    """How far serving pods are with their models."""

    def __init__(
        self,
        cache: Cache,
        port: int = PROGRESS_PORT,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._cache = cache
        self._port = port
        self._clock = clock
        self._known: dict[str, _Known] = {}

    def of(self, pod: PodView) -> Fetched | None:
        """Return what a pod told; None once it has ended fetching."""
        known = self._known.get(pod.uid)
        return known.told if known is not None and _fetches(pod) else None

    async def run(self, wake: Callable[[Key], None]) -> None:
        """Ask for ever; `wake` is told whose pod told something new."""
        await ask_for_ever(partial(self.ask_all, wake=wake), ROUND_SECONDS)

    async def ask_all(self, asking: Inquiry, wake: Callable[[Key], None]) -> None:
        """Ask every pod that fetches a model."""
        found = {pod.uid: (key, pod) for key, pod in self._asked()}
        self._known = {uid: self._known.get(uid, _Known()) for uid in found}
        await asyncio.gather(*(self._ask(asking, key, pod, wake) for key, pod in found.values()))

    def _asked(self) -> Iterator[tuple[Key, PodView]]:
        for pod in self._cache.initialising():
            key = self._cache.owner(pod)
            if key is not None and key.kind == "InferenceService" and _fetches(pod) and pod.ip:
                yield key, pod

    async def _ask(
        self, asking: Inquiry, key: Key, pod: PodView, wake: Callable[[Key], None]
    ) -> None:
        try:
            fetched = parse(await asking.ask(pod, self._port, "/progress"))
        except NO_ANSWER as error:
            _log.debug("A pod does not tell how far it is", pod=pod.name, error=str(error))
            return
        known, now = self._known[pod.uid], self._clock()
        is_due = known.told is None or now - known.told_at >= TELL_SECONDS
        if fetched is not None and fetched != known.told and is_due:
            known.told, known.told_at = fetched, now
            wake(key)


def parse(content: bytes) -> Fetched | None:
    """Return what a pod told, None before it knows; raises whatever comes of anything else."""
    told = json.loads(content)
    if not isinstance(told, dict):
        raise TypeError("its answer is no object")
    fetched, total = (told.get(name) for name in ("fetchedBytes", "totalBytes"))
    if not isinstance(fetched, int) or not isinstance(total, int) or not 0 <= fetched <= total:
        raise ValueError("it tells no number of bytes")
    return Fetched(fetched, total) if total else None


def _fetches(pod: PodView) -> bool:
    container = pod.container(FETCH)
    return container is not None and container.state == "running"
