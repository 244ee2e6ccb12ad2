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


@dataclass(frozen=True, slots=True)
class Heard:
    """What became of all requests that were begun before a moment, and how many never ended."""

    requests: Sequence[Request]
    lost: int = 0


def heard(requests: Iterable[Request], clients: Iterable[str], moment: float) -> Heard | None:
    """Return what is heard so far; None as long as a client has begun nothing after the moment.

    A client numbers its requests as it begins them. Its threads may look at the clock in another
    order, so what counts is what has a smaller number than any that was begun later.
    """
    every = list(requests)
    later = [each for each in every if each.at >= moment]
    first = {one: [each.number for each in later if each.client == one] for one in clients}
    if not all(first.values()):
        return None
    before = [each for each in every if each.number < min(first[each.client])]
    return Heard(before, sum(map(min, first.values())) - len(before))


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
