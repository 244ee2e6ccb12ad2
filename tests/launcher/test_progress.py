"""What the sidecar is told while ranks run, from real processes and on a virtual clock."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import pytest

from lepton_launcher.board import Standing
from lepton_launcher.progress import Pace, Progress, without_ages
from lepton_launcher.sightings import Sighting

from .conftest import wait_until

if TYPE_CHECKING:
    from .conftest import Pod

SECOND = 1_000_000_000

STEPS = """
import time
from lepton_launcher import board
ours = board.of_this_process()
ours.enter("restoring")
ours.resume(100)
for step in range(101, 131):
    time.sleep(0.01)
    ours.finish_step(step, total_steps=130, samples=32 * step, metrics={"loss": 1 / step})
ours.learn_at(0.0625)
ours.finish_checkpoint(130, 0.5)
"""
WRITES_ITS_STEP = """
import os, pathlib, time
for step in ("1", "2", " 3\\n"):
    pathlib.Path(os.environ["LEPTON_STEP_FILE"]).write_text(step)
    time.sleep(0.3)
time.sleep(600)
"""


def told(pod: Pod) -> dict[str, Any]:
    path = pod.exchange / "progress.json"
    found: dict[str, Any] = json.loads(path.read_bytes()) if path.exists() else {}
    return found


def seen(step: int, at: float, *, rank: int = 0, phase: str = "training") -> Sighting:
    standing = Standing(phase=phase, step=step, step_at=int(at * SECOND))
    return Sighting(rank, standing)


def test_the_first_reported_step_of_a_resumed_run_says_nothing_of_its_pace() -> None:
    pace = Pace()
    pace.add(seen(1, 10))
    for step, at in ((274, 10.6), (275, 11.2), (276, 11.8)):
        sighting = seen(step, at)
        pace.add(sighting._replace(standing=sighting.standing._replace(is_reported=True)))
        assert pace.step_seconds in (None, pytest.approx(0.6))
    assert pace.step_seconds == pytest.approx(0.6)


def test_what_is_written_while_it_is_looked_at_is_no_second_old() -> None:
    progress, moment = Progress(1, 0, 10), int(10.2 * SECOND)
    standing = Standing("training", step=7, step_at=moment)
    saved = standing._replace(checkpoint_step=7, checkpoint_at=moment)
    sightings = [Sighting(0, saved)]
    progress.take_in(sightings, 10)
    found = progress.document(sightings, 10)
    assert (found["checkpoint"]["ageSeconds"], found["ranks"][0]["silentSeconds"]) == (0, 0)


def test_what_the_script_reports_reaches_the_sidecar_and_the_record(pod: Pod) -> None:
    pod.run(pod.script(STEPS)).begin().agree()
    message = pod.message()
    assert (message["outcome"], message["step"], message["resumedFrom"]) == ("Succeeded", 130, 100)
    found = told(pod)
    assert (found["learningRate"], found["resumedFrom"], found["furthest"]) == (0.0625, 100, 130)
    facts = {"attempt": 1, "generation": 0, "phase": "training", "step": 130, "totalSteps": 130}
    assert facts.items() <= found.items()
    assert found["metrics"] == {"loss": pytest.approx(1 / 130)}
    assert found["samples"] == 32 * 130
    assert (found["checkpoint"]["step"], found["checkpoint"]["seconds"]) == (130, 0.5)
    assert [rank["rank"] for rank in found["ranks"]] == [0]


def test_a_script_without_our_sdk_reports_through_a_file(pod: Pod) -> None:
    pod.run(pod.script(WRITES_ITS_STEP)).begin()
    wait_until(lambda: told(pod).get("step") == 3, "step 3")
    assert told(pod)["phase"] == "training"
    pod.ask_to_leave()
    pod.agree()
    assert pod.message()["step"] == 3


@pytest.mark.parametrize("content", [b"", b"x", b"-1", b"\xff", b"9" * 40, b"1.5"])
def test_a_step_file_with_anything_else_is_left_aside(pod: Pod, content: bytes) -> None:
    script = f"""
