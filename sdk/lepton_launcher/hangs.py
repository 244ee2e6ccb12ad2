"""When ranks that make no progress hang: a law over what was seen, with no clock of its own.

A limit is learnt from the job itself. It applies at once to ranks that provably stand still:
stopped ones, ones whose interpreter runs no thread, and a gang whose ranks all wait in collectives.
A rank that runs code of its own (an evaluation, a slow read) gets patience instead, and so does
everyone who waits for it. CPU time says nothing: a rank that waits in NCCL spins.
"""

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lepton_launcher.sightings import Sighting

# Under ten, and under ten times a step: with the time that launchers need to see it and to tell
# each other, a hang is found within those.
SHORTEST_LIMIT_SECONDS = 9.0
SHORTEST_PHASE_LIMIT_SECONDS = 60.0
SHORTEST_PATIENCE_SECONDS = 300.0
_STEPS_OF_WARM_UP = 20
_FIRST_STEPS = 3  # compilation, caches, the first batches
_STEPS_KEPT = 1000
_TIMES_THE_P99 = 9.0
_TIMES_THE_LONGEST = 2
_TIMES_THE_LONGEST_PHASE = 5
_PATIENCE_LIMITS = 6
_FROZEN_SECONDS = 3.0
# The launcher itself did not run for so long: nor did its ranks, on a machine that slept.
_OWN_PAUSE_SECONDS = 5.0
_STARTUP = ("starting", "rendezvous")
_ASIDE = ("restoring", "evaluating", "checkpointing")


class Patience(NamedTuple):
    """What the job says about hangs."""

    startup_seconds: float = 1800.0
    timeout_seconds: float | None = None
    """The longest silence once steps are made; None: learnt from them."""


class Hang(NamedTuple):
    """A verdict: which rank, and how it is known. `rank` is the one to look at first."""

    rank: int
    message: str
    silent_seconds: float


class StepTimes:
    """The seconds between finished steps, without the first few."""

    def __init__(self) -> None:
        self._plain: deque[float] = deque(maxlen=_STEPS_KEPT)
        self._all: deque[float] = deque(maxlen=_STEPS_KEPT)
        self._to_skip = _FIRST_STEPS

    def add(self, seconds: float, steps: int, *, mixed: bool) -> None:
        """Take in some steps: mixed with something else than training, or not."""
        skipped = min(steps, self._to_skip)
        self._to_skip -= skipped
        if steps == skipped:
            return
        several = [seconds] if mixed else [seconds / steps] * min(steps - skipped, _STEPS_KEPT)
        self._all.extend(several)
        if not mixed:
            self._plain.extend(several)

    def limit_seconds(self) -> float | None:
        """How long a step may take; None until enough were seen."""
        known = self._plain if len(self._plain) >= _STEPS_OF_WARM_UP else self._all
        if len(known) < _STEPS_OF_WARM_UP:
            return None
        ordered = sorted(known)
        p99 = ordered[math.ceil(0.99 * len(ordered)) - 1]
        longest = ordered[-1]
        return max(SHORTEST_LIMIT_SECONDS, _TIMES_THE_P99 * p99, _TIMES_THE_LONGEST * longest)


