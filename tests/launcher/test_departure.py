"""Pods that are asked to leave: by SIGTERM or in their annotation, with a save or a signal."""

from __future__ import annotations

import json
import signal
import time
from typing import TYPE_CHECKING

import pytest

from .conftest import ATTEMPT, wait_until

if TYPE_CHECKING:
    from .conftest import Pod

# What the SDK's Checkpointer does about requests, without torch.
SAVES = """
import json, os, pathlib, sys, time
from lepton_launcher import board
output, ours = pathlib.Path(os.environ["LEPTON_OUTPUT_DIR"]), board.of_this_process()
save = pathlib.Path(os.environ["LEPTON_EXCHANGE"], "save")
ours.offer_to_save()
(output / "begun").write_text("yes")
begun, seen = {begun}, 0
for step in range(begun + 1, begun + {steps} + 1):
    time.sleep({step_seconds})
    ours.finish_step(step - begun, reported=False)  # as torch's optimizer hook does
    time.sleep({step_seconds})
    ours.finish_step(step)
    if step == begun + 5:
        (output / "five").write_text("done")
    seen = seen or (save.exists() and step)
    if seen and step >= json.loads(save.read_text())["step"]:
        (output / "seen").write_text(str(seen))
        ours.enter("checkpointing")
        {saving}
        ours.finish_checkpoint(step, 0.01)
        ours.leave()
        {then}
        sys.exit(0)
ours.enter("done")
(output / "trained").write_text("done")
time.sleep(1)
"""


def saves(
    pod: Pod,
    *,
    begun: int = 0,
    steps: int = 10_000,
    step_seconds: float = 0.025,
    saving: str = "pass",
    then: str = "pass",
) -> str:
    facts: dict[str, object] = {"begun": begun, "steps": steps, "step_seconds": step_seconds}
    facts |= {"saving": saving, "then": then}
    source = SAVES
    for name, value in facts.items():
        source = source.replace(f"{{{name}}}", str(value))
    return pod.script(source)


def by_signal(pod: Pod) -> None:
    pod.ask_to_leave()


def by_annotation(pod: Pod) -> None:
    pod.attempt_file.write_text(json.dumps({**ATTEMPT, "leave": True}))


@pytest.mark.parametrize("ask", [by_signal, by_annotation])
def test_ranks_that_save_on_request_leave_after_the_agreed_step(pod: Pod, ask: object) -> None:
    assert callable(ask)
    pod.run(saves(pod)).begin()
    pod.wait_for_file("five")
    ask(pod)
    pod.agree()
    message = pod.message()
    agreed = json.loads((pod.exchange / "save").read_bytes())["step"]
    assert agreed >= 7
    # On a busy machine the rank may learn it after that step.
    step = max(agreed, int((pod.output / "seen").read_text()))
    assert (message["outcome"], message["reason"], message["step"]) == ("Failed", "Saved", step)
    assert message["message"] == f"Saved at step {step} and left, as it was asked to."
    assert message["furthest"] == step
    assert pod.wait() == 75


def test_ctrl_c_on_a_laptop_has_the_ranks_save_first(pod: Pod) -> None:
    pod.run(saves(pod), options=("--alone",))
    pod.wait_for_file("five")
    pod.process.send_signal(signal.SIGINT)
    message = pod.message()
    assert message["reason"] == "Saved"
    assert 7 <= message["step"] < 100
    assert pod.wait() == 75


def test_a_run_that_was_resumed_far_on_saves_as_soon(pod: Pod) -> None:
    pod.run(saves(pod, begun=1_000_000, step_seconds=0.3)).begin()
    pod.wait_for_file("five")
    pod.ask_to_leave()
    pod.agree()
    assert 1_000_007 <= pod.message()["step"] < 1_000_012


def test_who_leaves_without_having_been_asked_here_was_asked_elsewhere(pod: Pod) -> None:
    pod.run(saves(pod)).begin()
    pod.put("save", {"step": 8})
    pod.agree()
    message = pod.message()
    assert (message["reason"], message["step"]) == ("Saved", 8)


