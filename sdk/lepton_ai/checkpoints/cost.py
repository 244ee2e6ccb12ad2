"""Measures what a save costs, on the clock of whoever asks."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from statistics import median

from lepton_ai.checkpoints.interval import SaveCost

STEPS_REMEMBERED = 50
SAVES_REMEMBERED = 5


class SaveMeter:
    """Compares the steps beside a save with those between saves; medians of the last few saves.

    A pause for an evaluation or for data is in no median, so it counts neither here nor there.
    All times are seconds of one monotonic clock.
    """

    def __init__(self) -> None:
        self._step_began: float | None = None
        self._between: deque[float] = deque(maxlen=STEPS_REMEMBERED)
        self._beside: list[float] = []
        self._save_began: float | None = None
        self._stall = 0.0
        self._saves: deque[SaveCost] = deque(maxlen=SAVES_REMEMBERED)

    def step_began(self, now: float) -> None:
        self._step_began = now

    def step_ended(self, now: float) -> None:
        if self._step_began is None:
            return
        steps = self._between if self._save_began is None else self._beside
        steps.append(now - self._step_began)

    def save_began(self, now: float, stall_seconds: float) -> None:
        self._save_began, self._stall = now, stall_seconds
        self._beside = []

    def save_ended(self, duration_seconds: float) -> None:
        """Count a save that succeeded; it was noticed at the end of a step."""
        slower = _median(self._beside) - _median(self._between)
        slowdown = max(0.0, slower) * len(self._beside) if self._between else 0.0
        self._saves.append(SaveCost(self._stall, slowdown, duration_seconds))
        self._save_began = None

    def save_failed(self) -> None:
        self._save_began = None

    def cost(self) -> SaveCost | None:
        """Return the medians of the last saves; None before the first."""
        if not self._saves:
            return None
        return SaveCost(
            _median(each.stall_seconds for each in self._saves),
            _median(each.slowdown_seconds for each in self._saves),
            _median(each.duration_seconds for each in self._saves),
        )


def _median(seconds: Iterable[float]) -> float:
    known = list(seconds)
    return median(known) if known else 0.0
