"""Pods that others ask to leave: drains, evictions, preemptions, deletions."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from lepton_operator.plan import Plan
from lepton_operator.views import PodView
from tests.builders import NOW, a_node, a_pod, a_record, ago
from tests.unit.training.builders import (
    a_view,
    an_open_job,
    condition,
    created,
    decide,
    deleted,
    status_of,
    with_status,
)

WHOLE_NOW = NOW.replace(microsecond=0)
KILLED_AT = WHOLE_NOW + timedelta(seconds=30)
SAVED = a_record(
    "Failed", reason="Saved", message="Saved at step 120 and left.", step=120, furthest=120
)
DRAINED: dict[str, Any] = {
    "deleting": True,
    "deleted_by_eviction": True,
    "disruption": "EvictionByEvictionAPI",
}
LEAVES = a_pod(0, running=True, leaves_by=KILLED_AT, **DRAINED)
PEER = a_pod(1, running=True, node="node-2")


def left(rank: int, **more: Any) -> PodView:
    return a_pod(rank, failed=True, exit_code=75, said=SAVED, finished=ago(1), **more)


def attempt(decided: Plan) -> dict[str, Any]:
    found: dict[str, Any] = status_of(decided)["attempts"][-1]
    return found


@pytest.mark.parametrize(
    "pod",
    [
        pytest.param(LEAVES, id="it is drained"),
        pytest.param(a_pod(0, running=True, leaves_by=KILLED_AT, deleting=True), id="deleted"),
        pytest.param(
            a_pod(0, running=True, leaves_by=KILLED_AT, deleted_by_eviction=True),
            id="the condition came before the deletion",
        ),
    ],
)
def test_ranks_that_may_save_are_waited_for(pod: PodView) -> None:
    decided = decide(a_view(an_open_job(2), pod, PEER))
    assert condition(decided).reason == "Restarting"
    assert "digits-train-1-0 was asked to leave" in condition(decided).message
    assert (attempt(decided)["outcome"], deleted(decided)) == ("Running", [])
    assert decided.due == KILLED_AT + timedelta(seconds=5)


@pytest.mark.parametrize("peer", [PEER, left(1, node="node-2")], ids=["it saves", "it has saved"])
def test_when_the_pod_has_ended_the_attempt_is_closed_with_the_step(peer: PodView) -> None:
    decided = decide(a_view(an_open_job(2), left(0, **DRAINED), peer))
    closed = attempt(decided)
    assert (closed["outcome"], closed["reason"], closed["step"]) == ("Failed", "Saved", 120)
    assert closed["message"] == "A pod of the gang was asked to leave. Saved at step 120 and left."
    assert [(each.type, each.reason) for each in decided.events] == [("Normal", "AttemptLeft")]
    # It got further than any attempt before.
    assert "budget" not in closed
    assert status_of(decided)["furthestStep"] == 120
    assert condition(decided).message.startswith("Attempt 2 goes on after attempt 1. A pod of")


def test_without_progress_it_is_a_preemption_that_is_counted() -> None:
    job = an_open_job(2)
    job = with_status(job, {**job.status.wire(), "furthestStep": 200})
    decided = decide(a_view(job, left(0, **DRAINED), left(1)))
    assert attempt(decided)["budget"] == "Preemption"
    assert status_of(decided)["restarts"]["preemption"] == 1


def test_a_peer_that_saved_tells_of_a_pod_that_vanished_unseen() -> None:
    decided = decide(a_view(an_open_job(2), left(1)))
    assert attempt(decided)["reason"] == "Saved"


def test_pods_that_leave_one_after_the_other_are_not_a_write_for_each() -> None:
    job = an_open_job(2)
    second = a_pod(1, running=True, node="node-2", leaves_by=KILLED_AT, **DRAINED)
    job = with_status(job, decide(a_view(job, LEAVES, second)).status)
    assert decide(a_view(job, left(0, leaves_by=KILLED_AT, **DRAINED), second)).status is None


def test_where_nobody_disturbed_the_gang_its_own_word_is_the_user_s() -> None:
    decided = decide(a_view(an_open_job(2), left(0), left(1)))
    assert attempt(decided)["reason"] == "Terminated"
    job = an_open_job(2)
    job = with_status(job, {**job.status.wire(), "furthestStep": 200})
    assert attempt(decide(a_view(job, left(0), left(1))))["budget"] == "User"


@pytest.mark.parametrize(
    ("pod", "nodes", "reason"),
    [
        pytest.param(
            a_pod(0, running=True, leaves_by=ago(6), **DRAINED),
            (a_node(),),
            "Evicted",
            id="its time is over, and no kubelet ended it",
        ),
        pytest.param(
            LEAVES, (a_node(ready=False, since=ago(1)),), "Evicted", id="its node does not answer"
        ),
        pytest.param(
            a_pod(0, leaves_by=KILLED_AT, **DRAINED), (a_node(),), "Evicted", id="it never ran"
        ),
        pytest.param(
            a_pod(0, failed=True, exit_code=143, said="", **DRAINED),
            (a_node(),),
            "Evicted",
            id="a plain script that was ended by the signal",
        ),
    ],
)
def test_others_are_lost_at_once(pod: PodView, nodes: tuple[Any, ...], reason: str) -> None:
    decided = decide(a_view(an_open_job(), pod, nodes=nodes))
    assert attempt(decided)["reason"] == reason


def test_the_next_attempt_comes_when_the_pods_are_gone() -> None:
    decided = decide(a_view(an_open_job(2), left(0, **DRAINED), left(1)))
    job = with_status(an_open_job(2), decided.status)
    assert deleted(decide(a_view(job, left(0, **DRAINED), left(1)))) == ["digits-train-1-1"]
    assert created(decide(a_view(job))) == ["digits-train-2-0", "digits-train-2-1"]
