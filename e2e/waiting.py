"""Wait for what should become true, and say what was seen when it does not."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from e2e.deadlines import DEADLINES_SECONDS

T = TypeVar("T")
Manifest = Mapping[str, Any]

_POLL_SECONDS = 0.2


class WaitedTooLongError(AssertionError):
    """What was waited for did not come; the text says what was there instead."""


def wait_until(
    look: Callable[[], T], holds: Callable[[T], object], deadline: str, what: str = ""
) -> T:
    """Return what `look` sees as soon as `holds` is true of it.

    Raises:
        WaitedTooLongError: after the deadline of this name (e2e/deadlines.py), with what was seen.
    """
    end = time.monotonic() + DEADLINES_SECONDS[deadline]
    while True:
        seen = look()
        if holds(seen):
            return seen
        if time.monotonic() > end:
            limit = DEADLINES_SECONDS[deadline]
            raise WaitedTooLongError(f"{deadline} took over {limit} s {what}; last seen: {seen}")
        time.sleep(_POLL_SECONDS)


def condition(found: Manifest | None, kind: str) -> Manifest:
    """Return a condition of an object; an empty one if there is none."""
    conditions = (found or {}).get("status", {}).get("conditions", ())
    return next((each for each in conditions if each["type"] == kind), {})


def is_current(found: Manifest | None) -> bool:
    """Whether the status speaks of the spec as it is now."""
    if found is None:
        return False
    generation = found["metadata"]["generation"]
    return bool(found.get("status", {}).get("observedGeneration") == generation)


def is_ready(found: Manifest | None) -> bool:
    return is_current(found) and condition(found, "Ready").get("status") == "True"


def is_true(found: Manifest | None, kind: str) -> bool:
    return is_current(found) and condition(found, kind).get("status") == "True"


def has_reason(found: Manifest | None, reason: str, kind: str = "Ready") -> bool:
    return is_current(found) and condition(found, kind).get("reason") == reason
