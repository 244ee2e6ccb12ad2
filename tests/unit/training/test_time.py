"""Suspending, deadlines, and what remains after the end."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from pydantic import ValidationError

from lepton_operator.api.common import Condition
from lepton_operator.api.training import TrainingJob, TrainingJobStatus
from lepton_operator.views import PodView
from tests.builders import DIGEST, NOW, a_model, a_pod, a_result, a_training_job, ago, stamp
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

RUNNING = a_pod(0, running=True)
WHOLE_NOW = NOW.replace(microsecond=0)


# Suspending


def suspended_job() -> TrainingJob:
    job = with_spec(an_open_job(), suspend=True)
    return after(job, decide(a_view(job, RUNNING)))


def test_a_suspension_is_recorded_before_the_pods_go_and_counts_against_nothing() -> None:
    job = with_spec(an_open_job(), suspend=True)
    recorded = decide(a_view(job, RUNNING))
    assert deleted(recorded) == []
    assert conditions(recorded) == {"Ready": "False", "Reconciling": "True", "Suspended": "True"}
    assert condition(recorded).reason == "Suspended"
    assert status_of(recorded)["attempts"][0]["outcome"] == "Suspended"
    assert status_of(recorded)["restarts"] == {
        "user": 0,
        "infrastructure": 0,
        "preemption": 0,
        "withoutProgress": 0,
    }
    assert [each.reason for each in recorded.events] == ["Suspended"]
    assert deleted(decide(a_view(after(job, recorded), RUNNING))) == ["digits-train-1-0"]


def test_a_suspended_job_is_at_rest_when_its_pods_hold_nothing_any_more() -> None:
    job = suspended_job()
    assert decide(a_view(job, a_pod(0, running=True, deleting=True))).status is None
    at_rest = decide(a_view(job, a_pod(0, running=True, gone=True)))
    assert conditions(at_rest) == {"Ready": "True", "Suspended": "True"}


def test_a_job_that_starts_suspended_makes_no_pods() -> None:
    job = a_training_job(suspend=True)
    decided = decide(a_view(job))
    assert created(decided) == []
    assert "startTime" not in status_of(decided)
    assert decide(a_view(after(job, decided))).because == ""


def test_a_failure_seen_together_with_a_suspension_is_not_counted() -> None:
    job = with_spec(an_open_job(), suspend=True)
    decided = decide(a_view(job, a_pod(0, failed=True)))
    assert status_of(decided)["attempts"][0]["outcome"] == "Suspended"


def test_a_resume_opens_a_new_attempt_and_renews_the_start() -> None:
    job = with_spec(suspended_job(), suspend=False)
    decided = decide(a_view(job))
    assert created(decided) == ["digits-train-2-0"]
    assert status_of(decided)["startTime"] == stamp(NOW)
    assert condition(decided, "Suspended").status == "False"
    assert decided.because == "start attempt 2 on 1 pod: the job was resumed"


def test_a_resume_waits_until_the_suspended_pods_are_gone() -> None:
    job = with_spec(suspended_job(), suspend=False)
    decided = decide(a_view(job, a_pod(0, running=True, deleting=True)))
    assert created(decided) == []
    assert condition(decided).reason == "Scheduling"
    assert "until the pods of the one before are gone" in condition(decided).message


def test_where_nodes_are_not_watched_a_suspension_comes_to_rest_by_the_clock() -> None:
    job, leaving = suspended_job(), a_pod(0, running=True, deleting=True)
    ending = decide(a_view(job, leaving, nodes=None))
    assert ending.due == WHOLE_NOW + timedelta(seconds=30 + 30)
    assert condition(decide(a_view(job, leaving, nodes=None), ending.due)).status == "True"


# Deadlines


def test_a_job_that_was_active_for_too_long_fails_and_its_pods_go_afterwards() -> None:
    job = an_open_job(activeDeadlineSeconds=60)  # opened a minute ago
    decided = decide(a_view(job, RUNNING))
    assert conditions(decided) == {"Ready": "False", "Stalled": "True", "Failed": "True"}
    assert condition(decided).reason == "DeadlineExceeded"
    assert status_of(decided)["attempts"][0]["reason"] == "DeadlineExceeded"
    assert deleted(decided) == []
    assert deleted(decide(a_view(after(job, decided), RUNNING))) == ["digits-train-1-0"]


def test_the_deadline_is_asked_for_in_time() -> None:
    decided = decide(a_view(an_open_job(activeDeadlineSeconds=90), RUNNING))
    assert decided.due == WHOLE_NOW + timedelta(seconds=30)


def test_a_result_at_the_deadline_is_not_thrown_away() -> None:
    job = an_open_job(activeDeadlineSeconds=60)
    assert condition(decide(a_view(job, a_pod(0, succeeded=True)))).reason == "Complete"


def test_the_deadline_does_not_run_while_the_job_is_suspended() -> None:
    job = with_spec(suspended_job(), activeDeadlineSeconds=1)
    decided = decide(a_view(job))
    assert condition(decided).reason == "Suspended"
    assert decided.due is None


# After the end


def complete_job(*pods: PodView, **more: Any) -> TrainingJob:
    job = an_open_job(len(pods), **more)
    return after(job, decide(a_view(job, *pods)))


DONE = a_pod(0, succeeded=True, said=a_result())
TTL = {"ttlSecondsAfterFinished": 100}


def test_finished_pods_of_the_last_attempt_are_kept_for_their_logs() -> None:
    decided = decide(a_view(complete_job(DONE), DONE))
    assert (decided.because, deleted(decided)) == ("", [])


def test_pods_of_earlier_attempts_are_not_kept() -> None:
    job = complete_job(a_pod(0, attempt=2, succeeded=True))
    old = a_pod(0, attempt=1, failed=True)
    assert deleted(decide(a_view(job, old))) == ["digits-train-1-0"]


def test_ranks_beside_a_success_are_given_their_own_end_for_their_grace_period() -> None:
    slow = a_pod(1, running=True)
    job = complete_job(DONE, slow, output="digits")
    patient = decide(a_view(job, DONE, slow))
    assert deleted(patient) == []
    assert patient.due == WHOLE_NOW + timedelta(seconds=30)
    assert deleted(decide(a_view(job, DONE, slow), patient.due)) == ["digits-train-1-1"]


def test_a_complete_job_is_deleted_when_its_time_has_passed() -> None:
    job = complete_job(DONE, **TTL)
    decided = decide(a_view(job, DONE))
    assert decided.due == WHOLE_NOW + timedelta(seconds=100)
    expired = decide(a_view(job, DONE), decided.due)
    (target,) = (each.target for each in expired.delete)
    assert (target.kind, target.name, target.uid) == ("TrainingJob", "digits", "uid-of-digits")


def test_a_failed_job_is_deleted_when_its_time_has_passed() -> None:
    job = an_open_job(failurePolicy={"maxRestarts": 0}, **TTL)
    failed = a_pod(0, failed=True)
    job = after(job, decide(a_view(job, failed)))
    assert deleted(decide(a_view(job, failed), NOW + timedelta(seconds=100))) == ["digits"]


@pytest.mark.parametrize(
    ("listed", "expected"),
    [
        pytest.param([], [], id="not before its version is listed"),
        pytest.param([{"version": 1, "digest": DIGEST}], ["digits"], id="after it is listed"),
        pytest.param(
            [{"version": 22, "digest": DIGEST}], ["digits"], id="after newer ones took its place"
        ),
    ],
)
def test_a_job_outlives_its_time_until_its_result_is_a_version(
    listed: list[dict[str, Any]], expected: list[str]
) -> None:
    job = complete_job(DONE, output="digits", **TTL)
    model = a_model(status={"versions": listed})
    later = NOW + timedelta(seconds=500)
    assert deleted(decide(a_view(job, DONE, model=model), later)) == expected


def test_without_its_model_a_job_is_kept() -> None:
    job = complete_job(DONE, output="digits", **TTL)
    assert deleted(decide(a_view(job, DONE), NOW + timedelta(seconds=500))) == []


def test_a_complete_job_stays_complete_whatever_happens_to_its_pods() -> None:
    job = complete_job(DONE)
    for pods in ((), (a_pod(0, failed=True),), (a_pod(0, gone=True),)):
        assert decide(a_view(job, *pods)).because == ""


def test_a_job_that_somebody_else_called_failed_holds_nothing_either() -> None:
    """The attempt is still open in the status, and no rule but that of the end is asked."""
    job = an_open_job()
    ended = {"type": "Failed", "status": "True", "reason": "Odd", "lastTransitionTime": stamp(NOW)}
    conditions = (Condition.model_validate({**ended, "message": "It was called off."}),)
    called_off = job.model_copy(
        update={"status": job.status.model_copy(update={"conditions": conditions})}
    )
    assert deleted(decide(a_view(called_off, RUNNING))) == ["digits-train-1-0"]


def test_a_suspension_after_the_end_changes_nothing() -> None:
    job = with_spec(complete_job(DONE), suspend=True)
    decided = decide(a_view(job, DONE))
    assert conditions(decided) == {"Ready": "True", "Complete": "True"}


def test_a_status_that_lost_its_conditions_gets_them_back_from_the_output() -> None:
    job = complete_job(DONE, output="digits")
    wiped = job.model_copy(update={"status": job.status.model_copy(update={"conditions": ()})})
    decided = decide(a_view(wiped), ago(-9))
    assert conditions(decided) == {"Ready": "True", "Complete": "True"}
    assert created(decided) == []


@pytest.mark.parametrize("year", ["0001", "9999"])
def test_a_time_that_cannot_be_reckoned_with_is_read_nowhere(year: str) -> None:
    """Whoever may write a status may write any: a year is added to it, and a time zone."""
    with pytest.raises(ValidationError, match="between the years"):
        TrainingJobStatus.model_validate({"startTime": f"{year}-12-31T23:59:59Z"})
