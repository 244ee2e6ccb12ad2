"""The delay between two attempts: none before the first restart, then growing, with jitter."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from datetime import datetime, timedelta

from lepton_operator.api.training import Attempt

FIRST_DELAY_SECONDS = 1
MAX_DELAY_SECONDS = 60
LONG_RUN_SECONDS = 300  # an attempt whose ranks ran for so long begins the delays anew


def delay_seconds(failures_in_a_row: int, uid: str, attempt: int) -> float:
    """Return the delay before the next attempt: 0, then 1 s doubling up to 60 s.

    Between half of that and all of it, by a hash, so that jobs which failed together do not come
    back together, and one job's delay is the same whoever computes it.
    """
    if failures_in_a_row <= 1:
        return 0.0
    doublings = min(failures_in_a_row - 2, MAX_DELAY_SECONDS.bit_length())
    longest = min(MAX_DELAY_SECONDS, FIRST_DELAY_SECONDS << doublings)
    return longest * (1 + _share(uid, attempt)) / 2


def _share(uid: str, attempt: int) -> float:
    """Return a number from 0 to 1 that looks random, of this run and attempt."""
    digest = hashlib.sha256(f"{uid}/{attempt}".encode()).digest()
    return int.from_bytes(digest[:4], "big") / 0xFFFFFFFF


def opens_at(attempts: Iterable[Attempt], uid: str, generation: int) -> datetime | None:
    """Return when the attempt after these may open; None if there is nothing to wait for."""
    failures = _failures_in_a_row(attempts, generation)
    if not failures or failures[-1].end_time is None:
        return None
    # The status holds whole seconds, and what is decided now must hold when it is read.
    ended = failures[-1].end_time.replace(microsecond=0)
    return ended + timedelta(seconds=delay_seconds(len(failures), uid, failures[-1].number))


def _failures_in_a_row(attempts: Iterable[Attempt], generation: int) -> list[Attempt]:
    """Return the failures since the last long run, under this generation of the spec."""
    found: list[Attempt] = []
    for attempt in attempts:
        forgiven = attempt.generation not in (None, generation)
        if attempt.outcome != "Failed" or forgiven:
            found = []
        elif _ran_long(attempt):
            found = [attempt]
        else:
            found.append(attempt)
    return found


def _ran_long(attempt: Attempt) -> bool:
    if attempt.running_time is None or attempt.end_time is None:
        return False
    return attempt.end_time - attempt.running_time >= timedelta(seconds=LONG_RUN_SECONDS)
