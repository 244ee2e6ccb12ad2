"""Which budget pays for a restart, which restarts are free, and what the user's own rules say."""

from __future__ import annotations

from typing import Any

import pytest

from lepton_launcher.options import Options, parse_options
from lepton_operator import names
from lepton_operator.api.training import Progress, TrainingJob
from lepton_operator.build import training as build
from lepton_operator.plan import Plan
from lepton_operator.views import InPlace, PodView, Told
from tests.builders import (
    NOW,
    a_container,
    a_node,
    a_pod,
    a_record,
    a_training_job,
    ago,
    defaults,
    stamp,
)
from tests.unit.training.builders import (
    a_view,
    after,
    an_open_job,
    condition,
    conditions,
    decide,
    status_of,
    with_status,
)

NODES = tuple(a_node(f"node-{number}") for number in range(1, 9))
RAN = {"runningTime": stamp(ago(50))}


def a_job(
    *, furthest: int | None = None, restarts: dict[str, int] | None = None, **policy: Any
) -> TrainingJob:
    """A job of one pod whose attempt 2 is open; what came before is in its counters."""
    counted = {"user": 0, "infrastructure": 0, "preemption": 0, "withoutProgress": 0}
    before = {
        "number": 1,
        "startTime": stamp(ago(300)),
        "endTime": stamp(ago(100)),
        "outcome": "Failed",
        "reason": "PodLost",
        **RAN,
        **({} if furthest is None else {"step": furthest}),
    }
    status = {
        "observedGeneration": 1,
        "attempts": [before, {"number": 2, "startTime": stamp(ago(60)), "outcome": "Running"}],
        "restarts": counted | (restarts or {}),
        "startTime": stamp(ago(300)),
        **({} if furthest is None else {"furthestStep": furthest}),
    }
    return a_training_job(status=status, failurePolicy=policy)


def said(step: int | None = None, **more: Any) -> str:
    """What a pod leaves whose ranks reported this step themselves."""
    told = {} if step is None else {"step": step, "furthest": step}
    return a_record("Failed", reason="UserError", message="ValueError: bad", **told | more)


def failed(step: int | None = None, exit_code: int = 1, **more: Any) -> PodView:
    return a_pod(0, attempt=2, failed=True, exit_code=exit_code, said=said(step, **more))


LOST = a_pod(0, attempt=2, running=True, gone=True)
PREEMPTED = a_pod(
    0, attempt=2, running=True, deleted_by_eviction=True, disruption="PreemptionByScheduler"
)


def close(job: TrainingJob, pod: PodView) -> Plan:
    return decide(a_view(job, pod, nodes=NODES))


def restarts(decided: Plan) -> dict[str, int]:
    """The counters that are not 0."""
    found: dict[str, int] = status_of(decided)["restarts"]
    return {name: count for name, count in found.items() if count}


def budget(decided: Plan) -> str | None:
    found: str | None = status_of(decided)["attempts"][-1].get("budget")
    return found


def reason(decided: Plan) -> str:
    return condition(decided).reason


# --- restarts that moved the run forward are free


@pytest.mark.parametrize(
    ("furthest", "pod", "counted", "pays"),
    [
        pytest.param(100, failed(150), {}, None, id="it got further"),
        pytest.param(
            100, failed(100), {"user": 1, "withoutProgress": 3}, "User", id="it got as far"
        ),
        pytest.param(
            100, failed(20), {"user": 1, "withoutProgress": 3}, "User", id="it did not get as far"
        ),
        pytest.param(
            100, failed(), {"user": 1, "withoutProgress": 3}, "User", id="it does not say how far"
        ),
        pytest.param(
            100, LOST, {"infrastructure": 1, "withoutProgress": 3}, "Infrastructure", id="a loss"
        ),
        pytest.param(
            100, PREEMPTED, {"preemption": 1, "withoutProgress": 3}, "Preemption", id="a preemption"
        ),
        pytest.param(
            None,
            failed(0),
            {"user": 1, "withoutProgress": 3},
            "User",
            id="step 0 is where every run begins",
        ),
        pytest.param(None, failed(1), {}, None, id="the first step of all"),
        pytest.param(
            100,
            failed(150, furthest=None),
            {"user": 1, "withoutProgress": 3},
            "User",
            id="it only counted further, from 1 as every process does",
        ),
        pytest.param(
            100, failed(20, furthest=110), {}, None, id="it saved a checkpoint that is further"
        ),
        pytest.param(
            None, failed(), {"user": 1, "withoutProgress": 2}, "User", id="no step was ever told"
        ),
    ],
)
def test_what_a_restart_costs(
    furthest: int | None, pod: PodView, counted: dict[str, int], pays: str | None
) -> None:
    decided = close(a_job(furthest=furthest, restarts={"withoutProgress": 2}), pod)
    assert (restarts(decided), budget(decided)) == (counted, pays)
    assert reason(decided) == "Restarting"


