from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from lepton_operator.api.training import Progress, RankRestart, SlowRank, TrainingJob
from lepton_operator.training.status import Reason
from lepton_operator.views import InPlace, PodView, Told
from tests.builders import NOW, a_node, a_pod, a_training_job, a_waiting_container, ago, stamp
from tests.unit.training.builders import (
    a_restarting_job,
    a_view,
    after,
    an_open_job,
    condition,
    conditions,
    decide,
    status_of,
    with_spec,
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


def told(
    step: int,
    *,
    attempt: int = 1,
    seconds_ago: float = 0,
    in_place: InPlace = InPlace(),  # noqa: B008 - frozen
    **more: Any,
) -> Told:
    at = NOW.replace(microsecond=0) - timedelta(seconds=seconds_ago)
    facts = {"phase": "training", **more}
    return Told(Progress(time=at, attempt=attempt, step=step, **facts), in_place)


def written_step(job: TrainingJob, progress: Told | None) -> int | None:
    """The step in the status that is written; None if none is."""
    decided = decide(a_view(job, a_pod(0, running=True), told=progress))
    found: dict[str, Any] = (decided.status or {}).get("progress", {})
    return found.get("step")


def test_the_longest_time_to_leave_is_kept_over_attempts() -> None:
    job = an_open_job()
    for attempt, seconds, longest in ((1, 20, 20), (1, 8, 20), (1, 31, 31)):
        before = job.status.progress
        ago = (NOW - before.time).total_seconds() - 31 if before else 100
        news = told(5, attempt=attempt, seconds_ago=round(ago), leave_seconds=seconds)
        job = after(job, decide(a_view(job, a_pod(0, running=True), told=news)))
        assert job.status.progress is not None
        assert job.status.progress.leave_seconds == longest


def test_progress_is_written_at_once_and_then_each_30_seconds() -> None:
    job = an_open_job()
    decided = decide(a_view(job, a_pod(0, running=True), told=told(5, seconds_ago=29)))
    job = after(job, decided)
    assert job.status.progress == told(5, seconds_ago=29).progress
    assert written_step(job, told(5, seconds_ago=29)) is None
    assert written_step(job, told(7)) is None
    assert written_step(job, told(8, seconds_ago=-1)) == 8


SAID = "RuntimeError: cosmic rays"
KILLED = RankRestart(generation=0, reason="UserError", rank=1, signal=9, step=40, message=SAID)
HUNG = RankRestart(generation=1, reason="Hang", rank=0, step=60, message="Rank 0 hangs.")


@pytest.mark.parametrize(
    ("progress", "reason", "words"),
    [
        pytest.param(told(5), "Running", ["trains on 2 pods"], id="it trains"),
        pytest.param(
            told(5, phase="checkpointing"), "Checkpointing", ["saves a checkpoint"], id="it saves"
        ),
        pytest.param(
            told(5, attempt=7, phase="checkpointing"), "Running", [], id="another attempt's save"
        ),
        pytest.param(
            told(5, generation=1, phase="rendezvous", in_place=InPlace(last=(KILLED,))),
            "Restarting",
            ["rank 1 on node node-1 was ended by SIGKILL after step 40", SAID],
            id="its ranks are started again in their pods",
        ),
        pytest.param(
            told(5, generation=2, in_place=InPlace(last=(KILLED, HUNG))),
            "Running",
            ["Last restart in its pods: rank 0 on node node-1 hung after step 60"],
            id="they were, and train",
        ),
    ],
)
def test_where_a_job_stands_is_told_by_rank_0(
    progress: Told, reason: str, words: list[str]
) -> None:
    pods = (a_pod(0, running=True), a_pod(1, running=True))
    decided = decide(a_view(an_open_job(2), *pods, told=progress))
    assert condition(decided).reason == reason
    assert condition(decided).status == ("False" if reason == "Restarting" else "True")
    assert all(word in condition(decided).message for word in words)


def test_restarts_in_the_pods_are_told_while_the_attempt_goes_on() -> None:
    in_place = InPlace(restarts=2, resumed_from=50, furthest=55, last=(KILLED, HUNG))
    pods = (a_pod(0, running=True), a_pod(1, running=True, node="node-2"))
    decided = decide(a_view(an_open_job(2), *pods, told=told(60, in_place=in_place)))
    attempt = status_of(decided)["attempts"][0]
    assert (attempt["outcome"], attempt["restarts"]) == ("Running", 2)
    assert (attempt["resumedFrom"], attempt["furthestStep"]) == (50, 55)
    assert attempt["lastRestarts"][0] == {
        "generation": 0,
        "reason": "UserError",
        "rank": 1,
        "node": "node-2",
        "signal": 9,
        "step": 40,
        "message": SAID,
    }
    assert attempt["lastRestarts"][1]["node"] == "node-1"
    assert "furthestStep" not in status_of(decided)


def test_a_sidecar_that_forgot_takes_nothing_back() -> None:
    in_place = InPlace(restarts=2, furthest=55, last=(KILLED,))
    pod = a_pod(0, running=True)
    decided = decide(a_view(an_open_job(), pod, told=told(60, in_place=in_place)))
    job = after(an_open_job(), decided)
    again = decide(a_view(job, pod, told=told(61, seconds_ago=-30)))
    attempt = status_of(again)["attempts"][0]
    assert (attempt["restarts"], attempt["furthestStep"]) == (2, 55)
    assert len(attempt["lastRestarts"]) == 1


def test_an_earlier_attempt_s_words_are_not_this_one_s() -> None:
    assert written_step(an_open_job(), told(5, attempt=7)) is None


def test_a_new_attempt_s_progress_does_not_wait() -> None:
    status = an_open_job().status.wire() | {"progress": told(900, attempt=1).progress.wire()}
    status["attempts"] = [
        {**status["attempts"][0], "outcome": "Failed", "endTime": stamp(ago(9))},
        {**status["attempts"][0], "number": 2},
    ]
    job = with_status(an_open_job(), status)
    pod = a_pod(0, attempt=2, running=True)
    decided = decide(a_view(job, pod, told=told(901, attempt=2)))
    assert status_of(decided)["progress"]["attempt"] == 2


def test_what_was_told_last_stays_when_nothing_new_is_told() -> None:
    job = after(an_open_job(), decide(a_view(an_open_job(), a_pod(0, running=True), told=told(5))))
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


def test_an_ordinary_start_writes_the_status_when_it_is_opened_and_when_it_runs() -> None:
    job = after(a_training_job(2), opening := decide(a_view(a_training_job(2))))
    assert condition(opening).reason == "Starting"
    for pods in (
        (a_pod(0, node=None), a_pod(1, node=None)),
        (a_pod(0), a_pod(1, node=None)),
        (a_pod(0), a_pod(1)),
        (a_pod(0, running=True), a_pod(1)),
    ):
        assert decide(a_view(job, *pods)).status is None
    runs = decide(a_view(job, a_pod(0, running=True), a_pod(1, running=True)))
    assert condition(runs).reason == "Running"


def test_the_wait_for_the_scheduler_is_told_when_it_lasts_and_not_for_each_pod() -> None:
    job = after(a_training_job(2), decide(a_view(a_training_job(2))))
    nowhere = (a_pod(0, node=None), a_pod(1, node=None))
    due = decide(a_view(job, *nowhere)).due
    assert due == NOW.replace(microsecond=0) + timedelta(seconds=5)
    told = decide(a_view(job, *nowhere), due)
    assert condition(told).reason == "Scheduling"
    assert "once all 2 pods have a node" in condition(told).message
    job = after(job, told)
    for pods in (nowhere, (a_pod(0), a_pod(1, node=None))):
        again = decide(a_view(job, *pods), due)
        assert (again.status, again.due) == (None, None)
    placed = decide(a_view(job, a_pod(0), a_pod(1)), due)
    assert condition(placed).reason == "Starting"
    assert decide(a_view(after(job, placed), a_pod(0, running=True), a_pod(1)), due).status is None


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


# --- checkpoints

STORED = {"uri": "lepton-store://checkpoints/"}
PROBLEM = "The checkpoint of step 20 could not be saved: the store is full."


def test_the_last_checkpoint_is_told_with_its_place_and_outlives_its_attempt() -> None:
    job = with_spec(an_open_job(), checkpoint=STORED)
    at = NOW.replace(microsecond=0)
    news = told(12, seconds_ago=60, checkpoint_step=10, checkpoint_time=at)
    job = after(job, decide(a_view(job, a_pod(0, running=True), told=news)))
    found = job.status.checkpoint
    assert found is not None
    assert (found.step, found.time) == (10, at)
    assert found.place == "lepton-store://checkpoints/uid-of-digits/step-000000010"
    fresh = told(12, attempt=1)
    job = after(job, decide(a_view(job, a_pod(0, running=True), told=fresh)))
    assert job.status.checkpoint == found


def test_a_checkpoint_at_a_place_of_the_script_s_own_has_none_to_be_told() -> None:
    news = told(12, checkpoint_step=10, checkpoint_time=NOW)
    decided = decide(a_view(an_open_job(), a_pod(0, running=True), told=news))
    assert "checkpoint" not in status_of(decided)


def test_what_could_not_be_saved_is_a_condition_until_it_is() -> None:
    job = with_spec(an_open_job(), checkpoint=STORED)
    news = told(25, seconds_ago=60, checkpoint_problem=PROBLEM)
    decided = decide(a_view(job, a_pod(0, running=True), told=news))
    found = condition(decided, "CheckpointsSaved")
    assert (found.status, found.reason, found.message) == ("False", "NotSaved", PROBLEM)
    job = after(job, decided)
    again = decide(a_view(job, a_pod(0, running=True), told=told(30)))
    assert "CheckpointsSaved" not in conditions(again)


# --- slow ranks


def slow(factor: str = "2", *, attempt: int = 1, seconds_ago: float = 0) -> Told:
    found = SlowRank(rank=1, pod=1, factor=factor)
    return told(5, attempt=attempt, seconds_ago=seconds_ago, slow=found)


PODS = (a_pod(0, running=True), a_pod(1, running=True, node="node-2"))


def test_a_slow_rank_is_named_with_its_node_in_a_condition_and_one_event() -> None:
    decided = decide(a_view(an_open_job(2), *PODS, told=slow(seconds_ago=60)))
    named = condition(decided, "SlowRank")
    assert (named.status, named.reason) == ("True", "SlowRank")
    assert named.message.startswith("Rank 1 (pod 1 on node node-2) takes 2 times as long")
    assert [each.reason for each in decided.events] == ["SlowRank"]
    assert status_of(decided)["progress"]["slow"]["node"] == "node-2"
    again = decide(a_view(after(an_open_job(2), decided), *PODS, told=slow("2.1")))
    assert "2.1 times" in condition(again, "SlowRank").message
    assert again.events == ()


def test_a_rank_that_keeps_up_again_is_no_longer_named() -> None:
    decided = decide(a_view(an_open_job(2), *PODS, told=slow(seconds_ago=60)))
    job = after(an_open_job(2), decided)
    assert conditions(decide(a_view(job, *PODS, told=told(9)))) == {"Ready": "True"}


def test_a_slow_rank_is_that_of_an_attempt_that_runs() -> None:
    decided = decide(a_view(an_open_job(2), *PODS, told=slow(seconds_ago=60)))
    job = after(an_open_job(2), decided)
    closed = decide(a_view(job, PODS[0], a_pod(1, failed=True)))
    assert "SlowRank" not in conditions(closed)
