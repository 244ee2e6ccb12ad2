from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from lepton_operator.api.training import Attempt, TrainingJob
from lepton_operator.plan import Plan
from lepton_operator.training.backoff import delay_seconds, opens_at
from lepton_operator.views import PodView
from tests.builders import NOW, a_node, a_pod, a_record, ago
from tests.unit.training.builders import (
    a_restarting_job,
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

FAILED = a_pod(0, failed=True, said=a_record("Failed", reason="UserError", message="no such file"))
LOST = a_pod(0, running=True, gone=True)
PREEMPTED = a_pod(
    0,
    running=True,
    deleting=True,
    deleted_by_eviction=True,
    disruption="PreemptionByScheduler",
)
NO_RESTARTS = {"user": 0, "infrastructure": 0, "preemption": 0, "withoutProgress": 0}


def closed(pod: PodView, **policy: Any) -> Plan:
    return decide(a_view(an_open_job(failurePolicy=policy), pod))


@pytest.mark.parametrize(
    ("pod", "restarts"),
    [
        pytest.param(FAILED, {"user": 1}, id="the user's error"),
        pytest.param(LOST, {"infrastructure": 1}, id="a loss"),
        pytest.param(PREEMPTED, {"preemption": 1}, id="a preemption"),
    ],
)
def test_each_failure_counts_against_its_own_budget(pod: PodView, restarts: dict[str, int]) -> None:
    decided = closed(pod)
    assert status_of(decided)["restarts"] == NO_RESTARTS | restarts
    assert condition(decided).reason == "Restarting"
    assert condition(decided, "Reconciling").status == "True"
    assert [each.reason for each in decided.events] == ["AttemptFailed"]


@pytest.mark.parametrize(
    ("pod", "policy", "reason", "field"),
    [
        pytest.param(
            FAILED,
            {"maxRestarts": 0},
            "MaxRestartsExceeded",
            "failurePolicy.maxRestarts",
            id="the user's budget",
        ),
        pytest.param(
            LOST,
            {"maxInfrastructureRestarts": 0},
            "MaxInfrastructureRestartsExceeded",
            "failurePolicy.maxInfrastructureRestarts",
            id="the budget for losses",
        ),
    ],
)
def test_a_budget_that_is_used_up_ends_the_job(
    pod: PodView, policy: dict[str, int], reason: str, field: str
) -> None:
    decided = closed(pod, **policy)
    assert condition(decided).reason == reason
    assert field in condition(decided).message
    assert condition(decided).message.endswith("kubectl replace --force -f MANIFEST")
    assert conditions(decided) == {"Ready": "False", "Stalled": "True", "Failed": "True"}
    assert status_of(decided)["restarts"] == NO_RESTARTS
    assert [each.reason for each in decided.events] == ["AttemptFailed", "Failed"]


def test_a_budget_does_not_pay_for_the_other() -> None:
    assert condition(closed(LOST, maxRestarts=0)).reason == "Restarting"


def test_the_advice_is_never_cut() -> None:
    said = a_record("Failed", message="x" * 1024)
    decided = closed(a_pod(0, failed=True, said=said), maxRestarts=0)
    assert condition(decided).message.endswith("kubectl replace --force -f MANIFEST")


@pytest.mark.parametrize("reason", ["NoModel", "InvalidModel"])
def test_a_result_that_is_no_model_ends_the_job_at_once(reason: str) -> None:
    said = a_record("Failed", reason=reason, message="There is no model.onnx.")
    job = an_open_job(output="digits")
    decided = decide(a_view(job, a_pod(0, failed=True, said=said)))
    assert condition(decided, "Stalled").reason == reason
    assert "There is no model.onnx." in condition(decided).message
    assert status_of(decided)["restarts"] == NO_RESTARTS


def test_a_missing_store_counts_against_nothing_and_is_not_the_job_s_fault() -> None:
    said = a_record("Failed", reason="NoStore", message="There is no Secret lepton-store.")
    prepare = a_pod(0, failed=True, exit_code=3, said=said).containers[0]
    pod = a_pod(0, phase="Failed", init_containers=(_named(prepare, "prepare"),))
    decided = decide(a_view(an_open_job(output="digits", failurePolicy={"maxRestarts": 0}), pod))
    assert condition(decided).reason == "NoStore"
    assert condition(decided, "Reconciling").status == "True"
    assert status_of(decided)["restarts"] == NO_RESTARTS
    assert "budget" not in status_of(decided)["attempts"][0]


def _named(container: Any, name: str) -> Any:
    return type(container)(
        name,
        "terminated",
        exit_code=container.exit_code,
        message=container.message,
        finished=container.finished,
    )


def test_a_closed_attempt_s_pods_go_in_the_pass_after_its_record() -> None:
    job = an_open_job(2)
    pods = (a_pod(0, running=True), a_pod(1, failed=True))
    recorded = after(job, decide(a_view(job, *pods)))
    decided = decide(a_view(recorded, *pods))
    assert deleted(decided) == ["digits-train-1-0", "digits-train-1-1"]
    assert decided.status is None


# The delay between two attempts


@pytest.mark.parametrize(
    ("failures", "longest"),
    [(0, 0), (1, 0), (2, 1), (3, 2), (4, 4), (7, 32), (8, 60), (10, 60), (500, 60)],
)
def test_the_delay_doubles_up_to_a_minute_from_the_second_restart_on(
    failures: int, longest: int
) -> None:
    delays = [delay_seconds(failures, f"uid-{each}", 7) for each in range(50)]
    assert all(longest / 2 <= each <= longest for each in delays)


def test_jobs_that_failed_together_do_not_come_back_together() -> None:
    delays = {delay_seconds(8, f"uid-{each}", 7) for each in range(50)}
    assert len(delays) == 50
    assert max(delays) - min(delays) > 20


def test_a_delay_is_the_same_whoever_computes_it() -> None:
    assert delay_seconds(8, "uid", 7) == delay_seconds(8, "uid", 7)


def failures(*changes: dict[str, Any]) -> list[Attempt]:
    """Attempts that failed, one after the other; a change makes one of them differ."""
    failed = Attempt(number=1, start_time=ago(9), end_time=ago(5), outcome="Failed", generation=1)
    return [
        failed.model_copy(update={"number": number, **each})
        for number, each in enumerate(changes, start=1)
    ]


LONG_RUN = {"running_time": ago(5 + 300)}
SHORT_RUN = {"running_time": ago(5 + 299)}


@pytest.mark.parametrize(
    ("attempts", "longest"),
    [
        pytest.param(failures({}), 0, id="the first restart comes at once"),
        pytest.param(failures({}, {}), 1, id="the second waits"),
        pytest.param(failures({}, {}, {}), 2, id="the third waits longer"),
        pytest.param(failures({}, {}, LONG_RUN), 0, id="a long run begins them anew"),
        pytest.param(failures({}, LONG_RUN, {}), 1, id="one failure after a long run is a second"),
        pytest.param(failures({}, {}, SHORT_RUN), 2, id="a short run does not"),
        pytest.param(
            failures({}, {}, {"outcome": "Suspended"}, {}), 0, id="a suspension begins them anew"
        ),
        pytest.param(
            failures({"generation": 0}, {"generation": 0}, {}), 0, id="a changed spec forgives"
        ),
        pytest.param(
            failures({"generation": None}, {}), 1, id="an attempt of unknown generation counts"
        ),
    ],
)
def test_what_the_next_attempt_waits_for(attempts: list[Attempt], longest: int) -> None:
    ended = ago(5).replace(microsecond=0)
    opens = opens_at(attempts, "uid", 1)
    assert opens is not None
    assert timedelta(seconds=longest / 2) <= opens - ended <= timedelta(seconds=longest)


@pytest.mark.parametrize(
    "attempts",
    [
        pytest.param([], id="there was none"),
        pytest.param(failures({}, {"outcome": "Suspended"}), id="the last one was suspended"),
        pytest.param(failures({}, {"generation": 0}), id="the spec was changed since"),
    ],
)
def test_when_there_is_nothing_to_wait_for(attempts: list[Attempt]) -> None:
    assert opens_at(attempts, "uid", 1) is None


def job_that_failed_now(nodes: int = 1) -> TrainingJob:
    job = an_open_job(nodes)
    pods = (a_pod(rank, failed=True) for rank in range(nodes))
    return after(job, decide(a_view(job, *pods)))


def test_the_first_restart_is_not_delayed() -> None:
    assert created(decide(a_view(job_that_failed_now()))) == ["digits-train-2-0"]


def test_a_later_attempt_waits_for_its_delay_and_says_when() -> None:
    job = a_restarting_job(attempts=8)
    early = decide(a_view(job))
    assert created(early) == []
    assert early.due is not None
    assert decide(a_view(after(job, early))).because == ""
    assert created(decide(a_view(job), early.due)) == ["digits-train-9-0"]


def test_the_next_attempt_waits_until_old_pods_are_gone() -> None:
    leaving = a_pod(0, running=True, deleting=True)
    decided = decide(a_view(a_restarting_job(), leaving))
    assert (created(decided), deleted(decided)) == ([], [])


def test_a_finished_pod_that_a_finalizer_keeps_is_not_waited_for() -> None:
    decided = decide(a_view(a_restarting_job(), a_pod(0, failed=True, deleting=True)))
    assert created(decided) == ["digits-train-2-0"]


def test_a_pod_on_a_node_that_is_not_ready_is_not_waited_for() -> None:
    leaving = a_pod(0, running=True, deleting=True)
    nodes = (a_node("node-1", ready=False),)
    decided = decide(a_view(a_restarting_job(), leaving, nodes=nodes))
    assert created(decided) == ["digits-train-2-0"]


def test_a_pod_on_a_node_that_is_not_ready_is_deleted_before_it_is_given_up() -> None:
    nodes = (a_node("node-1", ready=False),)
    decided = decide(a_view(a_restarting_job(), a_pod(0, running=True), nodes=nodes))
    assert (created(decided), deleted(decided)) == ([], ["digits-train-1-0"])


def test_where_nodes_are_not_watched_a_pod_is_given_up_after_grace_and_patience() -> None:
    job, leaving = job_that_failed_now(), a_pod(0, running=True, deleting=True)
    early = decide(a_view(job, leaving, nodes=None))
    assert created(early) == []
    assert early.due == NOW.replace(microsecond=0) + timedelta(seconds=30 + 30)
    late = decide(a_view(job, leaving, nodes=None), early.due)
    assert created(late) == ["digits-train-2-0"]


def test_a_failed_job_is_not_revived_by_a_larger_budget() -> None:
    job = after(an_open_job(), closed(FAILED, maxRestarts=0))
    changed = with_spec(job, failurePolicy={"maxRestarts": 9})
    decided = decide(a_view(changed, FAILED))
    assert created(decided) == []
    assert status_of(decided)["observedGeneration"] == 2
    assert condition(decided, "Failed").status == "True"