def test_a_free_restart_comes_even_where_no_budget_is_left() -> None:
    job = a_job(furthest=100, restarts={"user": 3, "withoutProgress": 10}, maxRestarts=3)
    decided = close(job, failed(150))
    assert reason(decided) == "Restarting"
    assert restarts(decided) == {"user": 3}
    assert status_of(decided)["furthestStep"] == 150


def test_the_furthest_step_outlives_the_attempts_that_are_kept() -> None:
    job = a_job(furthest=100)
    status = job.status.model_copy(update={"furthest_step": 900})
    decided = close(job.model_copy(update={"status": status}), failed(150))
    assert budget(decided) == "User"
    assert status_of(decided)["furthestStep"] == 900


@pytest.mark.parametrize(
    "pod",
    [
        pytest.param(failed(20), id="the user's failures"),
        pytest.param(LOST, id="losses"),
        pytest.param(PREEMPTED, id="preemptions, which nothing else bounds"),
    ],
)
def test_restarts_without_progress_end_the_job_whatever_their_cause(pod: PodView) -> None:
    policy = {"maxRestarts": 50, "maxRestartsWithoutProgress": 4}
    nearly = close(a_job(furthest=100, restarts={"withoutProgress": 3}, **policy), pod)
    assert reason(nearly) == "Restarting"
    ended = close(a_job(furthest=100, restarts={"withoutProgress": 4}, **policy), pod)
    assert conditions(ended) == {"Ready": "False", "Stalled": "True", "Failed": "True"}
    assert reason(ended) == "NoProgress"
    message = condition(ended).message
    assert "started again 4 times in a row without getting beyond step 100" in message
    assert "failurePolicy.maxRestartsWithoutProgress" in message


def test_preemptions_are_counted_and_not_bounded() -> None:
    policy = {"maxRestarts": 0, "maxInfrastructureRestarts": 0, "maxRestartsWithoutProgress": 0}
    decided = close(a_job(restarts={"preemption": 10_000}, **policy), PREEMPTED)
    assert (reason(decided), restarts(decided)) == ("Restarting", {"preemption": 10_001})


# --- what the launchers did themselves counts too: budgets do not multiply


def launcher_of(job: TrainingJob) -> Options:
    resolved = build.resolve(job.spec, defaults())
    command = build.pod(job, resolved, 3, 0)["spec"]["containers"][0]["command"]
    return parse_options(command[command.index("run") + 1 :])


@pytest.mark.parametrize(
    ("limit", "spent", "in_place", "counted"),
    [
        pytest.param(5, 1, 2, 4, id="two in the pod, and the one that follows"),
        pytest.param(5, 1, 0, 2, id="none in the pod"),
        pytest.param(3, 1, 2, 3, id="the pod has spent what was left: it was the last"),
        pytest.param(3, 1, 900, 3, id="a pod that claims more than it was given"),
    ],
)
def test_restarts_in_the_pod_are_taken_from_the_same_budget(
    limit: int, spent: int, in_place: int, counted: int
) -> None:
    job = a_job(restarts={"user": spent}, maxRestarts=limit)
    assert launcher_of(job).max_restarts == limit - spent
    decided = close(job, failed(restarts=in_place))
    assert restarts(decided) == {"user": counted}
    goes_on = counted > spent + in_place
    assert reason(decided) == ("Restarting" if goes_on else "MaxRestartsExceeded")
    assert status_of(decided)["attempts"][-1].get("restarts") == (in_place or None)
    assert launcher_of(after(job, decided)).max_restarts == limit - counted


def test_what_a_gang_did_is_known_from_any_of_its_pods() -> None:
    told = a_record("Failed", reason="Terminated", message="stopped", restarts=2)
    pods = (a_pod(0, failed=True, said=said()), a_pod(1, failed=True, said=told))
    assert restarts(decide(a_view(an_open_job(2), *pods, nodes=NODES))) == {"user": 3}


