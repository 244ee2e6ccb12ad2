"""What the time of an attempt went into: the law by itself, and launchers with real ranks."""

from __future__ import annotations

import json
import math
import time
from collections import defaultdict
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lepton_launcher.board import PHASES, Standing
from lepton_launcher.ledger import CLASSES, Ending, Ledger

if TYPE_CHECKING:
    from .conftest import Pod

SECOND = 1_000_000_000


class Rank:
    """A rank's board on a virtual clock."""

    def __init__(self, now: float) -> None:
        self.now = now
        self.standing = Standing()

    def enter(self, phase: str) -> None:
        before, at = self.standing, int(self.now * SECOND)
        spent = list(before.phase_seconds)
        if before.phase_at:
            spent[PHASES.index(before.phase)] += (at - before.phase_at) / SECOND
        self.standing = before._replace(phase=phase, phase_at=at, phase_seconds=tuple(spent))

    def step(self, step: int, *, reported: bool = True) -> None:
        if self.standing.phase != "training":
            self.enter("training")
        at = int(self.now * SECOND)
        self.standing = self.standing._replace(step=step, step_at=at, is_reported=reported)

    def resume(self, step: int) -> None:
        self.standing = self.standing._replace(resumed_step=step)


def train(ledger: Ledger, rank: Rank, steps: range, *, seconds: float = 1.0) -> None:
    for step in steps:
        rank.now += seconds
        rank.step(step)
        ledger.see(rank.standing, rank.now)


def started(now: float, *, furthest: int = -1, resumed: int = 0) -> tuple[Ledger, Rank]:
    """Two seconds of start and one of restoring, until the first step is under way."""
    ledger, rank = Ledger(now, furthest), Rank(now)
    ledger.begin(now + 1)
    rank.now += 2
    rank.enter("restoring")
    rank.resume(resumed)
    rank.now += 1
    rank.enter("training")
    return ledger, rank


def test_each_phase_is_booked_when_it_is_over() -> None:
    ledger, rank = Ledger(100.0), Rank(100.0)
    ledger.begin(101.0)
    for phase, seconds in [
        ("starting", 4),
        ("rendezvous", 3),
        ("restoring", 1),
        ("training", 14),
        ("evaluating", 10),
        ("checkpointing", 2),
        ("training", 19),
        ("done", 0),
    ]:
        if phase != "starting":
            rank.enter(phase)
        ledger.see(rank.standing, rank.now)
        rank.now += seconds
    assert ledger.seconds() == {
        "start": 4,
        "rendezvous": 3,
        "restoring": 1,
        "productive": 14 + 10 + 19,
        "checkpointing": 2,
    }


@pytest.mark.parametrize(
    ("resumed", "expected"),
    [
        pytest.param(100, {"repeated": 20, "productive": 30}, id="from a checkpoint"),
        pytest.param(120, {"productive": 50}, id="from where it had got to"),
        pytest.param(0, {"repeated": 50}, id="from nothing"),
    ],
)
def test_steps_that_were_done_before_are_repeated(resumed: int, expected: dict[str, float]) -> None:
    ledger, rank = started(0.0, furthest=120, resumed=resumed)
    train(ledger, rank, range(resumed + 1, resumed + 51))
    assert ledger.seconds() == pytest.approx({"start": 2, "restoring": 1, **expected})


def test_a_look_that_meets_many_steps_divides_their_time() -> None:
    ledger, rank = started(0.0, furthest=30)
    rank.now += 50
    rank.step(50)
    ledger.see(rank.standing, rank.now)
    assert ledger.seconds() == pytest.approx(
        {"start": 2, "restoring": 1, "repeated": 30, "productive": 20}
    )


def test_counted_steps_are_never_called_repeated() -> None:
    ledger, rank = started(0.0, furthest=120)
    for step in range(1, 11):
        rank.now += 1
        rank.step(step, reported=False)
        ledger.see(rank.standing, rank.now)
    assert ledger.seconds() == {"start": 2, "restoring": 1, "productive": 10}


@pytest.mark.parametrize(
    ("ending", "rest"),
    [
        pytest.param(Ending(is_well=True), {"productive": 17}, id="ended well"),
        pytest.param(Ending(), {"productive": 10, "repeated": 7}, id="a step that failed"),
        pytest.param(Ending(hung_since=13), {"productive": 10, "hang": 7}, id="hung"),
        pytest.param(Ending(hung_since=-math.inf), {"productive": 10, "hang": 7}, id="partitioned"),
        pytest.param(
            Ending(hung_since=15),
            {"productive": 10, "repeated": 2, "hang": 5},
            id="hung after signs of life",
        ),
    ],
)
def test_the_rest_is_booked_by_how_it_ended(ending: Ending, rest: dict[str, float]) -> None:
    ledger, rank = started(0.0)
    train(ledger, rank, range(1, 11))
    ledger.end(20.0, ending, furthest=10)
    assert ledger.seconds() == pytest.approx({"start": 2, "restoring": 1, **rest})


def test_a_generation_after_another_repeats_what_the_first_had_done() -> None:
    ledger, rank = started(0.0)
    train(ledger, rank, range(1, 11))
    ledger.end(rank.now, Ending(), furthest=10)
    ledger.begin(15.0)
    again = Rank(15.0)
    again.now += 1
    again.enter("restoring")
    again.resume(5)
    again.now += 1
    again.enter("training")
    train(ledger, again, range(6, 16))
    ledger.end(again.now, Ending(is_well=True), furthest=15)
    assert ledger.seconds() == pytest.approx(
        {"start": 2 + 2 + 1, "restoring": 2, "productive": 15, "repeated": 5}
    )


