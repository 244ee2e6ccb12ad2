"""Ranks that hang are found, their stacks are gathered, and they are ended."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from lepton_launcher.hangs import SHORTEST_LIMIT_SECONDS

from .conftest import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

    from .conftest import Pod

SHORT = ("--hang-timeout-seconds", "1.5")
STEPS_THEN = """
import os, pathlib, re, signal, time
from lepton_launcher import board
ours = board.of_this_process()
def train():
    for step in range(1, 31):
        time.sleep(0.01)
        ours.finish_step(step)
    pathlib.Path(os.environ["LEPTON_OUTPUT_DIR"], "stuck").write_text(str(os.getpid()))
    {stuck}
train()
"""
STUCK = {
    "stopped": "os.kill(os.getpid(), signal.SIGSTOP); time.sleep(600)",
    "asleep": "time.sleep(600)",
    "in a loop": "while True: pass",
    "holding the interpreter's lock": "re.match('(a?){60}a{60}', 'a' * 60)",
    "ignoring SIGTERM": "signal.signal(15, signal.SIG_IGN); time.sleep(600)",
}


@pytest.mark.parametrize("stuck", STUCK.values(), ids=STUCK.keys())
def test_a_rank_that_hangs_is_ended_with_its_stacks(pod: Pod, stuck: str) -> None:
    script = STEPS_THEN.replace("{stuck}", stuck)
    pod.run(pod.script(script), options=SHORT).begin()
    pid = int(pod.wait_for_file("stuck"))
    begun = time.monotonic()
    record = pod.record()
    assert time.monotonic() - begun < SHORTEST_LIMIT_SECONDS  # of one that is learnt
    assert (record["outcome"], record["reason"]) == ("Failed", "Hang")
    assert (record["rank"], record["step"], record["stacks"]) == (0, 30, "1-0-0.txt")
    assert "Rank 0 hangs after step 30" in record["message"]
    stacks = (pod.exchange / "stacks" / record["stacks"]).read_text()
    assert f"rank 0, process {pid}, training, step 30" in stacks
    assert "in train" in stacks
    assert json.loads((pod.exchange / "progress.json").read_bytes())["ledger"]["hang"] >= 1.5
    pod.agree()
    assert pod.wait() == 1
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_python_without_our_site_says_that_there_are_no_stacks(pod: Pod) -> None:
    script = """
import os, pathlib, sys, time
if "-S" not in sys.argv:
    os.execv(sys.executable, [sys.executable, "-S", __file__, "-S"])
for step in range(3):
    pathlib.Path(os.environ["LEPTON_STEP_FILE"]).write_text(str(step))
    time.sleep(0.3)
time.sleep(600)
"""
    pod.run(pod.script(script), options=SHORT).begin()
    stacks = (pod.exchange / "stacks" / pod.record()["stacks"]).read_text()
    assert "It left no stacks" in stacks
    pod.agree().wait()


def test_a_script_that_we_cannot_look_into_is_left_in_peace(pod: Pod) -> None:
    pod.run(pod.script("import time; time.sleep(3)"), options=SHORT).begin().agree()
    assert pod.message()["outcome"] == "Succeeded"


def test_a_debugger_on_a_laptop_may_take_its_time(pod: Pod) -> None:
    script = STEPS_THEN.replace("{stuck}", "time.sleep(3)")
    pod.run(pod.script(script), options=("--alone",))
    assert pod.message()["outcome"] == "Succeeded"


def test_a_rank_that_leaves_slowly_when_asked_does_not_hang(pod: Pod) -> None:
    leaves = "import signal\nsignal.signal(15, lambda *_: (time.sleep(3), os._exit(0)))\n"
    script = leaves + STEPS_THEN.replace("{stuck}", "time.sleep(600)")
    pod.run(pod.script(script), options=("--hang-timeout-seconds", "2"))
    pod.begin().wait_for_file("stuck")
    asked = time.monotonic()
    pod.ask_to_leave()
    pod.agree()
    assert pod.message()["reason"] == "Terminated"
    assert time.monotonic() - asked >= 3


def test_a_stopped_rank_that_goes_on_is_not_ended(pod: Pod) -> None:
    script = STEPS_THEN.replace("{stuck}", "os.kill(os.getpid(), signal.SIGSTOP)")
    pod.run(pod.script(script), options=("--hang-timeout-seconds", "5")).begin()
    pid = int(pod.wait_for_file("stuck"))
    wait_until(lambda: Path(f"/proc/{pid}/stat").read_text().split()[2] == "T", "its stop")
    time.sleep(0.8)
    os.kill(pid, signal.SIGCONT)
    assert pod.agree().message()["outcome"] == "Succeeded"


def test_py_spy_is_asked_where_the_image_has_it(
    pod: Pod, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "bin" / "py-spy"
    program.parent.mkdir()
    program.write_text('#!/bin/sh\necho "native frames: $@"\necho refused >&2\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    pod.run(pod.script(STEPS_THEN.replace("{stuck}", "time.sleep(600)")), options=SHORT).begin()
    stacks = (pod.exchange / "stacks" / pod.record()["stacks"]).read_text()
    pid = (pod.output / "stuck").read_text()
    assert f"native frames: dump --nonblocking --pid {pid}" in stacks
    assert "refused" in stacks
    pod.agree().wait()


# So many steps that a limit is learnt from them.
ALL_WAIT = STEPS_THEN.replace("range(1, 31)", "range(1, 151)").replace(
    "{stuck}", "with ours.collective(): time.sleep(600)"
)


def test_of_a_gang_that_waits_for_itself_one_pod_ends_and_names_its_rank_and_stacks(
    gang: Callable[..., list[Pod]],
) -> None:
    first, *others = gang(ALL_WAIT)
    first.wait_for_file("stuck")
    time.sleep(SHORTEST_LIMIT_SECONDS)
    wait_until(lambda: b"every rank waits in a collective" in first.stderr, "the verdict")
    record = first.record()
    assert (record["reason"], record["rank"], record["stacks"]) == ("Hang", 0, "1-0-0.txt")
    assert "every rank waits in a collective" in record["message"]
    assert "in train" in (first.exchange / "stacks" / record["stacks"]).read_text()
    stay = b"Waiting for the next one"
    wait_until(lambda: all(stay in other.stderr for other in others), "its peers")
    assert not any((other.exchange / "record.json").exists() for other in others)
    first.agree()