def test_restarts_in_the_pod_of_a_run_that_got_further_were_paid_for_before() -> None:
    decided = close(a_job(furthest=100), failed(150, restarts=2))
    assert (restarts(decided), budget(decided)) == ({"user": 2}, None)


def test_restarts_in_the_pod_without_progress_are_some_in_a_row() -> None:
    job = a_job(furthest=100, maxRestarts=9, maxRestartsWithoutProgress=3)
    assert restarts(close(job, failed(20, restarts=2))) == {"user": 3, "withoutProgress": 3}
    assert reason(close(job, failed(20, restarts=3))) == "NoProgress"


def test_the_launchers_know_how_far_earlier_attempts_came() -> None:
    assert launcher_of(a_job(furthest=100)).furthest_step == 100
    assert launcher_of(a_job()).furthest_step == -1


@pytest.mark.parametrize(("action", "left"), [("Restart", 3), ("Fail", 0), ("Ignore", 0)])
@pytest.mark.parametrize("match", [{"messagePattern": "nan"}, {"reasons": ["UserError"]}])
def test_where_a_rule_may_be_about_any_failure_all_come_to_the_operator(
    match: dict[str, Any], action: str, left: int
) -> None:
    rules = [{"match": match, "action": action}]
    assert launcher_of(a_job(rules=rules)).max_restarts == left


def test_the_launchers_know_the_ends_that_a_rule_is_about() -> None:
    rules = [
        {"match": {"exitCodes": [42, 3], "messagePattern": "nan"}, "action": "Fail"},
        {"match": {"signals": [9]}, "action": "Ignore"},
        {"match": {"exitCodes": [4], "signals": [7]}, "action": "RestartElsewhere"},
        {"match": {"exitCodes": [5]}, "action": "Restart"},
    ]
    launcher = launcher_of(a_job(rules=rules))
    assert launcher.max_restarts == 3
    assert sorted(launcher.final_exit_codes) == [3, 4, 42]
    assert sorted(launcher.final_signals) == [9]


def told(**in_place: Any) -> Told:
    """What rank 0 of attempt 2 told last."""
    at = NOW.replace(microsecond=0)
    progress = Progress(time=at, attempt=2, phase="training", step=140)
    return Told(progress, InPlace(**in_place))


def test_a_lost_pod_s_gang_is_known_by_what_it_told() -> None:
    job = a_job(furthest=100)
    decided = decide(a_view(job, LOST, nodes=NODES, told=told(restarts=2, furthest=90)))
    counted = {"user": 2, "infrastructure": 1, "withoutProgress": 3}
    assert (restarts(decided), budget(decided)) == (counted, "Infrastructure")
    attempt = status_of(decided)["attempts"][-1]
    assert (attempt["step"], attempt["furthestStep"], attempt["restarts"]) == (140, 90, 2)


def test_a_lost_pod_s_gang_that_got_further_is_free() -> None:
    decided = decide(a_view(a_job(furthest=100), LOST, nodes=NODES, told=told(furthest=130)))
    assert (restarts(decided), budget(decided)) == ({}, None)
    assert status_of(decided)["furthestStep"] == 130


def test_what_the_status_knows_of_a_gang_outlives_the_operator() -> None:
    job = a_job(furthest=100)
    running = a_pod(0, attempt=2, running=True)
    in_status = decide(a_view(job, running, told=told(restarts=2, furthest=130)))
    decided = close(after(job, in_status), LOST)
    assert restarts(decided) == {"user": 2}
    assert status_of(decided)["furthestStep"] == 130


def test_a_step_that_was_told_is_too_old_to_tell_errors_apart() -> None:
    no_message = a_pod(0, attempt=2, failed=True)
    decided = decide(a_view(a_job(furthest=100), no_message, nodes=NODES, told=told()))
    assert "step" not in status_of(decided)["attempts"][-1]


# --- a script that tells no steps, and saves by itself

SAVED = a_pod(0, attempt=2, failed=True, said=said(saved=True))


def test_a_file_that_was_completed_is_progress_where_no_steps_are_known() -> None:
    decided = close(a_job(maxRestarts=0), SAVED)
    assert (restarts(decided), budget(decided)) == ({}, None)
    assert conditions(decided) == {"Ready": "False", "Reconciling": "True"}
    lost = decide(a_view(a_job(), LOST, nodes=NODES, told=told(saved=True)))
    assert (restarts(lost), budget(lost)) == ({}, None)