def test_what_gave_no_sign_is_not_guessed_at() -> None:
    ledger = Ledger(0.0)
    ledger.begin(1.0)
    ledger.see(Standing(), 31.0)
    assert ledger.seconds() == {"start": 1}
    ledger.end(31.0, Ending(is_well=True), furthest=-1)
    assert ledger.seconds() == {"start": 1, "unobserved": 30}


EVENTS = st.lists(
    st.tuples(
        st.sampled_from([*PHASES, "step", "counted", "look", "fail", "hang"]),
        st.floats(0, 100),
        st.integers(1, 50),
    ),
    max_size=40,
)


@given(EVENTS, st.integers(-1, 200), st.booleans())
def test_every_second_is_in_one_class_and_no_sum_ever_falls(
    events: list[tuple[str, float, int]],
    furthest: int,
    is_well: bool,  # noqa: FBT001 - hypothesis gives it
) -> None:
    ledger, rank, begun = Ledger(1000.0, furthest), Rank(1000.0), 1000.0
    ledger.begin(rank.now)
    before: dict[str, float] = {}
    for kind, seconds, steps in events:
        rank.now += seconds
        if kind in ("step", "counted"):
            rank.step(rank.standing.step + steps, reported=kind == "step")
        elif kind in ("fail", "hang"):
            ledger.end(rank.now, Ending(hung_since=rank.now - seconds), rank.standing.step)
            rank = Rank(rank.now)
            ledger.begin(rank.now)
        elif kind != "look":
            rank.enter(kind)
        ledger.see(rank.standing, rank.now)
        now = ledger.seconds()
        assert set(now) <= set(CLASSES)
        assert all(now.get(name, 0) >= spent - 0.01 for name, spent in before.items())
        assert sum(now.values()) <= rank.now - begun + 0.1
        before = now
    ledger.end(rank.now + 1, Ending(is_well=is_well), -1)
    assert sum(ledger.seconds().values()) == pytest.approx(rank.now + 1 - begun, abs=0.1)


# Saves every fifth step; its first life fails at step 12, its second stands still at step 22.
# It notes what took how long: on a busy machine longer than it was to.
LIVES = """
import os, pathlib, signal, time
from lepton_launcher import board
life = int(os.environ["LEPTON_GENERATION"])
saved = pathlib.Path(os.environ["LEPTON_OUTPUT_DIR"], "saved")
def note(what, seconds):
    with saved.with_name("spent").open("a") as file:
        print(what, seconds, file=file)
def spend(seconds, what):
    begun = time.monotonic()
    time.sleep(seconds)
    note(what, time.monotonic() - begun)
if life == 0:
    note("begun", time.monotonic())
furthest = (3, 12, 22)[life]
begun = int(saved.read_text()) if saved.exists() else 0
ours = board.of_this_process()
ours.enter("rendezvous")
spend(0.3, "rendezvous")
ours.enter("restoring")
spend(0.4, "restoring")
ours.resume(begun)
ours.enter("training")
for step in range(begun + 1, 31):
    if (step, life) == (13, 0):
        raise RuntimeError("cosmic rays")
    if (step, life) == (23, 1):
        os.kill(os.getpid(), signal.SIGSTOP)
        time.sleep(600)  # it is continued for its stacks, and might do a step before it is killed
    spend(0.05, "repeated" if step <= furthest else "productive")
    ours.finish_step(step)
    if step % 5 == 0:
        ours.enter("checkpointing")
        spend(0.06, "checkpointing")
        saved.write_text(str(step))
        ours.finish_checkpoint(step, 0.06)
        ours.enter("training")
"""


def test_a_pod_s_ledger_is_true_over_three_generations(pod: Pod) -> None:
    options = ("--max-restarts", "3", "--hang-timeout-seconds", "2", "--furthest-step", "3")
    begun = time.monotonic()
    pod.run(pod.script(LIVES), options=options).begin()
    pod.record()
    ended = time.monotonic()
    pod.agree()
    spent: dict[str, Any] = pod.message()["ledger"]
    known: defaultdict[str, float] = defaultdict(float)
    for name, seconds in map(str.split, (pod.output / "spent").read_text().splitlines()):
        known[name] += float(seconds)
    first = known.pop("begun")
    assert sorted(known) == ["checkpointing", "productive", "rendezvous", "repeated", "restoring"]
    found = {name: spent[name] for name in known}
    # What the script cannot tell of: how its lives ended, and how the next ones started.
    unknown = ended - first - sum(known.values()) - spent["hang"]
    assert found == pytest.approx(known, rel=0.2, abs=max(0.4, unknown))
    assert spent["hang"] >= 1.9
    # What is missing is the start of the launcher's own interpreter.
    assert ended - first - 0.5 <= sum(spent.values()) <= ended - begun + 0.1
    progress = json.loads((pod.exchange / "progress.json").read_bytes())
    assert progress["ledger"] == spent


def test_a_script_that_nobody_can_see_into_is_unobserved(pod: Pod) -> None:
    pod.run(pod.script("import time; time.sleep(1)")).begin().agree()
    spent = pod.message()["ledger"]
    assert set(spent) == {"start", "unobserved"}
    assert spent["unobserved"] >= 1
