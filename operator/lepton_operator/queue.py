"""Which object is looked at next: a keyed queue that never holds a key twice.

A key that is added while a worker has it waits until that worker is done, so no two workers ever
have the same one. An event runs its key at once, whatever delay it had; backoff only spaces what
is tried again after an error.
"""

from __future__ import annotations

import asyncio
import random
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass
from enum import Enum
from typing import Generic, TypeVar

from lepton_operator.metrics import Metrics

K = TypeVar("K", bound=Hashable)

FIRST_BACKOFF_SECONDS = 0.005
LAST_BACKOFF_SECONDS = 1000.0
JITTER = 0.1
MAX_CHANGES_IN_A_ROW = 20
_MAX_DOUBLINGS = 30
_TURNS_PER_KNOWN = 8


class End(Enum):
    """How a pass ended."""

    SETTLED = "nothing was to do"
    GONE = "there is no such object"
    CHANGED = "something was written: look again at once"
    PUT_OFF = "the rest waits behind objects that never had a pass"
    FAILED = "try again after a backoff"


@dataclass(frozen=True, slots=True)
class Outcome:
    """The end of a pass, and when the object wants to be looked at again without any event."""

    end: End
    due_seconds: float | None = None
    at_least_seconds: float = 0.0  # the API server's Retry-After
    at_most_seconds: float = LAST_BACKOFF_SECONDS


def backoff_seconds(failures: int, jitter: float) -> float:
    """Return the wait after so many failures in a row; `jitter` is between 0 and 1."""
    doubled = FIRST_BACKOFF_SECONDS * 2.0 ** min(failures - 1, _MAX_DOUBLINGS)
    return min(doubled * (1 + JITTER * jitter), LAST_BACKOFF_SECONDS)


