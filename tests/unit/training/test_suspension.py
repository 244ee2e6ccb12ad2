"""Suspending in two phases: the ranks save and leave, then the pods go."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from lepton_operator import names
from lepton_operator.api.training import TrainingJob
from lepton_operator.plan import Plan
from lepton_operator.views import PodView
from tests.builders import NOW, a_container, a_node, a_pod, a_record, a_result, stamp
from tests.unit.training.builders import (
    a_view,
    after,
    an_open_job,
    condition,
    conditions,
    created,
    decide,
    deleted,
    status_of,
    with_spec,
)

WHOLE_NOW = NOW.replace(microsecond=0)
PLACED = {names.ATTEMPT: '{"attempt":1,"nodeRank":0}'}
ASKED = {names.ATTEMPT: '{"attempt":1,"leave":true,"nodeRank":0}'}
SAVED = a_record("Failed", reason="Saved", message="Saved at step 120 and left.", step=120)
TRAINS = [a_pod(rank, running=True, annotations=PLACED) for rank in (0, 1)]
ASKED_PODS = [replace(pod, annotations=ASKED) for pod in TRAINS]


def left(rank: int, said: str = SAVED) -> PodView:
    return a_pod(rank, failed=True, exit_code=75, said=said, annotations=ASKED)


def asked_job(**more: Any) -> TrainingJob:
    """A job of two pods, both of which were asked to leave just now."""
    job = with_spec(an_open_job(2, **more), suspend=True)
    return after(job, decide(a_view(job, *TRAINS)))


def last_attempt(decided: Plan) -> dict[str, Any]:
    found: dict[str, Any] = status_of(decided)["attempts"][-1]
    return found


def test_first_every_pod_is_asked_to_leave_in_its_annotation() -> None:
    job = with_spec(an_open_job(2), suspend=True)
    decided = decide(a_view(job, *TRAINS))
    assert [each.target.name for each in decided.patch] == ["digits-train-1-0", "digits-train-1-1"]
    (told,) = {each.body["metadata"]["annotations"][names.ATTEMPT] for each in decided.patch}
    assert json.loads(told) == {"attempt": 1, "nodeRank": 0, "leave": True}
    assert (deleted(decided), last_attempt(decided)["outcome"]) == ([], "Running")
    assert last_attempt(decided)["leaveTime"] == stamp(NOW)
    assert conditions(decided) == {"Ready": "False", "Reconciling": "True", "Suspended": "False"}
    assert condition(decided).reason == "Suspending"
    assert [each.reason for each in decided.events] == ["Suspending"]


def test_they_are_waited_for_and_asked_once() -> None:
    decided = decide(a_view(asked_job(), *ASKED_PODS))
    assert (decided.because, decided.patch, decided.status) == ("", (), None)
    assert decided.due == WHOLE_NOW + timedelta(seconds=30 + 30)


def test_with_claims_their_kubelets_are_asked_to_look_again_once() -> None:
    volume = {"name": "data", "claimName": "data", "mountPath": "/data"}
    job = asked_job(volumes=[volume])
    at_once = decide(a_view(job, *ASKED_PODS))
    assert (at_once.patch, at_once.due) == ((), WHOLE_NOW + timedelta(seconds=2))
    later = NOW + timedelta(seconds=2)
    decided = decide(a_view(job, *ASKED_PODS), later)
    assert [each.body["metadata"]["annotations"] for each in decided.patch] == [
        {names.TOLD_AGAIN: "1: leave"}
    ] * 2
    reminded = [
        replace(pod, annotations={**ASKED, names.TOLD_AGAIN: "1: leave"}) for pod in ASKED_PODS
    ]
    decided = decide(a_view(job, *reminded), later)
    assert (decided.patch, decided.due) == ((), WHOLE_NOW + timedelta(seconds=60))


def test_an_operator_that_died_between_two_requests_asks_the_rest() -> None:
    decided = decide(a_view(asked_job(), ASKED_PODS[0], TRAINS[1]))
    assert [each.target.name for each in decided.patch] == ["digits-train-1-1"]


def test_what_they_saved_is_recorded_before_the_pods_go_and_counts_against_nothing() -> None:
    job = asked_job()
    assert decide(a_view(job, left(0), ASKED_PODS[1])).because == ""
    recorded = decide(a_view(job, left(0), left(1)))
    attempt = last_attempt(recorded)
    assert (attempt["outcome"], attempt["reason"], attempt["step"]) == ("Suspended", "Saved", 120)
    assert attempt["message"] == "Saved at step 120 and left."
    assert (deleted(recorded), set(status_of(recorded)["restarts"].values())) == ([], {0})
    job = after(job, recorded)
    gone = decide(a_view(job, left(0), left(1)))
    assert deleted(gone) == ["digits-train-1-0", "digits-train-1-1"]
    at_rest = decide(a_view(job))
    assert conditions(at_rest) == {"Ready": "True", "Suspended": "True"}
    assert "its ranks saved at step 120" in condition(at_rest).message
    resumed = decide(a_view(with_spec(after(job, at_rest), suspend=False)))
    assert created(resumed) == ["digits-train-2-0", "digits-train-2-1"]


@pytest.mark.parametrize(
    ("pods", "now"),
    [
        pytest.param(ASKED_PODS, WHOLE_NOW + timedelta(seconds=60), id="their time is over"),
        pytest.param(
            [left(0), replace(ASKED_PODS[1], gone=True)], NOW, id="one is gone, and one has ended"
        ),
    ],
)
def test_a_deadline_ends_the_waiting(pods: list[PodView], now: datetime) -> None:
    recorded = decide(a_view(asked_job(), *pods), now)
    assert last_attempt(recorded)["outcome"] == "Suspended"
    assert condition(recorded, "Suspended").status == "True"


def test_pods_on_a_silent_node_are_not_waited_for() -> None:
    nodes = (a_node(), a_node("node-2", ready=False))
    silent = replace(ASKED_PODS[1], node="node-2")
    decided = decide(a_view(asked_job(), left(0), silent, nodes=nodes))
    assert last_attempt(decided)["outcome"] == "Suspended"


def test_pods_that_have_not_begun_are_not_asked() -> None:
    job = with_spec(an_open_job(2), suspend=True)
    decided = decide(a_view(job, a_pod(0, running=True), a_pod(1)))
    assert (decided.patch, last_attempt(decided)["outcome"]) == ((), "Suspended")


def test_an_annotation_that_cannot_be_read_is_left_alone() -> None:
    job = with_spec(an_open_job(), suspend=True)
    decided = decide(a_view(job, a_pod(0, running=True, annotations={names.ATTEMPT: "[" * 9})))
    assert (decided.patch, condition(decided).reason) == ((), "Suspending")


def test_who_was_asked_leaves_though_the_job_is_to_go_on_meanwhile() -> None:
    job = with_spec(asked_job(), suspend=False)
    waits = decide(a_view(job, *ASKED_PODS))
    assert (waits.patch, created(waits), condition(waits).reason) == ((), [], "Suspending")
    job = after(job, waits)
    recorded = decide(a_view(job, left(0), left(1)))
    assert last_attempt(recorded)["outcome"] == "Suspended"
    assert condition(recorded).reason == "Starting"
    assert recorded.events == ()
    job = after(job, recorded)
    assert deleted(decide(a_view(job, left(0), left(1)))) == [
        "digits-train-1-0",
        "digits-train-1-1",
    ]
    assert created(decide(a_view(job))) == ["digits-train-2-0", "digits-train-2-1"]


def test_an_operator_that_died_after_it_asked_knows_it_by_the_pods() -> None:
    job = an_open_job(2)  # the status says nothing, and suspend is false again
    recorded = decide(a_view(job, left(0), left(1)))
    assert last_attempt(recorded)["outcome"] == "Suspended"
    assert last_attempt(recorded)["leaveTime"] == stamp(NOW)
    assert set(status_of(recorded)["restarts"].values()) == {0}


def test_a_result_while_it_is_being_suspended_is_not_thrown_away() -> None:
    done = [a_pod(rank, succeeded=True, said=a_result()) for rank in (0, 1)]
    assert condition(decide(a_view(asked_job(), *done))).reason == "Complete"


def test_a_script_that_does_not_save_says_no_step() -> None:
    said = a_record("Failed", reason="Terminated", message="Asked to leave.")
    recorded = decide(a_view(asked_job(), left(0, said), left(1, said)))
    assert "reason" not in last_attempt(recorded)
    at_rest = decide(a_view(after(asked_job(), recorded)))
    assert condition(at_rest).message.endswith("set suspend to false to go on.")


# Deadlines across suspensions


def test_the_deadline_counts_the_time_between_suspensions() -> None:
    job = asked_job(activeDeadlineSeconds=100)  # opened a minute ago
    later = NOW + timedelta(seconds=10)
    job = after(job, decide(a_view(job, left(0), left(1)), later))
    assert job.status.active_seconds == 70
    resumed_at = NOW + timedelta(days=3)
    job = with_spec(job, suspend=False)
    job = after(job, decide(a_view(job), resumed_at))
    assert (job.status.active_seconds, job.status.start_time) == (
        70,
        resumed_at.replace(microsecond=0),
    )
    pods = [a_pod(rank, attempt=2, running=True, annotations=PLACED) for rank in (0, 1)]
    decided = decide(a_view(job, *pods), resumed_at)
    assert decided.due == resumed_at.replace(microsecond=0) + timedelta(seconds=30)
    assert condition(decide(a_view(job, *pods), decided.due)).reason == "DeadlineExceeded"


def test_the_time_of_several_suspensions_adds_up() -> None:
    job, now = an_open_job(), NOW
    for total in (60, 160):
        job = with_spec(job, suspend=True)
        job = after(job, decide(a_view(job), now))
        job = after(job, decide(a_view(job), now + timedelta(seconds=40)))
        assert job.status.active_seconds == total
        now += timedelta(seconds=1000)
        job = with_spec(job, suspend=False)
        job = after(job, decide(a_view(job), now))
        now += timedelta(seconds=100)


def test_a_deadline_that_passes_while_ranks_leave_asks_for_no_pass_at_once() -> None:
    job = with_spec(asked_job(activeDeadlineSeconds=70), suspend=False)
    later = NOW + timedelta(seconds=20)
    waits = decide(a_view(job, *ASKED_PODS), later)
    assert condition(waits).reason == "Suspending"
    assert waits.due == WHOLE_NOW + timedelta(seconds=30 + 30)


def test_a_late_word_leaves_a_suspended_job_suspended() -> None:
    job, began = asked_job(), NOW - timedelta(seconds=20)
    trains = [replace(pod, containers=(a_container(started=began),)) for pod in ASKED_PODS]
    late = NOW + timedelta(seconds=70)
    job = after(job, decide(a_view(job, *trains), late))
    assert (job.status.attempts[-1].outcome, job.status.conditions[0].reason) == (
        "Suspended",
        "Suspended",
    )
    said = a_record("Failed", reason="Terminated", ledger={"productive": 80})
    ended = a_container(exit_code=1, message=said, started=began)
    pods = [replace(pod, phase="Failed", containers=(ended,), deleting=True) for pod in trains]
    decided = decide(a_view(job, *pods), late)
    assert decided.because == "complete the ledger of attempt 1"
    assert condition(decided).reason == "Suspended"
    assert decide(a_view(after(job, decided), *pods), late).status is None


def test_a_word_of_a_save_without_a_step_names_no_step() -> None:
    said = a_record("Failed", reason="Saved", message="Saved and left.")
    job = asked_job()
    job = after(job, decide(a_view(job, left(0, said), left(1, said))))
    assert "step None" not in condition(decide(a_view(job))).message
