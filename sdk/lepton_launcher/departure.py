"""How the ranks of a pod are asked to leave: to save at one agreed step, or by a signal.

Ranks that answer (the SDK's Checkpointer) find the step in exchange/save, save at its end and exit
with 0. All others get the signal of the job's choice and the rest of the grace period.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from typing import TYPE_CHECKING

from lepton_launcher.coordinator import LEAVE, RUN, save_step
from lepton_launcher.observer import LOOK_SECONDS
from lepton_launcher.records import signal_name
from lepton_launcher.speech import say

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lepton_launcher.coordinator import Order
    from lepton_launcher.exchange import Exchange
    from lepton_launcher.processes import Children
    from lepton_launcher.sightings import Sighting

SIGNALS = ("SIGTERM", "SIGINT", "SIGUSR1", "SIGUSR2", "SIGHUP")
"""What a script may ask for as its signal."""

# A gang that has not said by then how it leaves is not waited for.
_AGREED_BY_SECONDS = 2.0
_SAVES_IN = ("training", "evaluating", "checkpointing")


def fastest_to_save(sightings: Sequence[Sighting], ranks: int) -> int:
    """The step of the fastest rank; -1 if not all answer requests, or have done a step to save."""
    if len(sightings) < ranks or not all(map(_answers, sightings)):
        return -1
    return max(each.standing.step for each in sightings)


def _answers(sighting: Sighting) -> bool:
    standing = sighting.standing
    is_training = standing.phase in _SAVES_IN and standing.is_reported
    return standing.saves_on_request and is_training and not sighting.is_gone


class Departure:
    """Asks the ranks of one generation to leave, once."""

    def __init__(self, ranks: int, signal_: str, exchange: Exchange, children: Children) -> None:
        self._ranks = ranks
        self._signal = signal.Signals[signal_]
        self._exchange = exchange
        self._children = children
        self._is_asked = False
        self.has_signalled = False
        """Whether ranks were still there when the signal was sent: they may have ended by it."""

    def proceed(
        self,
        asked_at: float,
        sightings: Sequence[Sighting],
        step_seconds: float,
        order: Order | None,
    ) -> None:
        """Ask the ranks, once it is known how the gang leaves; `order` is None without a gang."""
        if self._is_asked:
            return
        is_late = time.monotonic() - asked_at > _AGREED_BY_SECONDS
        if order is not None and order.act == LEAVE:
            self._ask(order.save_at, sightings)
        elif order is None or order.act != RUN or is_late:
            # Where ranks of the gang have ended, those that are left cannot save with them.
            is_whole = order is None or order.act == RUN
            fastest = fastest_to_save(sightings, self._ranks) if is_whole else -1
            self._ask(save_step(fastest, step_seconds, LOOK_SECONDS), sightings)

    def _ask(self, save_at: int, sightings: Sequence[Sighting]) -> None:
        self._is_asked = True
        if save_at and self._can_tell(save_at):
            say(f"asked to leave: the ranks save at the end of step {save_at}")
        elif len(sightings) == self._ranks and all(map(_has_trained, sightings)):
            say("asked to leave: the training is over, and its script comes to its end")
        else:
            self._signal_ranks(sightings)

    def _can_tell(self, save_at: int) -> bool:
        try:
            self._exchange.ask_to_save(save_at)
        except OSError as error:
            say(f"the ranks cannot be asked to save: {error}")
            return False
        return True

    def _signal_ranks(self, sightings: Sequence[Sighting]) -> None:
        """Signal the ranks alone: their own workers and torchrun's agent would end too early."""
        say(f"asked to leave: the ranks get {signal_name(self._signal)}")
        alive = [each for each in sightings if not each.is_gone]
        self.has_signalled = bool(alive) or not sightings
        for each in alive:
            with contextlib.suppress(ProcessLookupError):
                os.kill(each.pid, self._signal)
        if len(sightings) < self._ranks:
            self._children.terminate()  # they are being started, and have nothing to lose


def _has_trained(sighting: Sighting) -> bool:
    """Whether a rank that answers requests has come to the end of its training by itself."""
    return sighting.standing.saves_on_request and sighting.standing.phase == "done"
