from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from lepton_operator.api.training import Attempt
from lepton_operator.plan import Plan
from lepton_operator.views import ContainerView, PodView
from tests.builders import a_container, a_node, a_pod, a_record, a_result, ago
from tests.unit.training.builders import a_view, an_open_job, decide, status_of

NO_STORE = a_record("Failed", reason="NoStore", message="There is no Secret lepton-store.")
BUG = a_record("Failed", reason="UserError", message="ValueError: bad")
UNAVAILABLE = a_record("Failed", reason="StoreUnavailable", message="The store does not answer.")


def prepared(exit_code: int, message: str = "") -> tuple[ContainerView, ...]:
    return (a_container("prepare", exit_code=exit_code, message=message),)


def attempt(decided: Plan) -> Attempt:
    return Attempt.model_validate(status_of(decided)["attempts"][-1])


def fate(*pods: PodView, output: str | None = None, nodes: Any = None) -> Attempt:
    job = an_open_job(2, output=output)
    more = {} if nodes is None else {"nodes": nodes}
    return attempt(decide(a_view(job, *pods, **more)))


RUNNING = a_pod(0, running=True)


@pytest.mark.parametrize(
    ("pod", "reason", "budget"),
    [
        pytest.param(
            a_pod(1, failed=True, said=BUG),
            "UserError",
            "User",
            id="a script that exits 1 is the user's",
        ),
        pytest.param(
            a_pod(1, failed=True, exit_code=137, said=BUG),
            "UserError",
            "User",
            id="a signal with pod and node alive is the user's",
        ),
        pytest.param(
            a_pod(1, failed=True, exit_code=137),
            "NoMessage",
            "User",
            id="a launcher that was killed too left no message",
        ),
        pytest.param(
            a_pod(1, failed=True, said='{"outcome": "Fai'),
            "NoMessage",
            "User",
            id="a message that was cut is none",
        ),
        pytest.param(
            a_pod(1, failed=True, said=NO_STORE),
            "UserError",
            "User",
            id="a user's container cannot claim that the store was missing",
        ),
        pytest.param(
            a_pod(1, failed=True, said=a_record("Failed", reason="NoModel")),
            "UserError",
            "User",
            id="only rank 0 can say that there is no model",
        ),
        pytest.param(
            a_pod(1, running=True, gone=True),
            "PodLost",
            "Infrastructure",
            id="a pod that is simply gone is lost",
        ),
        pytest.param(
            a_pod(1, running=True, deleting=True),
            "PodLost",
            "Infrastructure",
            id="a pod that somebody deletes is lost",
        ),
        pytest.param(
            a_pod(1, failed=True, exit_code=143, deleting=True),
            "PodLost",
            "Infrastructure",
            id="what a pod exits with while it is deleted is not the user's",
        ),
        pytest.param(
            a_pod(1, failed=True, deleted_by_eviction=True),
            "Evicted",
            "Infrastructure",
            id="a preempted pod",
        ),
        pytest.param(
            a_pod(1, phase="Failed", reason="Evicted", message="low on memory"),
            "Evicted",
            "Infrastructure",
            id="a pod that its node evicted",
        ),
        pytest.param(
            a_pod(1, phase="Failed", reason="UnexpectedAdmissionError", message="no GPU left"),
            "PodLost",
            "Infrastructure",
            id="a pod that its kubelet refused",
        ),
        pytest.param(
            a_pod(1, phase="Failed"),
            "PodLost",
            "Infrastructure",
            id="a failed pod whose containers say nothing",
        ),
        pytest.param(
            a_pod(1, phase="Failed", init_containers=prepared(3, NO_STORE)),
            "NoStore",
            None,
            id="a missing store counts against no budget",
        ),
        pytest.param(
            a_pod(1, phase="Failed", init_containers=prepared(3, UNAVAILABLE)),
            "StoreUnavailable",
            None,
            id="a store that does not answer counts against no budget",
        ),
        pytest.param(
            a_pod(1, phase="Failed", init_containers=prepared(3)),
            "NoStore",
            None,
            id="the exit code tells of a missing store where the message was lost",
        ),
        pytest.param(
            a_pod(1, phase="Failed", init_containers=prepared(1)),
            "PreparationFailed",
            "Infrastructure",
            id="an init container of ours that fails is not the user's",
        ),
    ],
)
def test_how_a_pod_fails_decides_the_budget(pod: PodView, reason: str, budget: str | None) -> None:
    found = fate(RUNNING, pod)
    assert (found.outcome, found.reason, found.budget) == ("Failed", reason, budget)


@pytest.mark.parametrize(
    "pod",
    [
        pytest.param(a_pod(1), id="it starts"),
        pytest.param(a_pod(1, node=None), id="it waits for the scheduler"),
        pytest.param(a_pod(1, running=True), id="it runs"),
        pytest.param(a_pod(1, succeeded=True), id="it ended well"),
        pytest.param(a_pod(1, succeeded=True, gone=True), id="it ended well and is gone"),
        pytest.param(
            a_pod(1, succeeded=True, deleted_by_eviction=True), id="it ended well, then was evicted"
        ),
        pytest.param(a_pod(1, succeeded=True, node="node-2"), id="it ended well on a silent node"),
    ],
)
def test_a_pod_that_does_not_fail_leaves_the_attempt_open(pod: PodView) -> None:
    nodes = (a_node("node-1"), a_node("node-2", ready=False, since=ago(300)))
    job = an_open_job(2)
    decided = decide(a_view(job, RUNNING, pod, nodes=nodes))
    status = decided.status or job.status.wire()
    assert status["attempts"][-1]["outcome"] == "Running"


