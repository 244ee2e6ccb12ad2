"""What the doors count, asked of themselves: the second source, where no Prometheus tells it.

Who may create a pod may have it answer as a door does. So no more is taken than a door can have to
tell, and only of services that there are: what all doors together answer must not hold anybody up.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

import msgspec

from lepton_operator import logs
from lepton_operator.build.door import HEALTH_PORT
from lepton_operator.inquiry import NO_ANSWER, Inquiry
from lepton_operator.signals.counts import MOST, DoorCounts
from lepton_operator.views import PodView

# A service's name and three numbers are less than half of it.
_BYTES_OF_A_SERVICE = 512
_BYTES = 65_536

_log = logs.logger(__name__)


class _Told(msgspec.Struct, gc=False):
    arrivals: float = 0.0
    active: float = 0.0
    rejected: float = 0.0

    def is_possible(self) -> bool:
        return all(0 <= each <= MOST for each in (self.arrivals, self.active, self.rejected))


_ANSWER = msgspec.json.Decoder(dict[str, _Told])


async def read(
    asking: Inquiry,
    door: PodView,
    services: Collection[str],
    clock: Callable[[], float],
    port: int = HEALTH_PORT,
) -> dict[str, DoorCounts] | None:
    """Ask a door what it counted of its namespace's services; None if it does not answer."""
    most = _BYTES + _BYTES_OF_A_SERVICE * len(services)
    try:
        return parse(await asking.ask(door, port, "/counts", most), services, clock())
    except NO_ANSWER as error:
        _log.debug("A door does not tell what it counts", pod=door.name, error=str(error))
        return None


def parse(content: bytes, services: Collection[str], at: float) -> dict[str, DoorCounts]:
    """Return a door's counts by service; raises ValueError or RecursionError."""
    told = {name: each for name, each in _ANSWER.decode(content).items() if name in services}
    if not all(each.is_possible() for each in told.values()):
        raise ValueError("it tells no numbers")
    return {
        name: DoorCounts(at, each.arrivals, each.active, each.rejected)
        for name, each in told.items()
    }
