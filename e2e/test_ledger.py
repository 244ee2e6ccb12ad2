"""What a job's time went into, and who holds it up, against what the script itself knows."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

import pytest

from e2e.jobs import attempts, training_job
from e2e.kubectl import Kubectl
from e2e.test_training import completes, gang, job_of
from e2e.waiting import condition, is_true, wait_until

STEP_SECONDS = 0.2
LAST = 100
# Four lives in two pods. The first stands still after step 40, the second and the third fail at
# step 61, which is then not tried again in place: the fourth is that of another pod, from nothing.
# Each life keeps to a timetable, so that a busy machine's late wake-ups do not add up.
LIVES = f"""
import os, pathlib, signal, time
from lepton_launcher import board
due = time.monotonic()
def spend(seconds):
    global due
    due += seconds
    time.sleep(max(0, due - time.monotonic()))
attempt, life = int(os.environ["LEPTON_ATTEMPT"]), int(os.environ["LEPTON_GENERATION"])
saved = pathlib.Path(os.environ["LEPTON_OUTPUT_DIR"], "saved")
begun = int(saved.read_text()) if saved.exists() else 0
ours = board.of_this_process()
ours.enter("rendezvous")
spend(1)
ours.enter("restoring")
spend(0.5)
ours.resume(begun)
ours.enter("training")
for step in range(begun + 1, {LAST + 1}):
    if (attempt, life, step) == (1, 0, 41):
        os.kill(os.getpid(), signal.SIGSTOP)
        time.sleep(3600)  # it is continued for its stacks
    if (attempt, step) == (1, 61):
        raise ValueError("the batch has no samples")
    spend({STEP_SECONDS})
    ours.finish_step(step)
    if step % 25 == 0:
        ours.enter("checkpointing")
        spend(1)
        saved.write_text(str(step))
        ours.finish_checkpoint(step, 1)
        ours.enter("training")
"""
HANG_SECONDS = 20
REPEATED_STEPS = (40 - 25) + (60 - 50) + 60
KNOWN = {
    "productive": LAST * STEP_SECONDS,
    "repeated": REPEATED_STEPS * STEP_SECONDS,
    "checkpointing": 6,
    "rendezvous": 4,
    "restoring": 2,
    "hang": HANG_SECONDS,
}
# What ranks do once their script is over counts as what they did last; it knows nothing of that.
ENDS = {"productive": 1, "repeated": 2, "hang": 1}
END_SECONDS = 2

THROTTLED = """
import time
from lepton_launcher import board
ours, moment = board.of_this_process(), torch.ones(1)
for step in range(1, 1501):
    time.sleep(0.1 if dist.get_rank() == 1 and 100 <= step < 700 else 0.05)
    dist.all_reduce(moment)
    ours.finish_step(step)
"""


def classes(ledger: Mapping[str, str]) -> dict[str, float]:
    return {name: float(text) for name, text in ledger.items() if "Gpu" not in name}


def seconds_between(start: str, end: str) -> float:
    return (datetime.fromisoformat(end) - datetime.fromisoformat(start)).total_seconds()


def test_the_ledger_of_an_interrupted_run_is_what_its_script_knows(
    bare_namespace: Kubectl,
) -> None:
    policy = {"hangTimeoutSeconds": HANG_SECONDS}
    bare_namespace.apply(training_job("spent", LIVES, failurePolicy=policy))
    job = completes(bare_namespace, "spent")
    status = job["status"]
    assert [each["outcome"] for each in attempts(job)] == ["Failed", "Succeeded"]
    spent = classes(status["ledger"])
    for name, seconds in KNOWN.items():
        ends = ENDS.get(name, 0) * END_SECONDS
        assert seconds - 1 <= spent[name] <= seconds + 1 + ends, f"{name}: {spent}"
    assert spent.get("unobserved", 0) == pytest.approx(0, abs=1)
    for each in attempts(job):
        wall = seconds_between(each["startTime"], each["endTime"])
        assert sum(classes(each["ledger"]).values()) == pytest.approx(wall, rel=0.01, abs=0.5)
    wall = seconds_between(attempts(job)[0]["startTime"], attempts(job)[-1]["endTime"])
    assert sum(spent.values()) == pytest.approx(wall, rel=0.01, abs=0.5)


@pytest.mark.long
def test_a_throttled_rank_is_named_with_its_node_until_it_keeps_up(
    bare_namespace: Kubectl,
) -> None:
    bare_namespace.apply(gang("uneven", then=THROTTLED))
    job = wait_until(
        lambda: job_of(bare_namespace, "uneven"),
        lambda each: is_true(each, "SlowRank"),
        "a job completes",
    )
    pod = bare_namespace.get("pod", "uneven-train-1-1")
    assert pod is not None
    assert (
        f"Rank 1 (pod 1 on node {pod['spec']['nodeName']})" in condition(job, "SlowRank")["message"]
    )
    wait_until(
        lambda: job_of(bare_namespace, "uneven"),
        lambda each: not condition(each, "SlowRank"),
        "a job completes",
    )
    assert [each["outcome"] for each in attempts(completes(bare_namespace, "uneven"))] == [
        "Succeeded"
    ]