import os, pathlib
pathlib.Path(os.environ["LEPTON_STEP_FILE"]).write_bytes({content!r})
"""
    pod.run(pod.script(script)).begin().agree()
    assert "step" not in pod.message()


def test_progress_is_written_at_most_once_a_second_and_only_when_it_changed(pod: Pod) -> None:
    pod.run(pod.script(STEPS + "\ntime.sleep(600)")).begin()
    path = pod.exchange / "progress.json"
    wait_until(lambda: "checkpoint" in told(pod), "its last word")
    written = path.stat().st_mtime_ns
    time.sleep(1.6)
    assert path.stat().st_mtime_ns == written
    pod.ask_to_leave()
    pod.agree().wait()


def test_a_laptop_gets_no_progress_file(pod: Pod) -> None:
    pod.run(pod.script(STEPS), options=("--alone",)).wait()
    assert not (pod.exchange / "progress.json").exists()


def test_the_rank_knows_its_attempt_and_generation(pod: Pod) -> None:
    script = "import os; print(os.environ['LEPTON_ATTEMPT'], os.environ['LEPTON_GENERATION'])"
    pod.run(pod.script(script)).begin().agree().wait()
    assert pod.stdout == b"1 0\n"


def test_the_time_of_a_step_is_the_mean_of_the_last_ones() -> None:
    pace = Pace()
    for step in range(1, 101):
        pace.add(seen(step, step * 0.5))
    assert pace.step_seconds == pytest.approx(0.5)


def test_a_pace_begins_anew_when_steps_do() -> None:
    pace = Pace()
    for step, at in [(10, 10), (20, 20), (1, 30), (3, 40)]:
        pace.add(seen(step, at))
    assert pace.step_seconds == pytest.approx(5)


def test_the_slowest_rank_says_how_far_the_pod_is() -> None:
    progress = Progress(attempt=2, generation=1, now=0)
    ranks = [seen(7, 3.5, rank=4), seen(6, 3.0, rank=5)]
    progress.take_in(ranks, 4)
    document = progress.document(ranks, 4)
    assert (document["step"], progress.step) == (6, 6)
    assert [rank["silentSeconds"] for rank in document["ranks"]] == [0.5, 1.0]


def test_a_step_that_rank_0_alone_reports_outranks_what_is_counted_elsewhere() -> None:
    progress = Progress(attempt=1, generation=1, now=0)
    told, counted = seen(1007, 3.5), seen(7, 3.5, rank=1)
    told = told._replace(standing=told.standing._replace(is_reported=True))
    progress.take_in([told, counted], 4)
    assert (progress.step, progress.furthest) == (1007, 1007)


def test_a_step_0_is_none_however_it_was_told() -> None:
    progress = Progress(attempt=1, generation=0, now=0)
    told = seen(0, 3.5)
    standing = told.standing._replace(is_reported=True, checkpoint_step=0)
    ranks = [told._replace(standing=standing)]
    progress.take_in(ranks, 4)
    assert (progress.step, progress.furthest) == (None, -1)
    document = progress.document(ranks, 4)
    assert "step" not in document
    assert "step" not in document["ranks"][0]


def test_counted_steps_are_no_progress() -> None:
    progress = Progress(attempt=1, generation=0, now=0)
    progress.take_in([seen(7, 3.5)], 4)
    assert (progress.step, progress.furthest) == (7, -1)


def test_only_time_passing_is_no_change() -> None:
    progress = Progress(attempt=1, generation=0, now=0)
    ranks = [seen(7, 3.5)]
    progress.take_in(ranks, 4)
    early = progress.document(ranks, 4)
    progress.take_in(ranks, 9)
    late = progress.document(ranks, 9)
    assert early != late
    assert without_ages(early) == without_ages(late)
