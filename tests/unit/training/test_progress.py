from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from lepton_operator.api.training import Progress, SlowRank, TrainingJob
from lepton_operator.training.status import Reason
from lepton_operator.views import PodView
from tests.builders import NOW, a_node, a_pod, a_waiting_container, ago, stamp
from tests.unit.training.builders import (
    a_restarting_job,
    a_view,
    after,
    an_open_job,
    condition,
    conditions,
    decide,
    status_of,
    with_status,
)

UNSCHEDULABLE = a_pod(
    1, node=None, unschedulable_message="0/2 nodes are available: 2 Insufficient nvidia.com/gpu."
)
NO_IMAGE = a_pod(1, containers=(a_waiting_container("train", "ErrImagePull", "not found"),))


def test_a_job_is_ready_while_all_its_ranks_run() -> None:
    pods = (a_pod(0, running=True), a_pod(1, running=True))
    decided = decide(a_view(an_open_job(2), *pods))
    assert conditions(decided) == {"Ready": "True"}
    assert condition(decided).reason == "Running"


def test_a_fake_node_s_pod_runs_by_its_phase() -> None:
    pod = a_pod(0, phase="Running")
    assert condition(decide(a_view(an_open_job(), pod))).reason == "Running"


# --- what rank 0 tells


def told(step: int, *, attempt: int = 1, seconds_ago: float = 0) -> Progress:
    at = NOW.replace(microsecond=0) - timedelta(seconds=seconds_ago)
    return Progress(time=at, attempt=attempt, phase="training", step=step)


def written_step(job: TrainingJob, progress: Progress | None) -> int | None:
    """The step in the status that is written; None if none is."""
    decided = decide(a_view(job, a_pod(0, running=True), progress=progress))
    found: dict[str, Any] = (decided.status or {}).get("progress", {})
    return found.get("step")


def test_progress_is_written_at_once_and_then_each_30_seconds() -> None:
    job = an_open_job()
    decided = decide(a_view(job, a_pod(0, running=True), progress=told(5, seconds_ago=29)))
    job = after(job, decided)
    assert job.status.progress == told(5, seconds_ago=29)
    assert written_step(job, told(5, seconds_ago=29)) is None
    assert written_step(job, told(7)) is None
    assert written_step(job, told(8, seconds_ago=-1)) == 8


def test_an_earlier_attempt_s_words_are_not_this_one_s() -> None:
    assert written_step(an_open_job(), told(5, attempt=7)) is None


def test_a_new_attempt_s_progress_does_not_wait() -> None:
    status = an_open_job().status.wire() | {"progress": told(900, attempt=1).wire()}
    status["attempts"] = [
        {**status["attempts"][0], "outcome": "Failed", "endTime": stamp(ago(9))},
        {**status["attempts"][0], "number": 2},
    ]
    job = with_status(an_open_job(), status)
    pod = a_pod(0, attempt=2, running=True)
    decided = decide(a_view(job, pod, progress=told(901, attempt=2)))
    assert status_of(decided)["progress"]["attempt"] == 2


def test_what_was_told_last_stays_when_nothing_new_is_told() -> None:
    job = after(
        an_open_job(), decide(a_view(an_open_job(), a_pod(0, running=True), progress=told(5)))
    )
    decided = decide(a_view(job, a_pod(0, failed=True)))
    assert status_of(decided)["progress"]["step"] == 5


@pytest.mark.parametrize(
    ("pod", "reason", "words"),
    [
        pytest.param(
            UNSCHEDULABLE,
            "NoCapacity",
            ["digits-train-1-1", "4 nvidia.com/gpu", "largest node has 1", "Insufficient"],
            id="more GPUs than any node has",
        ),
        pytest.param(NO_IMAGE, "ImageError", ["train", "not found"], id="an image nobody has"),
        pytest.param(
            a_pod(
                1,
                containers=(
                    a_waiting_container("train", "CreateContainerConfigError", 'secret "x" absent'),
                ),
            ),
            "ContainerError",
            ['secret "x" absent'],
            id="a Secret that is not there",
        ),
    ],
)
def test_what_holds_up_a_gang_is_said_in_a_sentence(
    pod: PodView, reason: str, words: list[str]
) -> None:
    job = an_open_job(2, resourcesPerNode={"limits": {"nvidia.com/gpu": 4}})
    decided = decide(a_view(job, a_pod(0, node=None), pod))
    assert conditions(decided) == {"Ready": "False", "Reconciling": "True"}
    assert condition(decided).reason == reason
    assert all(word in condition(decided).message for word in words)