def test_a_pod_of_which_nothing_is_left_is_looked_for_before_it_counts_as_lost() -> None:
    decided = decide(a_view(an_open_job(2), RUNNING))
    assert attempt(decided).reason == "PodLost"
    assert decided.relist


def test_a_tombstone_needs_no_second_look() -> None:
    decided = decide(a_view(an_open_job(2), RUNNING, a_pod(1, gone=True)))
    assert attempt(decided).reason == "PodLost"
    assert not decided.relist


def test_a_node_is_given_up_after_its_patience() -> None:
    job = an_open_job(2)
    pods = (RUNNING, a_pod(1, running=True, node="node-2"))
    silent = (a_node("node-1"), a_node("node-2", ready=False, since=ago(29)))
    patient = decide(a_view(job, *pods, nodes=silent))
    assert status_of(patient)["attempts"][-1]["outcome"] == "Running"
    assert patient.due is not None
    late = attempt(decide(a_view(job, *pods, nodes=silent), patient.due))
    assert (late.reason, late.budget, late.node) == ("NodeNotReady", "Infrastructure", "node-2")


@pytest.mark.parametrize(
    ("pods", "reason", "node"),
    [
        pytest.param(
            (
                a_pod(0, failed=True, said=BUG, finished=ago(2)),
                a_pod(1, failed=True, said=BUG, finished=ago(5), node="node-2"),
            ),
            "UserError",
            "node-2",
            id="the rank that ended first, not its peers with broken connections",
        ),
        pytest.param(
            (a_pod(0, failed=True, finished=ago(9)), a_pod(1, gone=True, node="node-2")),
            "PodLost",
            "node-2",
            id="a lost pod outranks peers that ended because of it",
        ),
        pytest.param(
            (
                a_pod(0, failed=True, said=a_record("Failed", reason="NoModel")),
                a_pod(1, gone=True, node="node-2"),
            ),
            "NoModel",
            "node-1",
            id="a result that is no model stays one, whatever happens to its peers",
        ),
    ],
)
def test_of_several_failures_one_is_the_cause(
    pods: tuple[PodView, ...], reason: str, node: str
) -> None:
    found = fate(*pods, output="digits")
    assert (found.reason, found.node) == (reason, node)


def test_an_attempt_says_who_failed_and_how() -> None:
    said = a_record("Failed", reason="UserError", rank=1, signal=9, message="Killed")
    found = fate(RUNNING, a_pod(1, failed=True, exit_code=137, said=said, node="node-2"))
    assert (found.exit_code, found.signal, found.rank, found.node) == (137, 9, 1, "node-2")
    assert found.last_error_line == "Killed"
    assert found.message is not None
    assert "digits-train-1-1" in found.message
    assert "SIGKILL" in found.message


def test_an_exit_code_above_128_is_a_signal() -> None:
    assert fate(RUNNING, a_pod(1, failed=True, exit_code=139)).signal == 11


def test_a_rank_that_is_not_in_the_pod_is_not_believed() -> None:
    said = a_record("Failed", reason="UserError", rank=7)
    assert fate(RUNNING, a_pod(1, failed=True, said=said)).rank == 1


def test_with_several_ranks_in_a_pod_the_rank_is_known_only_if_it_is_told() -> None:
    job = an_open_job(2, numProcPerNode=4)
    said = a_record("Failed", reason="UserError", rank=6)
    told = decide(a_view(job, RUNNING, a_pod(1, failed=True, said=said)))
    silent = decide(a_view(job, RUNNING, a_pod(1, failed=True)))
    assert attempt(told).rank == 6
    assert attempt(silent).rank is None


def test_an_out_of_memory_kill_says_what_to_raise() -> None:
    killed = a_container(exit_code=137, reason="OOMKilled")
    found = fate(RUNNING, a_pod(1, failed=True, containers=(killed,)))
    assert (found.reason, found.budget) == ("OutOfMemory", "User")
    assert found.message is not None
    assert "resourcesPerNode" in found.message


def test_an_image_without_python_is_told_in_the_runtimes_words() -> None:
    pod = a_pod(1, failed=True, exit_code=128)
    (container,) = pod.containers
    words = 'exec: "python3": executable file not found in $PATH: unknown'
    pod = replace(pod, containers=(replace(container, reason="StartError", message=words),))
    found = fate(RUNNING, pod)
    assert found.message
    assert 'exec: "python3": executable file not found in $PATH.' in found.message
    assert "must have a python3" in found.message


def test_an_exit_0_without_a_readable_record_is_tried_again_since_the_store_may_have_it() -> None:
    found = fate(a_pod(0, succeeded=True, said="{"), a_pod(1, succeeded=True), output="digits")
    assert (found.reason, found.budget, found.exit_code) == ("NoRecord", "User", 0)


def test_a_long_error_line_is_cut_to_what_the_status_holds() -> None:
    said = json.dumps({"outcome": "Failed", "message": "x" * 3000})
    found = fate(RUNNING, a_pod(1, failed=True, said=said))
    assert found.message is not None
    assert found.last_error_line is not None
    assert len(found.message) == len(found.last_error_line) == 1024


def test_a_failure_is_recorded_before_anything_is_deleted() -> None:
    decided = decide(a_view(an_open_job(2), RUNNING, a_pod(1, failed=True)))
    assert decided.status is not None
    assert (decided.delete, decided.create, decided.patch) == ((), (), ())


def test_a_success_beside_a_failure_of_another_rank_is_no_success() -> None:
    assert fate(a_pod(0, succeeded=True, said=a_result()), a_pod(1, failed=True)).rank == 1
