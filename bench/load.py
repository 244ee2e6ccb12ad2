"""Load on one address: an open loop, which keeps to its times, and a closed one, which fills it.

Arrivals are a Poisson process whose seed is given, so that rivals get the same ones. A request that
has to wait for a connection counts from the time at which it was due. Nothing is sent twice.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from bench.inference import Ask, InferenceError

_TIMEOUT_SECONDS = 30.0


@dataclass(slots=True)
class Told:
    """What clients saw: how long answers took, and what came in place of the others."""

    milliseconds: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    @property
    def requests(self) -> int:
        return len(self.milliseconds) + len(self.failures)

    def add(self, other: Told) -> None:
        self.milliseconds += other.milliseconds
        self.failures += other.failures

    def figures(self) -> dict[str, float]:
        """Return how many there were, and how long the answers took."""
        return {
            "requests": self.requests,
            "failed": len(self.failures),
            "p50_ms": round(statistics.median(self.milliseconds), 2),
            "p99_ms": round(statistics.quantiles(self.milliseconds, n=100)[98], 2),
            "worst_ms": round(max(self.milliseconds), 1),
        }

    async def note(self, ask: Ask, due: float) -> None:
        """Ask once, and take in how it went."""
        try:
            async with asyncio.timeout(_TIMEOUT_SECONDS):
                await ask()
        except (InferenceError, TimeoutError) as error:
            at = time.strftime("%H:%M:%S")
            self.failures.append(f"{at} {type(error).__name__}: {error}")
        else:
            self.milliseconds.append((time.monotonic() - due) * 1e3)


@dataclass(slots=True)
class Client:
    """Asks so many times a second in the mean, however late the answers are."""

    ask: Ask
    rate: float
    seed: int = 0
    is_ending: bool = False

    async def run(self, seconds: float) -> Told:
        """Ask for so long, or until `is_ending`, and wait for the answers that are open then."""
        told, began = Told(), time.monotonic()
        async with asyncio.TaskGroup() as group:
            for due in self._times(began, began + seconds):
                await asyncio.sleep(due - time.monotonic())
                group.create_task(told.note(self.ask, due))
        return told

    def _times(self, begin: float, end: float) -> Iterator[float]:
        randomness = random.Random(self.seed)  # noqa: S311 - it keeps no secret
        gaps = (randomness.expovariate(self.rate) for _ in itertools.count())
        arrivals = itertools.accumulate(gaps, initial=begin)
        return itertools.takewhile(lambda due: due < end and not self.is_ending, arrivals)


async def fill(ask: Ask, callers: int, seconds: float) -> Told:
    """Have so many callers ask again as soon as they have their answer, for so long."""
    told, end = Told(), time.monotonic() + seconds

    async def caller() -> None:
        while (now := time.monotonic()) < end:
            await told.note(ask, now)

    await asyncio.gather(*(caller() for _ in range(callers)))
    return told