def test_files_count_nothing_where_steps_are_known() -> None:
    assert budget(close(a_job(furthest=100), SAVED)) == "User"


def test_a_job_that_has_saved_before_is_ended_by_restarts_without_progress() -> None:
    job = a_job(maxRestarts=9, maxRestartsWithoutProgress=0)
    attempts = [{**job.wire()["status"]["attempts"][0], "saved": True}]
    attempts.append(job.wire()["status"]["attempts"][1])
    job = with_status(job, {**job.wire()["status"], "attempts": attempts})
    decided = close(job, failed())
    assert reason(decided) == "NoProgress"
    assert "without completing a file in checkpoint.volume" in condition(decided).message


def test_a_success_tells_what_it_cost() -> None:
    told = a_record(reason="Succeeded", restarts=2)
    decided = close(a_job(), a_pod(0, attempt=2, succeeded=True, said=told))
    assert (reason(decided), restarts(decided)) == ("Complete", {"user": 2})


# --- without steps the budgets alone count, and a condition says so


def test_where_no_step_was_told_a_condition_says_that_the_budgets_alone_count() -> None:
    decided = close(a_job(), failed())
    found = condition(decided, "ProgressKnown")
    assert (found.status, found.reason) == ("False", "NoSteps")
    assert "LEPTON_STEP_FILE" in found.message
    ended = close(a_job(restarts={"user": 3}), failed())
    assert reason(ended) == "MaxRestartsExceeded"


@pytest.mark.parametrize(
    ("in_place", "is_told"),
    [
        pytest.param(InPlace(restarts=1), True, id="nothing tells of steps"),
        pytest.param(InPlace(restarts=1, furthest=7), False, id="the script reports them"),
        pytest.param(InPlace(restarts=1, saved=True), False, id="it saves files"),
        pytest.param(InPlace(), False, id="nothing has failed"),
    ],
)
def test_a_restart_in_the_pods_is_enough_for_the_condition(
    in_place: InPlace, *, is_told: bool
) -> None:
    pods = (a_pod(0, running=True), a_pod(1, running=True))
    told = Told(Progress(time=NOW, attempt=1, phase="training"), in_place)
    decided = decide(a_view(an_open_job(2), *pods, told=told))
    assert ("ProgressKnown" in conditions(decided)) is is_told


def test_the_condition_goes_with_the_first_step() -> None:
    job = after(a_job(), close(a_job(), failed()))
    assert conditions(close(a_job(furthest=None), failed(5))).keys() == {"Ready", "Reconciling"}
    assert "ProgressKnown" in {each.type for each in job.status.conditions}


def test_a_job_whose_ranks_never_ran_could_not_tell_of_steps() -> None:
    job = a_job()
    never = [each.model_copy(update={"running_time": None}) for each in job.status.attempts]
    status = job.status.model_copy(update={"attempts": tuple(never), "conditions": ()})
    decided = close(job.model_copy(update={"status": status}), a_pod(0, attempt=2, gone=True))
    assert conditions(decided).keys() == {"Ready", "Reconciling"}


def test_an_attempt_says_since_when_its_ranks_ran_and_under_which_spec() -> None:
    found = status_of(close(a_job(), failed()))["attempts"][-1]
    assert (found["runningTime"], found["generation"]) == (stamp(ago(20)), 1)


@pytest.mark.parametrize(
    "pod",
    [
        pytest.param(a_pod(1, gone=True), id="a pod was lost before its ranks started"),
        pytest.param(
            a_pod(1, failed=True, containers=(a_container(exit_code=128, started=None),)),
            id="a container was never run",
        ),
    ],
)
def test_an_attempt_whose_ranks_never_all_ran_has_no_such_time(pod: PodView) -> None:
    decided = decide(a_view(an_open_job(2), a_pod(0, running=True), pod))
    found = status_of(decided)["attempts"][-1]
    assert found["outcome"] == "Failed"
    assert "runningTime" not in found


# --- rules of the user's own


PATTERN = "loss is (nan|inf)"
MATCHED = [names.short_hash(PATTERN)]


def rule(action: str, **match: Any) -> dict[str, Any]:
    return {"match": match, "action": action}


