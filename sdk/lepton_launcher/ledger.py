"""What the time of one attempt went into, in one pod: a law over what rank 0 tells, with no clock.

A second is booked when the step or the phase that it belongs to is over, so no sum ever falls. What
is left when the ranks have ended is booked by how they ended. The classes then add up to the time
from the launcher's start to the end of the last generation: `start` is what no other class has.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from lepton_launcher.board import PHASES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lepton_launcher.board import Standing

START = "start"
RENDEZVOUS = "rendezvous"
RESTORING = "restoring"
PRODUCTIVE = "productive"
REPEATED = "repeated"
CHECKPOINTING = "checkpointing"
HANG = "hang"
UNOBSERVED = "unobserved"
CLASSES = (
    *(START, RENDEZVOUS, RESTORING, PRODUCTIVE, REPEATED, CHECKPOINTING, HANG),
    UNOBSERVED,
)

_SECOND = 1_000_000_000
_DIGITS = 3
_WORK = "work"  # productive, or repeated: that depends on the step
_CLASS_OF_PHASE = {
    "starting": START,
    "rendezvous": RENDEZVOUS,
    "restoring": RESTORING,
    "training": _WORK,
    "evaluating": _WORK,
    "checkpointing": CHECKPOINTING,
    "done": _WORK,
}


class Ending(NamedTuple):
    """How a generation of ranks ended."""

    is_well: bool = False
    hung_since: float = math.inf
    """Since when its ranks had stood still, monotonic seconds; infinity if they had not."""


class Earlier(NamedTuple):
    """The whole ledger of an attempt that this pod was in before, since its end left no record."""

    attempt: int
    ledger: dict[str, float]


class Ledger:
    """The time of one attempt, over all generations of its ranks. Times are monotonic seconds.

    `furthest` is the furthest step that attempts before this one reported or saved; -1 without one.
    """

    def __init__(self, now: float, furthest: int = -1, earlier: Sequence[Earlier] = ()) -> None:
        self.earlier = earlier
        self._ended: dict[str, float] = {}
        self._ended_at = now
        self._furthest = furthest
        self._present: _Generation | None = None

    def begin(self, now: float) -> None:
        """A generation of ranks begins; the time before it went into starting it."""
        _add(self._ended, {START: now - self._ended_at})
        self._ended_at = now
        self._present = _Generation(now, self._furthest)

    def see(self, standing: Standing, now: float) -> None:
        """Learn where the first rank of the pod stands."""
        if self._present is not None:
            self._present.see(standing, now)

    def end(self, now: float, ending: Ending, furthest: int) -> None:
        """The generation has ended, having got as far as `furthest` (-1: nobody knows)."""
        if self._present is not None:
            _add(self._ended, self._present.whole(now, ending))
            self._present = None
        self._ended_at = now
        self._furthest = max(self._furthest, furthest)

    def seconds(self) -> dict[str, float]:
        """What is booked so far, by class."""
        sums = dict(self._ended)
        if self._present is not None:
            _add(sums, self._present.booked())
        return {name: round(sums[name], _DIGITS) for name in CLASSES if sums.get(name, 0.0) > 0}


class _Generation:
    def __init__(self, began: float, furthest: int) -> None:
        self._began = began
        self._furthest = furthest
        self._repeated = 0.0
        self._seen_step: int | None = None
        self._seen_work = 0.0
        self._phase = PHASES[0]
        self._signed_at = began
        self._has_signs = False
        self._phases: dict[str, float] = {}

    def see(self, standing: Standing, now: float) -> None:
        # A script may write anything to its own board.
        signed_at = min(max(standing.step_at, standing.phase_at) / _SECOND, now)
        self._phase = standing.phase
        if signed_at <= self._signed_at:
            return
        self._has_signs = True
        self._signed_at = signed_at
        self._phases = _phases(standing, signed_at, signed_at - self._began)
        self._tell_repeated(standing)

    def _tell_repeated(self, standing: Standing) -> None:
        """Part the work since the last sign; what is no step of its own goes with the last one."""
        work = self._phases.get(_WORK, 0.0)
        before = standing.resumed_step if self._seen_step is None else self._seen_step
        share = float(0 <= before < self._furthest)
        if standing.step > 0:
            # Only steps that the script reports are comparable between processes.
            share = self._share(max(before, 0), standing.step) if standing.is_reported else 0.0
        self._repeated += share * max(0.0, work - self._seen_work)
        self._seen_work = work

    def _share(self, before: int, step: int) -> float:
        """How much of the steps between these two was done before."""
        self._seen_step = step
        if step <= before:
            return float(step < self._furthest)
        return max(0, min(step, self._furthest) - before) / (step - before)

    def booked(self) -> dict[str, float]:
        """Where each second up to the last sign went."""
        classes = {name: spent for name, spent in self._phases.items() if name != _WORK}
        work = self._phases.get(_WORK, 0.0)
        repeated = min(self._repeated, work)
        classes.update({PRODUCTIVE: work - repeated, REPEATED: repeated})
        classes[START] = max(0.0, self._signed_at - self._began - sum(self._phases.values()))
        return classes

    def whole(self, now: float, ending: Ending) -> dict[str, float]:
        """Where each second went, now that all of it is over."""
        rest = max(0.0, now - self._signed_at)
        if not self._has_signs:
            return {UNOBSERVED: rest}
        classes = self.booked()
        hung = min(rest, max(0.0, now - ending.hung_since))
        _add(classes, {HANG: hung, self._class_of_rest(ending): rest - hung})
        return classes

    def _class_of_rest(self, ending: Ending) -> str:
        name = _CLASS_OF_PHASE[self._phase]
        if name != _WORK:
            return name
        # The step that was under way when the ranks failed is to be done again.
        is_again = self._seen_step is not None and self._seen_step < self._furthest
        return PRODUCTIVE if ending.is_well and not is_again else REPEATED


def _phases(standing: Standing, until: float, whole: float) -> dict[str, float]:
    """The seconds of each phase but the first, up to then; never more than there were."""
    classes: dict[str, float] = {}
    for phase, spent in zip(PHASES, standing.phase_seconds):
        _add(classes, {_CLASS_OF_PHASE[phase]: spent})
    here = until - standing.phase_at / _SECOND if standing.phase_at else 0.0
    _add(classes, {_CLASS_OF_PHASE[standing.phase]: max(0.0, here)})
    classes.pop(START, None)
    told = sum(classes.values())
    scale = min(1.0, whole / told) if told > 0 else 1.0
    return {name: spent * scale for name, spent in classes.items()}


def _add(sums: dict[str, float], more: dict[str, float]) -> None:
    for name, spent in more.items():
        sums[name] = sums.get(name, 0.0) + spent
