"""What became of requests, one by one, and what they say together."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Request:
    """A request that has ended; it failed if there is an error. `at`: Unix time of its beginning.

    `number`: counted from 0 within its client.
    """

    client: str
    number: int
    at: float
    ms: float
    version: str
    error: str

    @property
    def end(self) -> float:
        return self.at + self.ms / 1000


def read(files: Iterable[Path]) -> list[Request]:
    """Return what the clients have written so far, by the time of its beginning."""
    found = []
    for file in files:
        whole, _, _ = file.read_text().rpartition("\n") if file.exists() else ("", "", "")
        found += [Request(**json.loads(line)) for line in whole.splitlines()]
    return sorted(found, key=lambda each: each.at)


def is_complete(requests: Iterable[Request], clients: Sequence[str], until: float) -> bool:
    """Whether all that the clients began before this time have ended.

    A client numbers its requests as it begins them: one that has begun a later one, and whose
    earlier numbers are all there, misses none.
    """
    every = list(requests)
    return all(
        _is_complete([each for each in every if each.client == one], until) for one in clients
    )


def _is_complete(requests: Sequence[Request], until: float) -> bool:
    numbers = {each.number for each in requests}
    later = [each.number for each in requests if each.at >= until]
    return bool(later) and numbers >= set(range(min(later)))


def lost(requests: Iterable[Request]) -> int:
    """Return how many were begun of which nothing was heard again."""
    numbers: dict[str, set[int]] = {}
    for each in requests:
        numbers.setdefault(each.client, set()).add(each.number)
    return sum(max(seen) + 1 - len(seen) for seen in numbers.values())


def in_flight(requests: Iterable[Request], moment: float) -> int:
    """Return how many were on their way at this moment."""
    return sum(each.at <= moment < each.end for each in requests)


def percentile_ms(requests: Iterable[Request], share: float) -> float:
    """Return the time that this share of all requests did not exceed."""
    times = sorted(each.ms for each in requests)
    return times[max(math.ceil(share * len(times)) - 1, 0)] if times else 0.0


def gap_seconds(requests: Sequence[Request]) -> float:
    """Return the time from the first failed request to the first good one after the last."""
    failed = [each for each in requests if each.error]
    if not failed:
        return 0.0
    good = (each.at for each in requests if not each.error and each.at > failed[-1].at)
    return next(good, requests[-1].at) - failed[0].at
