"""Asks the doors of a namespace what is in flight, while some pod of that namespace drains.

Beside the work on objects: a door that does not answer holds up nobody here, and its pods drain
until their time is over. What is told becomes new for plans when a pod has drained, and else
seldom, so that counts which go up and down write no status.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial

from lepton_operator import logs, names
from lepton_operator.build.door import HEALTH_PORT
from lepton_operator.cache import Cache, Key
from lepton_operator.inference.draining import has_drained, takes_requests
from lepton_operator.inquiry import NO_ANSWER, Inquiry, ask_for_ever
from lepton_operator.views import DoorTold, PodView

ROUND_SECONDS = 0.5
TELL_SECONDS = 10.0

_log = logs.logger(__name__)

Answers = Mapping[str, DoorTold]
"""What each door told last, by its UID."""


@dataclass(slots=True)
class _Known:
    """What the doors of a namespace answered last, and what plans were told of it, and when."""

    answers: Answers = field(default_factory=dict)
    told: Answers = field(default_factory=dict)
    told_at: float | None = None

    def is_worth_telling(self, pods: Iterable[PodView], doors: Iterable[PodView]) -> bool:
        every = tuple(doors)
        return any(
            has_drained(pod, every, self.answers) and not has_drained(pod, every, self.told)
            for pod in pods
        )


class Traffic:
    """Requests in flight to pods that drain."""

    def __init__(
        self,
        cache: Cache,
        port: int = HEALTH_PORT,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._cache = cache
        self._port = port
        self._clock = clock
        self._known: dict[str, _Known] = {}

    def told(self, namespace: str) -> Answers:
        """Return what the doors of a namespace told; nothing where no pod drains."""
        known = self._known.get(namespace)
        return known.told if known else {}

    async def run(self, wake: Callable[[Key], None]) -> None:
        """Ask for ever; `wake` is told whose pods there is news about."""
        await ask_for_ever(partial(self.ask_all, wake=wake), ROUND_SECONDS)

    async def ask_all(self, asking: Inquiry, wake: Callable[[Key], None]) -> None:
        """Ask the doors of every namespace in which a pod drains."""
        draining: dict[str, list[PodView]] = {}
        for pod in self._cache.draining():
            if not pod.deleting:
                draining.setdefault(pod.namespace, []).append(pod)
        self._known = {each: self._known.get(each, _Known()) for each in draining}
        await asyncio.gather(
            *(self._ask_namespace(asking, name, pods, wake) for name, pods in draining.items())
        )

    async def _ask_namespace(
        self,
        asking: Inquiry,
        namespace: str,
        pods: list[PodView],
        wake: Callable[[Key], None],
    ) -> None:
        doors = [pod for pod in self._cache.pods(names.door_uid(namespace)) if takes_requests(pod)]
        found = await asyncio.gather(*(self._ask(asking, door) for door in doors))
        known, now = self._known[namespace], self._clock()
        known.answers = {
            door.uid: answer or known.answers[door.uid]
            for door, answer in zip(doors, found, strict=True)
            if answer or door.uid in known.answers
        }
        is_due = known.told_at is None or now - known.told_at >= TELL_SECONDS
        if not is_due and not known.is_worth_telling(pods, doors):
            return
        known.told, known.told_at = known.answers, now
        for key in {self._cache.owner(pod) for pod in pods}:
            if key is not None:
                wake(key)

    async def _ask(self, asking: Inquiry, door: PodView) -> DoorTold | None:
        """Return what a door tells; None if it does not answer, or nothing that can be read."""
        asked = datetime.now(UTC)
        try:
            # Only of pods that this door knows to be draining: it sends them nothing new.
            content = await asking.ask(door, self._port, "/in-flight?draining")
            return DoorTold(asked, parse(content))
        except NO_ANSWER as error:
            _log.debug("A door does not answer", pod=door.name, error=str(error))
            return None


def parse(content: bytes) -> dict[str, int]:
    """Return the requests in flight by the pods' addresses; raises ValueError or TypeError."""
    found = json.loads(content)
    if not isinstance(found, dict):
        raise TypeError("its answer is no object")
    total: Counter[str] = Counter()
    for upstream, count in found.items():
        if not isinstance(count, int) or isinstance(count, bool) or count < 0:
            raise ValueError(f"it tells no number of requests for {upstream}")
        address, _, _ = upstream.rpartition(":")
        total[address.strip("[]")] += count
    return dict(total)