def test_stages_of_an_ordinary_start_are_no_writes() -> None:
    job = an_open_job(2)
    for pods in (
        (a_pod(0, node=None), a_pod(1, node=None)),
        (a_pod(0), a_pod(1)),
        (a_pod(0, running=True), a_pod(1)),
    ):
        assert decide(a_view(job, *pods)).status is None


def test_a_restarted_job_says_so_until_it_runs() -> None:
    job = a_restarting_job()
    opened = after(job, decide(a_view(job)))
    pod = a_pod(0, attempt=2)
    assert condition(decide(a_view(job))).reason == "Restarting"
    assert decide(a_view(opened, pod)).status is None
    assert condition(decide(a_view(opened, a_pod(0, attempt=2, running=True)))).reason == "Running"


def test_a_plan_is_stable_within_a_second() -> None:
    job, pod = an_open_job(), a_pod(0, running=True)
    again = decide(a_view(after(job, decide(a_view(job, pod))), pod), NOW + timedelta(seconds=0.7))
    assert (again.because, again.status, again.events) == ("", None, ())


def test_a_silent_node_is_looked_at_again_when_its_patience_ends() -> None:
    nodes = (a_node("node-1", ready=False, since=NOW),)
    decided = decide(a_view(an_open_job(), a_pod(0, running=True), nodes=nodes))
    assert decided.due == NOW + timedelta(seconds=30)


def test_every_reason_that_can_be_said_is_in_the_closed_list_and_fits_a_condition() -> None:
    assert all(each.value.isalpha() and len(each.value) <= 64 for each in Reason)


# --- slow ranks


def slow(factor: str = "2", *, attempt: int = 1, seconds_ago: float = 0) -> Progress:
    found = SlowRank(rank=1, pod=1, factor=factor)
    return told(5, attempt=attempt, seconds_ago=seconds_ago).model_copy(update={"slow": found})


PODS = (a_pod(0, running=True), a_pod(1, running=True, node="node-2"))


def test_a_slow_rank_is_named_with_its_node_in_a_condition_and_one_event() -> None:
    decided = decide(a_view(an_open_job(2), *PODS, progress=slow(seconds_ago=60)))
    named = condition(decided, "SlowRank")
    assert (named.status, named.reason) == ("True", "SlowRank")
    assert named.message.startswith("Rank 1 (pod 1 on node node-2) takes 2 times as long")
    assert [each.reason for each in decided.events] == ["SlowRank"]
    assert status_of(decided)["progress"]["slow"]["node"] == "node-2"
    again = decide(a_view(after(an_open_job(2), decided), *PODS, progress=slow("2.1")))
    assert "2.1 times" in condition(again, "SlowRank").message
    assert again.events == ()


def test_a_rank_that_keeps_up_again_is_no_longer_named() -> None:
    decided = decide(a_view(an_open_job(2), *PODS, progress=slow(seconds_ago=60)))
    job = after(an_open_job(2), decided)
    assert conditions(decide(a_view(job, *PODS, progress=told(9)))) == {"Ready": "True"}


def test_a_slow_rank_is_that_of_an_attempt_that_runs() -> None:
    decided = decide(a_view(an_open_job(2), *PODS, progress=slow(seconds_ago=60)))
    job = after(an_open_job(2), decided)
    closed = decide(a_view(job, PODS[0], a_pod(1, failed=True)))
    assert "SlowRank" not in conditions(closed)