class WorkQueue(Generic[K]):
    """Keys that wait in two lanes, keys that a worker has, and one delayed entry a key.

    Keys that never had a pass go first, so that a burst of new objects gets its pods before
    anything else; but one that has waited for `patience_seconds` gets its turn all the same, one
    in eight.
    """

    def __init__(
        self,
        process: Callable[[K], Awaitable[Outcome]],
        *,
        workers: int,
        patience_seconds: float,
        metrics: Metrics,
        randomness: random.Random,
    ) -> None:
        self._process = process
        self._workers = workers
        self._patience_seconds = patience_seconds
        self._metrics = metrics
        self._random = randomness
        self._fresh: OrderedDict[K, float] = OrderedDict()  # waiting, and since when
        self._known: OrderedDict[K, float] = OrderedDict()
        self._working: dict[K, tuple[float, asyncio.Task[None]]] = {}
        self._again: set[K] = set()  # added while a worker had them
        self._seen: set[K] = set()  # had a pass
        self._delayed: dict[K, asyncio.TimerHandle] = {}
        self._failures: dict[K, int] = {}
        self._changes: dict[K, int] = {}
        self._put_off: dict[K, float] = {}
        self._turn = 0
        self._open = False
        self._clock = asyncio.get_running_loop().time
        metrics.depth.set_function(lambda: self.waiting)
        metrics.unfinished_seconds.set_function(lambda: sum(self._ages()))
        metrics.longest_seconds.set_function(lambda: max(self._ages(), default=0.0))

    @property
    def waiting(self) -> int:
        return len(self._fresh) + len(self._known)

    @property
    def working(self) -> int:
        return len(self._working)

    @property
    def is_open(self) -> bool:
        """Whether workers take keys."""
        return self._open

    def start(self) -> None:
        """Let workers take keys; until then they only wait."""
        self._open = True
        self._dispatch()

    async def stop(self, patience_seconds: float) -> None:
        """Start no more passes, let running ones end for so long, then cancel them."""
        self._open = False
        for handle in self._delayed.values():
            handle.cancel()
        tasks = [task for _, task in self._working.values()]
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=patience_seconds)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    def add(self, key: K) -> None:
        """Have the key looked at as soon as a worker is free."""
        if key in self._working:
            self._again.add(key)
            return
        if key in self._fresh or key in self._known:
            return
        lane = self._known if key in self._seen else self._fresh
        lane[key] = self._clock()
        self._metrics.adds.inc()
        self._dispatch()

    def add_after(self, key: K, seconds: float) -> None:
        """Have the key looked at later; this replaces an earlier delay of the same key."""
        self._cancel_delay(key)
        if seconds <= 0:
            self.add(key)
            return
        loop = asyncio.get_running_loop()
        self._delayed[key] = loop.call_later(seconds, self._delay_is_over, key)

    def forgive(self, key: K) -> None:
        """Forget the key's failures: what failed has changed."""
        self._failures.pop(key, None)
        self._changes.pop(key, None)

    def drop(self, key: K) -> None:
        """Forget the key altogether: its object is gone."""
        self._cancel_delay(key)
        self.forgive(key)
        self._fresh.pop(key, None)
        self._known.pop(key, None)
        self._put_off.pop(key, None)
        self._again.discard(key)
        self._seen.discard(key)

    def failures(self, key: K) -> int:
        return self._failures.get(key, 0)

    def should_put_off(self, key: K) -> bool:
        """Whether the rest of the key's pass should wait behind objects that never had one."""
        began = self._put_off.get(key)
        patient = began is None or self._clock() - began < self._patience_seconds
        return bool(self._fresh) and patient

    def _dispatch(self) -> None:
        while self._open and self.waiting and len(self._working) < self._workers:
            key, since = self._next()
            now = self._clock()
            self._metrics.queue_seconds.observe(now - since)
            self._seen.add(key)
            self._cancel_delay(key)
            self._working[key] = (now, asyncio.create_task(self._work(key), name=f"pass {key}"))

    def _next(self) -> tuple[K, float]:
        overdue = self._known and self._oldest_known() >= self._patience_seconds
        self._turn += 1
        take_known = not self._fresh or (overdue and self._turn % _TURNS_PER_KNOWN == 0)
        return (self._known if take_known else self._fresh).popitem(last=False)

    def _oldest_known(self) -> float:
        return self._clock() - next(iter(self._known.values()))

    async def _work(self, key: K) -> None:
        outcome = None
        try:
            outcome = await self._process(key)
        finally:
            began, _ = self._working.pop(key)
            self._metrics.work_seconds.observe(self._clock() - began)
            if outcome is not None and self._open and key in self._seen:
                self._follow(key, outcome)
            if key in self._again:
                self._again.discard(key)
                self.add(key)
            self._dispatch()

    def _follow(self, key: K, outcome: Outcome) -> None:
        """Do what the end of a pass asks for."""
        if outcome.end is not End.PUT_OFF:
            self._put_off.pop(key, None)
        if outcome.end is End.SETTLED:
            self.forgive(key)
            if outcome.due_seconds is not None:
                self.add_after(key, outcome.due_seconds)
        elif outcome.end is End.GONE:
            self.forgive(key)
            self._seen.discard(key)
        elif outcome.end is End.FAILED:
            self._retry(key, outcome)
        elif outcome.end is End.PUT_OFF:
            self._put_off.setdefault(key, self._clock())
            self.add(key)
        else:
            self._look_again(key)

    def _look_again(self, key: K) -> None:
        """Run the key once more; one that never comes to rest is slowed down like a failing one."""
        self._changes[key] = self._changes.get(key, 0) + 1
        surplus = self._changes[key] - MAX_CHANGES_IN_A_ROW
        self.add_after(key, backoff_seconds(surplus, self._random.random()) if surplus > 0 else 0)

    def _retry(self, key: K, outcome: Outcome) -> None:
        self._metrics.retries.inc()
        self._failures[key] = self._failures.get(key, 0) + 1
        wait = backoff_seconds(self._failures[key], self._random.random())
        self.add_after(key, max(min(wait, outcome.at_most_seconds), outcome.at_least_seconds))

    def _delay_is_over(self, key: K) -> None:
        self._delayed.pop(key, None)
        self.add(key)

    def _cancel_delay(self, key: K) -> None:
        handle = self._delayed.pop(key, None)
        if handle:
            handle.cancel()

    def _ages(self) -> list[float]:
        now = self._clock()
        return [now - began for began, _ in self._working.values()]
