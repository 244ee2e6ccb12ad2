"""What the doors count, asked of themselves: the second source, where no Prometheus tells it."""

from __future__ import annotations

import json
from collections.abc import Callable

from lepton_operator import logs
from lepton_operator.build.door import HEALTH_PORT
from lepton_operator.inquiry import NO_ANSWER, Inquiry
from lepton_operator.signals.counts import MOST, DoorCounts
from lepton_operator.views import PodView

_log = logs.logger(__name__)


async def read(
    asking: Inquiry, door: PodView, clock: Callable[[], float], port: int = HEALTH_PORT
) -> dict[str, DoorCounts] | None:
    """Ask a door what it counted, by the service's name; None if it does not answer."""
    try:
        return parse(await asking.ask(door, port, "/counts"), clock())
    except NO_ANSWER as error:
        _log.debug("A door does not tell what it counts", pod=door.name, error=str(error))
        return None


def parse(content: bytes, at: float) -> dict[str, DoorCounts]:
    """Return a door's counts by service; raises ValueError or TypeError."""
    found = json.loads(content)
    if not isinstance(found, dict):
        raise TypeError("its answer is no object")
    return {name: _counts(told, at) for name, told in found.items()}


def _counts(told: object, at: float) -> DoorCounts:
    if not isinstance(told, dict):
        raise TypeError("it tells no counts of a service")
    figures = [told.get(name, 0) for name in ("arrivals", "active", "rejected")]
    if not all(isinstance(each, int | float) and 0 <= each <= MOST for each in figures):
        raise ValueError("it tells no numbers")
    arrivals, active, rejected = (float(each) for each in figures)
    return DoorCounts(at, arrivals, active, rejected)