@pytest.mark.parametrize("then", ["time.sleep(600)", "os.abort()"])
def test_what_a_script_does_after_it_has_saved_takes_nothing_away(pod: Pod, then: str) -> None:
    pod.run(saves(pod, then=then), options=("--grace-seconds", "600")).begin()
    pod.wait_for_file("five")
    pod.ask_to_leave()
    pod.agree()
    assert pod.message()["reason"] == "Saved"


def test_a_training_that_came_to_its_end_meanwhile_is_a_success(pod: Pod) -> None:
    pod.run(saves(pod, steps=6)).begin()
    pod.wait_for_file("trained")
    time.sleep(0.5)
    pod.ask_to_leave()
    pod.agree()
    assert pod.message()["outcome"] == "Succeeded"
    assert pod.wait() == 0


def test_a_save_that_fails_is_told(pod: Pod) -> None:
    pod.run(saves(pod, saving="raise OSError('no space left')")).begin()
    pod.wait_for_file("five")
    pod.ask_to_leave()
    pod.agree()
    message = pod.message()
    assert message["reason"] == "Terminated"
    assert message["message"] == ("Asked to leave, rank 0 did not end well: OSError: no space left")


def test_a_step_that_takes_too_long_is_cut_off_in_time_to_say_so(pod: Pod) -> None:
    script = saves(pod, saving="time.sleep(600)")
    pod.run(script, options=("--grace-seconds", "12")).begin()
    pod.wait_for_file("five")
    asked = time.monotonic()
    pod.ask_to_leave()
    pod.agree()
    assert "killed after 9 s of grace" in pod.message()["message"]
    assert time.monotonic() - asked < 12


def test_ranks_with_nothing_to_save_yet_are_not_asked_to(pod: Pod) -> None:
    pod.run(saves(pod, step_seconds=60)).begin()
    pod.wait_for_file("begun")
    asked = time.monotonic()
    pod.ask_to_leave()
    pod.agree()
    assert pod.message()["reason"] == "Terminated"
    assert time.monotonic() - asked < 10


PLAIN = """
import os, pathlib, signal, subprocess, sys, time
output = pathlib.Path(os.environ["LEPTON_OUTPUT_DIR"])
worker = subprocess.Popen(["sleep", "600"])
def save(*_):
    kept = worker.poll() is None
    (output / "saved").write_text(f"{kept} {os.environ['LEPTON_GRACE_SECONDS']}")
    sys.exit(0)
signal.signal(signal.{signal}, save)
(output / "begun").write_text("yes")
time.sleep(600)
"""


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGUSR1", "SIGUSR2", "SIGHUP"])
@pytest.mark.parametrize("ask", [by_signal, by_annotation])
def test_a_plain_script_gets_the_signal_of_its_choice_and_knows_its_time(
    pod: Pod, ask: object, name: str
) -> None:
    assert callable(ask)
    options = ("--leave-signal", name, "--grace-seconds", "40")
    pod.run(pod.script(PLAIN.replace("{signal}", name)), options=options).begin()
    pod.wait_for_file("begun")
    ask(pod)
    pod.agree()
    # Whether it saved, and what, nobody but the script knows.
    assert pod.message()["reason"] == "Terminated"
    assert (pod.output / "saved").read_text() == "True 37"


@pytest.mark.parametrize("waits", [False, True], ids=["at once", "while it waits"])
def test_an_annotation_that_asks_before_the_ranks_have_begun_starts_none(
    pod: Pod, *, waits: bool
) -> None:
    script = pod.script("raise AssertionError")
    if waits:
        pod.put("start.json", {"found": None})
        pod.run(script)
        wait_until(lambda: b"waiting for the operator" in pod.stderr, "what it waits for")
        pod.begin(leave=True)
    else:
        pod.begin(leave=True).run(script)
    message = pod.agree().message()
    assert (message["reason"], pod.wait()) == ("Terminated", 143)
    assert "before the attempt had begun" in message["message"]
