"""Ranks that fail or hang are started again in their pod: the budget, and real processes."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import pytest

from lepton_launcher.records import with_spent
from lepton_launcher.restarts import Final, Restarts

from .conftest import wait_until

if TYPE_CHECKING:
    from .conftest import Pod

FAILED = {"outcome": "Failed", "reason": "UserError", "message": "boom", "rank": 0, "exitCode": 1}

# Resumes from what it saved, and dies by an accident in each of its first two lives.
RESUMES = """
import os, pathlib, signal, sys, time
from lepton_launcher import board
saved = pathlib.Path(os.environ["LEPTON_OUTPUT_DIR"], "saved")
begun = int(saved.read_text()) if saved.exists() else 0
print("life", os.environ["LEPTON_GENERATION"], "from", begun, flush=True)
ours = board.of_this_process()
ours.resume(begun)
for step in range(begun + 1, 31):
    time.sleep(0.005)
    ours.finish_step(step)
    if step % 5 == 0:
        saved.write_text(str(step))
        ours.finish_checkpoint(step, 0.001)
    if step == begun + 12 and begun < 20:
        {accident}
"""
ACCIDENTS = {
    "killed": "os.kill(os.getpid(), signal.SIGKILL)",
    "an exception": "raise RuntimeError('cosmic rays')",
    "stopped": "os.kill(os.getpid(), signal.SIGSTOP); time.sleep(600)",
}


def decide(budget: int, *furthest: int) -> list[float | None]:
    restarts = Restarts(budget)
    return [restarts.delay_seconds(n, FAILED, step) for n, step in enumerate(furthest)]


def test_a_budget_of_none_restarts_nothing() -> None:
    assert decide(0, 100) == [None]


def test_restarts_without_progress_are_counted_and_wait_longer_each_time() -> None:
    assert decide(4, -1, -1, -1, -1, -1) == [0, 1, 2, 4, None]


def test_restarts_that_got_further_are_free() -> None:
    assert decide(1, 10, 20, 30, 40, 40, 40) == [0, 0, 0, 0, 0, None]


def test_progress_forgives_the_delay() -> None:
    assert decide(9, -1, -1, 10, 10, 10) == [0, 1, 0, 0, 1]


def test_a_record_tells_of_the_generations_before_it() -> None:
    restarts = Restarts(3)
    assert restarts.delay_seconds(0, FAILED, 150) == 0
    assert restarts.delay_seconds(1, FAILED, -1) == 0
    record = with_spent({**FAILED, "furthest": 20}, restarts.spent)
    assert (record["furthest"], record["restarts"]) == (150, 1)
    assert with_spent({**FAILED, "furthest": 170}, restarts.spent)["furthest"] == 170
    assert with_spent(FAILED, Restarts(3).spent) == FAILED


def test_what_earlier_attempts_reached_is_no_progress() -> None:
    restarts = Restarts(1, furthest=50)
    delays = [restarts.delay_seconds(n, FAILED, at) for n, at in enumerate((60, 60, 60))]
    assert delays == [0, 0, None]
    assert Restarts(1, furthest=50).delay_seconds(0, FAILED, 50) == 0
    assert Restarts(0, furthest=50).delay_seconds(0, FAILED, 60) is None


@pytest.mark.parametrize(
    ("changed", "is_same"),
    [
        pytest.param({}, True, id="the same"),
        pytest.param({"step": 6, "message": "boom at 12:01"}, True, id="other figures, a step on"),
        pytest.param({"step": 9}, False, id="at another step"),
        pytest.param({"exitCode": 2}, False, id="another exit code"),
        pytest.param({"message": "bang"}, False, id="another error"),
    ],
)
def test_the_same_error_at_the_same_step_is_for_the_operator_to_judge(
    *, changed: dict[str, Any], is_same: bool
) -> None:
    first = {**FAILED, "step": 5, "message": "boom at 11:59"}
    restarts = Restarts(9)
    assert restarts.delay_seconds(0, first, -1) == 0
    delay = restarts.delay_seconds(1, {**first, **changed}, -1)
    assert (delay is None, restarts.spent.get("repeated", False)) == (is_same, is_same)


@pytest.mark.parametrize(
    ("end", "is_final"),
    [
        pytest.param({"exitCode": 42}, True, id="an exit code of a rule's"),
        pytest.param({"exitCode": 43}, False, id="another exit code"),
        pytest.param({"signal": 9}, True, id="a signal of a rule's"),
        pytest.param({"signal": 11}, True, id="a signal by the exit code that its pod has"),
        pytest.param({"signal": 6}, False, id="another signal"),
        pytest.param({"exitCode": 137}, True, id="a shell's way to tell of a signal"),
        pytest.param({"reason": "Hang"}, False, id="a hang, whose pod exits 1"),
    ],
)
def test_ends_that_a_rule_is_about_are_for_the_operator(
    *, end: dict[str, Any], is_final: bool
) -> None:
    restarts = Restarts(9, final=Final(frozenset({42, 139}), frozenset({9})))
    record = {"outcome": "Failed", "reason": "UserError", "rank": 0, **end}
    assert (restarts.delay_seconds(0, record, -1) is None) == is_final


def test_without_steps_errors_cannot_be_told_apart() -> None:
    restarts = Restarts(9)
    assert restarts.delay_seconds(0, FAILED, -1) == 0
    assert restarts.delay_seconds(1, FAILED, -1) == 1
    assert restarts.spent == {"restarts": 2}


def test_the_delay_is_bounded() -> None:
    assert max(filter(None, decide(20, *[-1] * 20))) == 60


@pytest.mark.parametrize(
    "record",
    [
        {"outcome": "Succeeded", "reason": "Succeeded"},
        {"outcome": "Failed", "reason": "Terminated", "message": "Asked to leave.", "signal": 15},
        {"outcome": "Failed", "reason": "UserError", "message": "There is no entrypoint."},
    ],
    ids=["a success", "asked to leave", "no rank's failure"],
)
def test_only_what_a_rank_did_is_tried_again(record: dict[str, Any]) -> None:
    assert Restarts(3).delay_seconds(0, record, 5) is None


@pytest.mark.parametrize("accident", ACCIDENTS.values(), ids=ACCIDENTS.keys())
def test_ranks_go_on_from_their_checkpoint_in_the_same_pod(pod: Pod, accident: str) -> None:
    options = ("--max-restarts", "1", "--hang-timeout-seconds", "1.5")
    pod.run(pod.script(RESUMES.replace("{accident}", accident)), options=options).begin().agree()
    message = pod.message()
    assert (message["outcome"], message["step"], message["resumedFrom"]) == ("Succeeded", 30, 20)
    assert "restarts" not in message
    assert pod.stdout.decode().splitlines() == ["life 0 from 0", "life 1 from 10", "life 2 from 20"]
    progress = json.loads((pod.exchange / "progress.json").read_bytes())
    assert progress["generation"] == 2
    assert [each["step"] for each in progress["restarts"]] == [12, 22]
    assert [each["generation"] for each in progress["restarts"]] == [0, 1]


def test_an_error_that_comes_again_ends_the_pod_with_what_was_spent(pod: Pod) -> None:
    script = pod.script("print('life', flush=True); raise ValueError('the same again')")
    pod.run(script, options=("--max-restarts", "2")).begin().agree()
    message = pod.message()
    assert (message["message"], message["restarts"]) == ("ValueError: the same again", 2)
    assert pod.stdout == b"life\n" * 3
    assert pod.wait() == 1


def test_an_end_that_a_rule_is_about_ends_the_pod_at_once(pod: Pod) -> None:
    script = pod.script("import sys; print('life', flush=True); sys.exit(42)")
    options = ("--max-restarts", "3", "--final-exit-codes=3,42", "--final-signals=9")
    pod.run(script, options=options).begin().agree()
    assert "restarts" not in pod.message()
    assert (pod.stdout, pod.wait()) == (b"life\n", 42)


def test_nothing_is_started_again_after_a_request_to_leave(pod: Pod) -> None:
    script = pod.script("print('life', flush=True); raise ValueError('the same again')")
    pod.run(script, options=("--max-restarts", "9")).begin()
    wait_until(lambda: pod.stdout.count(b"life") == 4, "a delay of 4 s")
    begun = time.monotonic()
    pod.ask_to_leave()
    pod.agree().wait()
    assert time.monotonic() - begun < 3.5
    assert pod.stdout.count(b"life") == 4
