"""The launcher's eyes while ranks run: tells the sidecar how far they are, and finds hangs."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from lepton_launcher.progress import without_ages
from lepton_launcher.sightings import look_at

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lepton_launcher.exchange import Exchange
    from lepton_launcher.hangs import Hang, HangWatch
    from lepton_launcher.ledger import Ending
    from lepton_launcher.progress import Progress
    from lepton_launcher.sightings import RankWatch, Sighting

LOOK_SECONDS = 0.25
_TELL_SECONDS = 1.0


class Observer:
    """Looks at the ranks of one generation."""

    def __init__(
        self,
        watches: Sequence[RankWatch],
        progress: Progress,
        hangs: HangWatch | None,
        exchange: Exchange | None,
    ) -> None:
        self.progress = progress
        self._watches = watches
        self._hangs = hangs
        self._exchange = exchange
        self.sightings: Sequence[Sighting] = ()
        """What was seen last."""
        self._told: dict[str, Any] | None = None
        self._told_at = -_TELL_SECONDS

    @property
    def waiting(self) -> Hang | None:
        """A hang if the ranks of the other pods wait too."""
        return self._hangs.waiting if self._hangs else None

    def look(self) -> Hang | None:
        """Look once; a verdict if the ranks hang."""
        now = time.monotonic()
        self.sightings = sightings = look_at(self._watches)
        self.progress.take_in(sightings, now)
        hang = self._hangs.observe(sightings, now) if self._hangs else None
        if hang or now - self._told_at >= _TELL_SECONDS:
            self._tell(sightings, now, always=hang is not None)
        return hang

    def look_back(self) -> None:
        """Look once more after the ranks have ended: their boards outlive them."""
        self.sightings = look_at(self._watches)
        self.progress.take_in(self.sightings, time.monotonic())

    def end(self, ending: Ending) -> None:
        """Book the time that is left, and tell for the last time how far the ranks were."""
        now = time.monotonic()
        self.progress.end(ending, now)
        self._tell(self.sightings, now, always=True)

    def _tell(self, sightings: Sequence[Sighting], now: float, *, always: bool) -> None:
        if self._exchange is None or not sightings:
            return
        document = self.progress.document(sightings, now)
        ageless = without_ages(document)
        if always or ageless != self._told:
            self._told, self._told_at = ageless, now
            self._exchange.tell_progress(document)
