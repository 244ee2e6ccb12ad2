"""Asks the sidecars of rank 0 how far their trainings are: seldom, and never trusting the answer.

Beside the work on objects: a pod that does not answer holds up nobody. Where rank 0's does not, the
next ones are asked: they may tell that the gang has lost rank 0.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial

from lepton_operator import logs, names, progress
from lepton_operator.build.training import TELEMETRY_PORT
from lepton_operator.cache import Cache, Key
from lepton_operator.inquiry import NO_ANSWER, Inquiry, UnusableError, ask_for_ever
from lepton_operator.views import PodView, Told

ASK_SECONDS = 30.0
LONGEST_ASK_SECONDS = 600.0
MAX_DOUBLINGS = 10
ROUND_SECONDS = 5.0
ANSWER_SECONDS = 2.0
MOST_OF_A_GANG = 16  # as many as one node that is cut off may have, and one more

_log = logs.logger(__name__)


@dataclass(slots=True)
class _Known:
    """What a pod told last, and when it is asked again (monotonic seconds)."""

    told: Told | None = None
    next_at: float = 0.0
    failures: int = 0

    def asked(self, now: float, *, answered: bool) -> None:
        """Decide when to ask again: each 30 s, and more and more seldom without an answer."""
        self.failures = 0 if answered else self.failures + 1
        doublings = min(self.failures, MAX_DOUBLINGS)
        self.next_at = now + min(ASK_SECONDS * 2**doublings, LONGEST_ASK_SECONDS)


class Telemetry:
    """What the pods of rank 0 told last."""

    def __init__(
        self,
        cache: Cache,
        port: int = TELEMETRY_PORT,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._cache = cache
        self._port = port
        self._clock = clock
        self._known: dict[str, _Known] = {}

    def of(self, pods: tuple[PodView, ...]) -> Told | None:
        """Return what the newest of these pods told last; None if none did."""
        told = (self._known[pod.uid].told for pod in pods if pod.uid in self._known)
        known = [each for each in told if each is not None]
        return max(known, key=_newness, default=None)

    async def run(self, wake: Callable[[Key], None]) -> None:
        """Ask for ever; `wake` is told whose training told something new."""
        await ask_for_ever(
            partial(self.ask_all, wake=wake), ROUND_SECONDS, ANSWER_SECONDS, progress.MAX_BYTES
        )

    async def ask_all(self, asking: Inquiry, wake: Callable[[Key], None]) -> None:
        """Ask every pod whose time has come."""
        found = dict(self._asked())
        self._known = {uid: self._known.get(uid, _Known()) for uid in found}

        async def ask(uid: str, key: Key, pod: PodView) -> None:
            if await self._ask(asking, self._known[uid], pod):
                wake(key)

        now = self._clock()
        due = [each for each in found.items() if self._known[each[0]].next_at <= now]
        await asyncio.gather(*(ask(uid, key, pod) for uid, (key, pod) in due))

    def _asked(self) -> Iterator[tuple[str, tuple[Key, PodView]]]:
        """Yield pods of rank 0, and of those that do not answer peers up to one that does."""
        for key in self._cache.own_keys():
            own = self._cache.own(key) if key.kind == "TrainingJob" else None
            running = [each for each in self._cache.pods(own.uid) if _runs(each)] if own else []
            if not any(_rank(pod) == 0 for pod in running):
                continue
            ranked = sorted(running, key=lambda pod: (_rank(pod), pod.deleting))
            for pod in ranked[:MOST_OF_A_GANG]:
                yield pod.uid, (key, pod)
                if not self._is_silent(pod):
                    break

    def _is_silent(self, pod: PodView) -> bool:
        known = self._known.get(pod.uid)
        return known is not None and known.failures > 0

    async def _ask(self, asking: Inquiry, known: _Known, pod: PodView) -> bool:
        """Ask one pod; tell whether there is something new."""
        try:
            content = await asking.ask(pod, self._port, "/progress")
        except UnusableError:  # of one that is there: so it answers before the ranks have begun
            content = b""
        except NO_ANSWER as error:
            _log.debug("A sidecar does not answer", pod=pod.name, error=str(error))
            known.asked(self._clock(), answered=False)
            return False
        known.asked(self._clock(), answered=True)
        told = progress.parse(content, datetime.now(UTC)) if content else None
        if told is None:
            return False
        known.told = told
        return True


def _runs(pod: PodView) -> bool:
    return bool(pod.ip) and pod.phase == "Running" and not pod.gone


def _rank(pod: PodView) -> float:
    label = pod.labels.get(names.RANK, "")
    return int(label) if label.isdecimal() else math.inf


def _newness(told: Told) -> tuple[int, datetime]:
    return told.progress.attempt, told.progress.time
