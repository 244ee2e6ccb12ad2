"""A training that is hurt goes on: every fault, on real pods of two nodes, in its bounds."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from e2e.cluster.target import Target
from e2e.jobs import attempts, counted
from e2e.kubectl import Kubectl
from e2e.recovery.faults import FAULTS, VICTIM
from e2e.recovery.measure import Measured, measured
from e2e.recovery.run import PLAIN, started
from e2e.recovery.timeline import rounded
from e2e.recovery.volume import Shared, shared_volume
from e2e.test_training import fails
from e2e.waiting import condition, is_true, wait_until

SOME_STEPS = 25  # more than the launchers need to know how long one takes


@pytest.fixture
def shared(installed: Target, namespace: Kubectl) -> Iterator[Shared]:
    """A volume that all pods of the test's namespace mount."""
    cluster = installed.embedded
    if cluster is None or len(cluster.nodes) < 2:
        pytest.skip("the volume is a folder of this machine, and two nodes have to share it")
    with shared_volume(cluster, namespace) as volume:
        yield volume


def after(shared: Shared, fault: str) -> Measured:
    """Return what a fault did; all that was wrong about it fails the test.

    How soon it was noticed is for `make bench-recovery` to say: a busy machine is no defect.
    """
    found = measured(shared, fault.replace("_", "-"), FAULTS[fault])
    print(f"\n{fault}: {rounded(found.recovery)}")  # make test-long shows it
    assert not found.wrong
    assert not found.lost_too_much, found.recovery
    return found


def mended_in_place(found: Measured) -> None:
    """The launchers did it alone: same pods, same attempt."""
    (only,) = attempts(found.job)
    assert only["outcome"] == "Running"
    assert len(found.progress["restarts"]) == 1


def mended_by_new_pods(found: Measured, reason: str) -> None:
    """A new attempt did it, at nobody's cost but the infrastructure's."""
    first, second = attempts(found.job)
    assert (first["reason"], second["outcome"]) == (reason, "Running")
    assert set(counted(found.job)) <= {"infrastructure"}


@pytest.mark.parametrize(
    "fault",
    [
        "rank_process",
        *(
            pytest.param(name, marks=pytest.mark.long)
            for name in ("rank0_process", "corrupt_checkpoint", "operator_dead_rank", "oom")
        ),
    ],
)
def test_ranks_go_on_in_their_pods_after(shared: Shared, fault: str) -> None:
    mended_in_place(after(shared, fault))


@pytest.mark.parametrize(
    "fault",
    [
        "hang_collective",
        *(pytest.param(name, marks=pytest.mark.long) for name in ("hang_stopped", "hang_gil")),
    ],
)
def test_a_hang_is_found_and_ended(shared: Shared, fault: str) -> None:
    found = after(shared, fault)
    mended_in_place(found)
    assert found.recovery.reason == "Hang"


@pytest.mark.parametrize(
    "fault",
    [
        "pod",
        *(
            pytest.param(name, marks=pytest.mark.long)
            for name in ("rank0_pod", "operator_dead_pod")
        ),
    ],
)
def test_a_lost_pod_is_replaced(shared: Shared, fault: str) -> None:
    mended_by_new_pods(after(shared, fault), "PodLost")


@pytest.mark.long
@pytest.mark.parametrize("fault", ["node", "node_partitioned"])
def test_a_node_that_is_gone_stops_nothing_for_long(shared: Shared, fault: str) -> None:
    mended_by_new_pods(after(shared, fault), "Partitioned")


def test_an_error_at_one_step_ends_the_job_with_its_message(shared: Shared) -> None:
    found = after(shared, "user_bug")
    assert found.recovery.reason == "SameError"
    last = attempts(found.job)[-1]
    assert last["lastErrorLine"] == "ValueError: the batch has no samples"
    nodes = [each["node"] for each in attempts(found.job)]
    assert len(set(nodes)) == len(nodes) == 2


@pytest.mark.long
@pytest.mark.parametrize("fault", ["drain", "suspend_resume"])
def test_who_is_asked_to_leave_loses_no_step(shared: Shared, fault: str) -> None:
    mended_by_new_pods(after(shared, fault), "Saved")


@pytest.mark.long
def test_a_plain_script_in_an_image_with_torch_only_gets_all_this(shared: Shared) -> None:
    with started(shared, "plain", PLAIN, failurePolicy={"maxRestarts": 1}) as run:
        run.runs_to(SOME_STEPS)
        run.order("skip_a_collective", VICTIM)
        run.starts_again()
        run.runs_to(SOME_STEPS)
        # Rank 0 tells of the restart when it is asked next, each 30 s.
        job = wait_until(
            run.job, lambda found: bool(condition(found, "ProgressKnown")), "a training goes on"
        )
        assert condition(job, "ProgressKnown")["status"] == "False"
        assert condition(job, "CheckpointPlaceKnown")["status"] == "False"
        os.kill(run.process(VICTIM), signal.SIGKILL)
        (only,) = attempts(fails(run.kubectl, run.name))
    assert (only["reason"], only["rank"], only["signal"]) == ("UserError", VICTIM, signal.SIGKILL)
    assert only["restarts"] == 1, "the hang was not counted"
    assert only["step"] >= SOME_STEPS


@pytest.mark.long
def test_an_uneven_but_healthy_training_is_never_restarted(shared: Shared) -> None:
    options = {
        "steps": 120,
        "first_step_seconds": 90,
        "evaluate_every": 50,
        "evaluate_seconds": 60,
        "stall_at": 75,
        "stall_seconds": 20,
    }
    with started(shared, "uneven", options=options) as run:
        job = wait_until(run.job, lambda found: is_true(found, "Complete"), "a long job completes")
        (only,) = attempts(job)
        assert (only["outcome"], only.get("restarts")) == ("Succeeded", None)
        assert counted(job) == {}
        assert {each.generation for each in run.events()} == {0}
