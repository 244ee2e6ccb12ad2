"""The law of hangs, on a virtual clock: what is found, how soon, and what is left in peace."""

from __future__ import annotations

import bisect
import itertools
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

from lepton_launcher.board import Standing
from lepton_launcher.hangs import Hang, HangWatch, Patience
from lepton_launcher.sightings import Sighting

if TYPE_CHECKING:
    from collections.abc import Iterable

LOOK_SECONDS = 0.25
NEVER = float("inf")
SECOND = 1_000_000_000


@dataclass
class Script:
    """One rank: when it ends its steps, and what can be seen of it meanwhile. Times in seconds."""

    steps: list[float] = field(default_factory=list)
    stopped_at: float = NEVER
    frozen_at: float = NEVER
    waits_from: float = NEVER
    ends_at: float = NEVER
    writes: list[float] = field(default_factory=list)
    phases: list[tuple[float, str]] = field(default_factory=lambda: [(0.0, "starting")])
    has_pulse: bool = True
    collectives: int = 0

    def sighting(self, rank: int, now: float) -> Sighting:
        running_until = min(now, self.stopped_at, self.frozen_at, self.ends_at)
        done = bisect.bisect_right(self.steps, running_until)
        step_at = self.steps[done - 1] if done else 0.0
        past = [each for each in self.phases if each[0] <= running_until]
        phase_at, phase = past[-1]
        if done and phase == "starting":
            phase_at, phase = self.steps[0], "training"
        standing = Standing(
            phase=phase,
            phase_at=int(phase_at * SECOND),
            phase_changes=len(past) - 1 + bool(done),
            step=done,
            step_at=int(step_at * SECOND),
            alive_at=int(running_until * SECOND) if self.has_pulse and done else 0,
            is_waiting=now >= self.waits_from,
            collectives=self.collectives,
        )
        return Sighting(
            rank=rank,
            standing=standing,
            is_stopped=now >= self.stopped_at,
            is_gone=now >= self.ends_at,
            active_at=max((each for each in self.writes if each <= running_until), default=0.0),
        )


def times(*durations: float, begin: float = 0.0) -> list[float]:
    return list(itertools.accumulate(durations, initial=begin))[1:]


def verdict(
    scripts: Iterable[Script],
    until: float,
    *,
    patience: Patience | None = None,
    sees_all: bool = True,
    pauses: tuple[tuple[float, float], ...] = (),
) -> tuple[float, Hang] | None:
    """The first verdict and its time; `pauses` are when the launcher itself did not run."""
    watch = HangWatch(patience or Patience(), 0.0, sees_all=sees_all)
    ranks = list(enumerate(scripts))
    now = 0.0
    while now < until:
        now += LOOK_SECONDS
        if any(begin <= now < end for begin, end in pauses):
            continue
        found = watch.observe([script.sighting(rank, now) for rank, script in ranks], now)
        if found:
            return now, found
    return None


EVEN = times(*[0.2] * 200)
STUCK_AT = EVEN[-1]
SLOW = times(*[5.0] * 60)


@pytest.mark.parametrize(
    ("scripts", "fault_at", "most_seconds", "rank", "said"),
    [
        pytest.param(
            [Script(EVEN, waits_from=STUCK_AT), Script(EVEN, stopped_at=STUCK_AT)],
            STUCK_AT, 10, 1, "its process is stopped", id="a rank is stopped",
        ),
        pytest.param(
            [Script(EVEN, waits_from=STUCK_AT), Script(EVEN, frozen_at=STUCK_AT)],
            STUCK_AT, 10, 1, "runs no other thread", id="a loop holds the interpreter's lock",
        ),
        pytest.param(
            [Script(EVEN, waits_from=STUCK_AT, collectives=400),
             Script(EVEN, waits_from=STUCK_AT, collectives=399)],
            STUCK_AT, 10, 1, "every rank waits in a collective", id="a rank skips a collective",
        ),
        pytest.param(
            [Script(EVEN, waits_from=STUCK_AT), Script([*EVEN, 40.1], ends_at=STUCK_AT + 0.1)],
            STUCK_AT, 10, 0, "every rank waits in a collective", id="a rank has left the others",
        ),
        pytest.param(
            [Script(SLOW, waits_from=SLOW[-1]), Script(SLOW, stopped_at=SLOW[-1])],
            SLOW[-1], 50, 1, "its process is stopped", id="ten times a long step",
        ),
        pytest.param(
            [Script(EVEN, waits_from=STUCK_AT), Script(EVEN)],
            STUCK_AT, 301, 1, "neither writes nor reads", id="a reader that waits for ever",
        ),
        pytest.param(
            [Script(EVEN, writes=[float(second) for second in range(9000)])],
            STUCK_AT, 1801, 0, "reads or writes without", id="a rank that only writes",
        ),
        pytest.param(
            [Script(EVEN, has_pulse=False)],
            STUCK_AT, 301, 0, "neither writes nor reads", id="steps from a file, then nothing",
        ),
        pytest.param(
            [Script(phases=[(0, "starting"), (5, "rendezvous")])],
            5, 1801, 0, "before its first step, rendezvous", id="ranks that never meet",
        ),
        pytest.param(
            [Script(phases=[(0, "starting")], stopped_at=5)],
            5, 61, 0, "its process is stopped", id="stopped before anything is known",
        ),
        pytest.param(
            [Script(EVEN, phases=[(0, "starting"), (30.1, "evaluating"), (32.1, "training"),
                                  (STUCK_AT, "evaluating")])],
            STUCK_AT, 61, 0, "evaluating", id="an evaluation of 2 s that never ends",
        ),
    ],
)  # fmt: skip
def test_a_hang_is_found(
    scripts: list[Script], fault_at: float, most_seconds: float, rank: int, said: str
) -> None:
    found = verdict(scripts, fault_at + 3000)
    assert found is not None
    at, hang = found
    assert fault_at < at <= fault_at + most_seconds
    assert hang.rank == rank
    assert said in hang.message