def by_rules(pod: PodView, *rules: dict[str, Any], **more: Any) -> Plan:
    return close(a_job(rules=[*rules], **more), pod)


@pytest.mark.parametrize(
    ("match", "pod"),
    [
        pytest.param({"exitCodes": [3, 42]}, failed(exit_code=42), id="an exit code"),
        pytest.param({"signals": [6, 11]}, failed(exit_code=139), id="a signal"),
        pytest.param({"reasons": ["PodLost"]}, LOST, id="a class, of the infrastructure too"),
        pytest.param({"messagePattern": PATTERN}, failed(matched=MATCHED), id="a pattern"),
        pytest.param(
            {"exitCodes": [42], "messagePattern": PATTERN, "reasons": ["UserError"]},
            failed(exit_code=42, matched=MATCHED),
            id="all that it names",
        ),
    ],
)
def test_what_a_rule_matches(match: dict[str, Any], pod: PodView) -> None:
    decided = by_rules(pod, rule("Fail", **match))
    assert reason(decided) == "FailedByRule"
    assert "failurePolicy.rules[0] says Fail" in condition(decided).message
    assert status_of(decided)["attempts"][-1]["rule"] == 0


@pytest.mark.parametrize(
    ("match", "pod"),
    [
        pytest.param({"exitCodes": [3]}, failed(exit_code=42), id="another exit code"),
        pytest.param({"signals": [9]}, failed(exit_code=1), id="no signal"),
        pytest.param({"exitCodes": [1]}, LOST, id="a pod that is gone has no exit code"),
        pytest.param({"messagePattern": PATTERN}, failed(), id="a pattern that was not found"),
        pytest.param(
            {"messagePattern": "loss is"},
            failed(matched=MATCHED),
            id="a pattern that the pod was not told, since it was changed",
        ),
        pytest.param(
            {"exitCodes": [42], "reasons": ["OutOfMemory"]},
            failed(exit_code=42),
            id="one of two that it names",
        ),
    ],
)
def test_what_a_rule_does_not_match(match: dict[str, Any], pod: PodView) -> None:
    decided = by_rules(pod, rule("Fail", **match))
    assert reason(decided) == "Restarting"
    assert "rule" not in status_of(decided)["attempts"][-1]


def test_the_first_rule_that_matches_decides() -> None:
    rules = (rule("Ignore", exitCodes=[1]), rule("Fail", reasons=["UserError"]))
    decided = by_rules(failed(), *rules)
    assert (reason(decided), status_of(decided)["attempts"][-1]["rule"]) == ("Restarting", 0)


def test_ignore_counts_against_nothing() -> None:
    decided = by_rules(failed(), rule("Ignore", exitCodes=[1]), restarts={"user": 3})
    assert (reason(decided), restarts(decided), budget(decided)) == (
        "Restarting",
        {"user": 3},
        None,
    )


def test_restart_elsewhere_avoids_the_node() -> None:
    decided = by_rules(failed(), rule("RestartElsewhere", exitCodes=[1]))
    assert [each["node"] for each in status_of(decided)["avoidedNodes"]] == ["node-1"]
    assert (reason(decided), budget(decided)) == ("Restarting", "User")


def test_restart_goes_before_what_the_class_would_do() -> None:
    decided = by_rules(failed(matched=["GpuError"]), rule("Restart", reasons=["GpuError"]))
    assert "avoidedNodes" not in status_of(decided)


def test_a_rule_s_restart_is_bounded_as_any_other() -> None:
    decided = by_rules(failed(), rule("Restart", exitCodes=[1]), restarts={"user": 3})
    assert reason(decided) == "MaxRestartsExceeded"


def test_of_equal_failures_the_one_that_a_rule_is_about_is_the_cause() -> None:
    job = a_training_job(
        2,
        failurePolicy={"rules": [rule("Fail", exitCodes=[42])]},
        status={
            "observedGeneration": 1,
            "attempts": [{"number": 2, "startTime": stamp(ago(60)), "outcome": "Running"}],
        },
    )
    first = a_pod(0, attempt=2, failed=True, said=said(), finished=ago(9))
    ruled = a_pod(1, attempt=2, failed=True, exit_code=42, said=said(), finished=ago(1))
    assert reason(decide(a_view(job, first, ruled))) == "FailedByRule"
    lost = a_pod(0, attempt=2, running=True, gone=True)
    assert reason(decide(a_view(job, lost, ruled))) == "Restarting"