class HangWatch:
    """Judges one generation of ranks.

    `sees_all` tells whether these are all the ranks of the gang: if not, ranks that wait may wait
    for one elsewhere, which its own launcher judges.
    """

    def __init__(self, patience: Patience, now: float, *, sees_all: bool) -> None:
        self._patience = patience
        self._sees_all = sees_all
        self._began_at = now
        self._looked_at = now
        self._stopped_since: dict[int, float] = {}
        self._before: Sighting | None = None
        self._steps = StepTimes()
        self._longest_phase: dict[str, float] = {}
        self.waiting: Hang | None = None
        """A hang if the ranks elsewhere wait too; None while these make progress."""

    def observe(self, sightings: Sequence[Sighting], now: float) -> Hang | None:
        """Learn from one look at the ranks, and judge them."""
        if now - self._looked_at > _OWN_PAUSE_SECONDS:
            self._began_at = now
            self._stopped_since.clear()
        self._looked_at = now
        # Collectives make all ranks equally fast: one is enough to learn from.
        first = min((each.rank for each in sightings), default=0)
        for sighting in sightings:
            self._note_stop(sighting, now)
            if sighting.rank == first:
                self._learn(sighting)
        running = [each for each in sightings if each.standing.phase != "done" and not each.is_gone]
        silent = [each for each in running if self._is_silent(each, now)]
        self.waiting = self._all_wait(silent, running, now) if silent else None
        return self._judge(silent, running, now) if silent else None

    # What is learnt

    def _note_stop(self, sighting: Sighting, now: float) -> None:
        if sighting.is_stopped:
            self._stopped_since.setdefault(sighting.rank, now)
        else:
            self._stopped_since.pop(sighting.rank, None)

    def _learn(self, sighting: Sighting) -> None:
        before, self._before = self._before, sighting
        if before is None:
            return
        changes = sighting.standing.phase_changes - before.standing.phase_changes
        if changes and before.standing.phase in _ASIDE:
            self._learn_phase(before.standing.phase, sighting.phase_at - before.phase_at)
        steps = sighting.standing.step - before.standing.step
        if steps > 0 and before.step_at:
            seconds = sighting.step_at - before.step_at
            self._steps.add(seconds, steps, mixed=changes > 0)

    def _learn_phase(self, phase: str, seconds: float) -> None:
        self._longest_phase[phase] = max(seconds, self._longest_phase.get(phase, 0.0))

    # What is judged

    def _is_silent(self, sighting: Sighting, now: float) -> bool:
        return now - self._moved_at(sighting) > self._limit(sighting)

    def _moved_at(self, sighting: Sighting) -> float:
        """When the rank last gave a sign that counts in its phase."""
        if sighting.rank in self._stopped_since:
            return max(self._stopped_since[sighting.rank], self._began_at)
        if sighting.standing.phase == "training":
            # From the start of the phase on: what came before it had a limit of its own.
            return max(sighting.step_at, sighting.phase_at, self._began_at)
        return self._signs_at(sighting)

    def _signs_at(self, sighting: Sighting) -> float:
        signs = (sighting.step_at, sighting.phase_at, sighting.collective_at, sighting.active_at)
        return max(self._began_at, *signs)

    def _limit(self, sighting: Sighting) -> float:
        phase = sighting.standing.phase
        usual = self._usual_limit(phase, sighting)
        if sighting.rank in self._stopped_since:
            return min(usual, SHORTEST_PHASE_LIMIT_SECONDS)
        return usual

    def _usual_limit(self, phase: str, sighting: Sighting) -> float:
        startup = self._patience.startup_seconds
        if phase in _STARTUP:
            # Nobody can say of a script that uses nothing we know whether it works or hangs.
            return startup if sighting.standing.phase_changes else math.inf
        if phase in _ASIDE:
            longest = self._longest_phase.get(phase)
            learnt = startup if longest is None else longest * _TIMES_THE_LONGEST_PHASE
            return max(SHORTEST_PHASE_LIMIT_SECONDS, learnt)
        if self._patience.timeout_seconds is not None:
            return self._patience.timeout_seconds
        learnt_limit = self._steps.limit_seconds()
        return startup if learnt_limit is None else learnt_limit

    def _judge(
        self, silent: Sequence[Sighting], running: Sequence[Sighting], now: float
    ) -> Hang | None:
        """One silent rank holds up all: look for the one that stands still."""
        still = self._standing_still(running, now)
        if still is not None:
            return still
        if self._sees_all and self.waiting is not None:
            return self.waiting
        is_any_busy = not all(_waits(each) for each in running)
        for each in silent:
            if is_any_busy and _waits(each):
                continue
            if self._is_out_of_patience(each, now):
                return self._hang(each, self._how_it_is(each, now), now)
        return None

    def _all_wait(
        self, silent: Sequence[Sighting], running: Sequence[Sighting], now: float
    ) -> Hang | None:
        if not all(_waits(each) for each in running):
            return None
        behind = min(silent, key=lambda each: (each.standing.collectives, each.standing.step))
        return self._hang(behind, "every rank waits in a collective that does not end", now)

    def _standing_still(self, running: Sequence[Sighting], now: float) -> Hang | None:
        for each in running:
            if each.rank in self._stopped_since and self._is_silent(each, now):
                return self._hang(each, "its process is stopped", now)
        for each in running:
            if self._is_silent(each, now) and self._is_frozen(each, now):
                return self._hang(each, "its interpreter runs no other thread", now)
        return None

    def _is_frozen(self, sighting: Sighting, now: float) -> bool:
        if not sighting.alive_at:
            return False
        last_sign = max(sighting.alive_at, sighting.active_at, self._began_at)
        return now - last_sign > max(_FROZEN_SECONDS, self._limit(sighting) / 4)

    def _is_out_of_patience(self, sighting: Sighting, now: float) -> bool:
        if sighting.standing.phase != "training":
            return True
        limit = self._limit(sighting)
        if self._patience.timeout_seconds is not None:
            return True
        patience = max(SHORTEST_PATIENCE_SECONDS, _PATIENCE_LIMITS * limit)
        longest = max(patience, self._patience.startup_seconds)
        return now - self._signs_at(sighting) > patience or now - self._moved_at(sighting) > longest

    def _how_it_is(self, sighting: Sighting, now: float) -> str:
        if _waits(sighting):
            return "it waits for other ranks"
        if now - self._signs_at(sighting) < self._limit(sighting):
            return "it reads or writes without coming to the end of a step"
        return "it neither writes nor reads, nor takes part in collectives"

    def _hang(self, sighting: Sighting, how: str, now: float) -> Hang:
        standing = sighting.standing
        seconds = now - self._moved_at(sighting)
        place = f"after step {standing.step}" if standing.step_at else "before its first step"
        message = (
            f"Rank {sighting.rank} hangs {place}, {standing.phase}: no sign of progress for "
            f"{seconds:.1f} s (limit {self._limit(sighting):.1f} s), and {how}."
        )
        return Hang(sighting.rank, message, seconds)


def _waits(sighting: Sighting) -> bool:
    return bool(sighting.alive_at) and sighting.standing.is_waiting