EVALUATED = times(*[60.2 if step % 50 == 0 else 0.2 for step in range(1, 301)])
RARELY_EVALUATED = times(*[60.2 if step % 500 == 0 else 0.2 for step in range(1, 2001)])
STALLED_ONCE = times(*[20.2 if step == 900 else 0.2 for step in range(1, 1200)])
SLOW_START = times(90.0, *[0.2] * 300)
UNEVEN = times(90.0, *[60.2 if n % 50 == 0 else 20.2 if n == 333 else 0.2 for n in range(2, 600)])


def told(steps: list[float], phase: str) -> list[tuple[float, str]]:
    """The phase begins where a long step does, and ends with it."""
    phases = [(0.0, "starting")]
    for before, after in itertools.pairwise(steps):
        if after - before > 30:
            phases += [(before + 0.1, phase), (after - 0.1, "training")]
    return phases


@pytest.mark.parametrize(
    "scripts",
    [
        pytest.param([Script(SLOW_START)] * 3, id="a first step of 90 s"),
        pytest.param([Script(EVALUATED)] * 3, id="an evaluation of 60 s every 50 steps"),
        pytest.param([Script(RARELY_EVALUATED)] * 3, id="one every 500 steps"),
        pytest.param(
            [Script(EVALUATED, phases=told(EVALUATED, "evaluating"))] * 3, id="it says so"
        ),
        pytest.param(
            [Script(EVALUATED), Script(EVALUATED, waits_from=0)], id="rank 0 alone evaluates"
        ),
        pytest.param(
            [Script(RARELY_EVALUATED, phases=told(RARELY_EVALUATED, "checkpointing"))],
            id="checkpoints of 60 s",
        ),
        pytest.param([Script(STALLED_ONCE)] * 3, id="one data stall of 20 s"),
        pytest.param(
            [Script(STALLED_ONCE, waits_from=0), Script(STALLED_ONCE)], id="one rank's data stall"
        ),
        pytest.param([Script(STALLED_ONCE, has_pulse=False)], id="a stall, and steps from a file"),
        pytest.param([Script(UNEVEN)] * 3, id="all of it"),
        pytest.param(
            [Script([*EVEN, 1700.0], waits_from=STUCK_AT),
             Script([*EVEN, 1700.0], writes=[float(second) for second in range(1700)])],
            id="one rank writes for minutes, the other waits",
        ),
        pytest.param([Script()] * 2, id="a script that uses nothing we know"),
        pytest.param(
            [Script(writes=[float(second) for second in range(0, 9000, 600)],
                    phases=[(0, "starting"), (1, "rendezvous")])],
            id="no steps, a line every 10 minutes",
        ),
    ],
)  # fmt: skip
def test_a_healthy_job_is_left_in_peace(scripts: list[Script]) -> None:
    until = scripts[0].steps[-1] if scripts[0].steps else 9000
    assert verdict(scripts, until) is None


def test_ranks_that_are_done_may_take_their_time_to_leave() -> None:
    done = [Script(EVEN, phases=[(0, "starting"), (STUCK_AT, "done")])]
    assert verdict(done, 5000) is None


def test_the_user_s_own_timeout_is_taken_by_its_word() -> None:
    found = verdict([Script(STALLED_ONCE)], 400, patience=Patience(timeout_seconds=15))
    assert found is not None
    assert 0 < found[0] - (STALLED_ONCE[898] + 15) < 1


@pytest.mark.parametrize(
    ("script", "begins_at"),
    [
        pytest.param(
            Script([95.0], phases=[(0, "starting"), (5, "restoring"), (90, "training")]),
            95, id="the first step after a long restore",
        ),
        pytest.param(
            Script([*EVEN, 145.0], phases=[(0, "starting"), (41, "evaluating"), (140, "training")]),
            145, id="the first step after a long evaluation",
        ),
    ],
)  # fmt: skip
def test_what_came_before_a_step_is_not_held_against_it(script: Script, begins_at: float) -> None:
    found = verdict([script], 900, patience=Patience(timeout_seconds=15))
    assert found is not None
    assert 0 < found[0] - (begins_at + 15) < 1


def test_startup_ends_in_time() -> None:
    late = [Script(phases=[(0, "starting"), (5, "rendezvous")])]
    found = verdict(late, 900, patience=Patience(startup_seconds=120))
    assert found is not None
    assert 125 < found[0] < 126


def test_one_pod_of_several_leaves_those_who_wait_to_the_others() -> None:
    waiting = [Script(EVEN, waits_from=STUCK_AT)]
    assert verdict(waiting, STUCK_AT + 290, sees_all=False) is None
    assert verdict(waiting, STUCK_AT + 310, sees_all=False) is not None


def test_a_machine_that_slept_blames_nobody() -> None:
    after = times(*[0.2] * 200, begin=STUCK_AT + 3600)
    scripts = [Script([*EVEN, *after])]
    assert verdict(scripts, after[-1], pauses=((STUCK_AT, STUCK_AT + 3599.9),)) is None


def test_cpu_time_is_not_in_the_law() -> None:
    assert not {"cpu", "utime", "seconds_of_cpu"} & set(Sighting._fields)
