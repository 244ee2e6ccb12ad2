"""Only what died is replaced: which pods of a gang keep their place, and what they are told."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from lepton_operator import names
from lepton_operator.api.training import Progress, Spent, TrainingJob
from lepton_operator.build import training as build
from lepton_operator.plan import Patch, Plan
from lepton_operator.training.evidence import PROGRESS_HOLDS
from lepton_operator.training.failure import LOSS_PATIENCE
from lepton_operator.views import Earlier, InPlace, Loss, PodView, Told
from tests.builders import a_container, a_node, a_pod, a_record, ago, defaults
from tests.unit.training.builders import (
    a_view,
    after,
    an_open_job,
    condition,
    created,
    decide,
    deleted,
    status_of,
    with_spec,
)

NODES = (a_node("node-1"), a_node("node-2"), a_node("node-3"))


def a_member(job: TrainingJob, rank: int, **more: Any) -> PodView:
    """A pod that trains in attempt 1, as the plan makes it and tells it."""
    metadata = build.pod(job, build.resolve(job.spec, defaults()), 1, rank)["metadata"]
    told = build.placement(job.metadata, job.spec.num_nodes, 1, rank, "10.0.0.1")
    marks = {
        "labels": metadata["labels"],
        "annotations": {**metadata["annotations"], names.ATTEMPT: told},
    }
    return a_pod(rank, running=True, node=f"node-{rank + 1}", **{**marks, **more})


def a_gang(job: TrainingJob) -> list[PodView]:
    return [a_member(job, rank) for rank in range(job.spec.num_nodes)]


def lost(pod: PodView) -> PodView:
    return replace(pod, gone=True)


def closed(job: TrainingJob, pods: list[PodView], **more: Any) -> TrainingJob:
    """The job after the pass that closes its attempt."""
    decided = decide(a_view(job, *pods, nodes=more.pop("nodes", NODES), **more))
    assert status_of(decided)["attempts"][-1]["outcome"] == "Failed"
    assert (decided.delete, decided.create, decided.patch) == ((), (), ())
    return after(job, decided)


def next_plan(job: TrainingJob, pods: list[PodView], **more: Any) -> Plan:
    return decide(a_view(job, *pods, nodes=more.pop("nodes", NODES), **more))


def told(patch: Patch) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(patch.body["metadata"]["annotations"][names.ATTEMPT])
    return found


def by_name(decided: Plan) -> dict[str, Patch]:
    return {each.target.name: each for each in decided.patch}


def test_only_the_lost_pod_is_made_anew() -> None:
    job = an_open_job(3)
    pods = a_gang(job)
    pods[1] = lost(pods[1])
    decided = next_plan(closed(job, pods), pods)
    assert (created(decided), deleted(decided)) == (["digits-train-2-1"], [])
    assert status_of(decided)["attempts"][-1]["kept"] == 2
    assert decided.events[0].message.startswith(
        "Attempt 2 starts on 3 pods, of which 2 keep their place: attempt 1 failed."
    )


def opened(job: TrainingJob, pods: list[PodView], **more: Any) -> tuple[TrainingJob, list[PodView]]:
    """Attempt 2, and its pods: those that were made have no node yet."""
    closed_job = closed(job, pods, **more)
    decided = next_plan(closed_job, pods)
    living = [each for each in pods if not each.gone]
    made = [
        a_pod(int(rank), attempt=2, node=None)
        for rank in (name.rpartition("-")[2] for name in created(decided))
    ]
    return after(closed_job, decided), [*living, *made]


def test_those_that_live_are_told_of_the_new_attempt_where_rank_0_lives() -> None:
    pods = a_gang(job := an_open_job(3))
    pods[1] = lost(pods[1])
    job, pods = opened(job, pods)
    patches = by_name(next_plan(job, pods))
    assert sorted(patches) == ["digits-train-1-0", "digits-train-1-2", "digits-train-2-1"]
    kept, made = told(patches["digits-train-1-0"]), told(patches["digits-train-2-1"])
    assert (kept["attempt"], kept["nodeRank"], kept["address"]) == (2, 0, "10.0.0.1")
    assert (kept["port"], kept["gangPort"], kept["token"]) == (
        made["port"],
        made["gangPort"],
        made["token"],
    )
    before = json.loads(pods[0].annotations[names.ATTEMPT])
    assert all(before[each] != kept[each] for each in ("port", "gangPort", "token"))
    assert patches["digits-train-1-0"].body["metadata"]["labels"] == {names.ATTEMPT: "2"}
    assert "labels" not in patches["digits-train-2-1"].body["metadata"]


def test_they_are_told_that_it_comes_before_a_new_rank_0_has_an_address() -> None:
    pods = a_gang(job := an_open_job(2))
    pods[0] = lost(pods[0])
    job, pods = opened(job, pods)
    decided = next_plan(job, pods)
    assert [each.target.name for each in decided.patch] == ["digits-train-1-1"]
    assert told(decided.patch[0]) == {
        "attempt": 2,
        "nodeRank": 1,
        "numNodes": 2,
        "maxRestarts": 3,
    }
    marks = decided.patch[0].body["metadata"]
    kept = replace(pods[0], annotations={**pods[0].annotations, **marks["annotations"]})
    assert next_plan(job, [kept, pods[1]]).patch == ()
    placed = next_plan(job, [kept, replace(pods[1], ip="10.0.0.9", node="node-1")])
    assert {told(each)["address"] for each in placed.patch} == {"10.0.0.9"}
    assert len(placed.patch) == 2


def test_the_launchers_that_stay_are_told_what_is_left_of_the_budget() -> None:
    job = an_open_job(2, failurePolicy={"maxRestarts": 5})
    pods = a_gang(job)
    said = a_record("Failed", reason="UserError", message="boom", restarts=1, furthest=40, step=40)
    pods[1] = replace(pods[1], containers=(a_container(exit_code=1, message=said),), phase="Failed")
    job = closed(job, pods)
    assert deleted(next_plan(job, pods)) == ["digits-train-1-1"]
    job = after(job, next_plan(job, pods[:1]))
    patches = by_name(next_plan(job, [pods[0], a_pod(1, attempt=2, node=None)]))
    kept = told(patches["digits-train-1-0"])
    # The launchers spent one; the attempt itself got further than any before it, and is free.
    assert (kept["furthestStep"], kept["maxRestarts"]) == (40, 4)


def test_a_budget_that_changes_is_no_news_for_an_attempt_that_runs() -> None:
    pods = a_gang(job := an_open_job(2, failurePolicy={"maxRestarts": 5}))
    pods[1] = lost(pods[1])
    job, pods = opened(job, pods)
    patches = by_name(next_plan(job, pods))
    for index, pod in enumerate(pods):
        marks = patches[pod.name].body["metadata"]["annotations"]
        pods[index] = replace(pod, annotations={**pod.annotations, **marks})
    changed = with_spec(job, failurePolicy={"maxRestarts": 9})
    assert next_plan(changed, pods).patch == ()


def test_what_a_record_says_of_an_earlier_attempt_is_counted_there_only() -> None:
    job = an_open_job(2, failurePolicy={"maxRestarts": 5})
    pods = a_gang(job)
    pods[1] = lost(pods[1])
    spent = Told(Progress(time=ago(1), attempt=1, phase="training"), InPlace(restarts=2))
    job, pods = opened(job, pods, told=spent)
    assert job.status.restarts is not None
    assert job.status.restarts.user == 2
    # It ends while it waits for attempt 2, and so it tells of the one that it was made for.
    said = a_record("Failed", reason="UserError", message="x", restarts=2, step=40, furthest=40)
    kept = replace(pods[0], containers=(a_container(exit_code=1, message=said),), phase="Failed")
    job = closed(job, [kept, pods[1]])
    last = job.status.attempts[-1]
    assert (last.number, last.restarts, last.step, last.furthest_step) == (2, None, None, None)
    assert job.status.restarts is not None
    assert job.status.restarts.user == 3  # the two of attempt 1, and attempt 2


def test_what_was_saved_in_an_earlier_attempt_is_not_said_of_the_one_that_is_suspended() -> None:
    pods = a_gang(job := an_open_job(2))
    pods[1] = lost(pods[1])
    job, pods = opened(job, pods)
    job = with_spec(job, suspend=True)
    said = a_record("Failed", reason="Saved", message="Saved at step 120 and left.", step=120)
    left = replace(pods[0], containers=(a_container(exit_code=75, message=said),), phase="Failed")
    last = after(job, next_plan(job, [left, pods[1]])).status.attempts[-1]
    assert (last.number, last.outcome, last.reason, last.step) == (2, "Suspended", None, None)


def test_what_was_saved_in_an_earlier_attempt_is_no_reason_for_the_end_of_the_next() -> None:
    pods = a_gang(job := an_open_job(2))
    pods[1] = lost(pods[1])
    job, pods = opened(job, pods)
    said = a_record("Failed", reason="Saved", message="Saved at step 120 and left.", step=120)
    drained = replace(
        pods[0],
        containers=(a_container(exit_code=75, message=said),),
        phase="Failed",
        deleted_by_eviction=True,
    )
    last = closed(job, [drained, pods[1]]).status.attempts[-1]
    assert (last.number, last.reason, last.budget) == (2, "Evicted", "Infrastructure")


@pytest.mark.parametrize(
    "said",
    [
        {"reason": "Partitioned", "message": "Node 1's launcher was not heard.", "silentNode": 1},
        {"reason": "UserError", "message": "Xid 79", "matched": ["GpuError"]},
    ],
    ids=["its peer was lost", "its log told of a GPU"],
)
def test_what_ended_an_earlier_attempt_blames_nobody_in_the_next(said: dict[str, Any]) -> None:
    pods = a_gang(job := an_open_job(2))
    pods[1] = lost(pods[1])
    job, pods = opened(job, pods)
    pods[1] = replace(pods[1], node="node-3", phase="Running")
    message = a_record("Failed", **said)
    left = replace(
        pods[0], containers=(a_container(exit_code=143, message=message),), phase="Failed"
    )
    last = closed(job, [left, pods[1]]).status.attempts[-1]
    assert (last.number, last.reason, last.node, last.rank) == (2, "Terminated", "node-1", 0)


def test_a_pod_that_was_told_belongs_to_the_new_attempt() -> None:
    pods = a_gang(job := an_open_job(2))
    pods[1] = lost(pods[1])
    job, pods = opened(job, pods)
    patches = by_name(next_plan(job, pods))
    followed = {
        **pods[0].annotations,
        **patches["digits-train-1-0"].body["metadata"]["annotations"],
    }
    kept = replace(pods[0], annotations=followed)
    second = replace(a_member(job, 1), name="digits-train-2-1", uid="uid-of-2-1")
    running = next_plan(job, [kept, second])
    assert condition(running).message.startswith("Attempt 2 trains on 2 pods")
    failed = next_plan(job, [lost(kept), second])
    assert status_of(failed)["attempts"][-1]["number"] == 2
    assert status_of(failed)["attempts"][-1]["rank"] == 0


@pytest.mark.parametrize(
    ("change", "nodes"),
    [
        pytest.param({"deleting": True}, NODES, id="it is being deleted"),
        pytest.param({"deleted_by_eviction": True}, NODES, id="it is evicted"),
        pytest.param({"node": None}, NODES, id="it has no place to keep"),
        pytest.param(
            {"labels": {names.RESOLVED_HASH: "another"}}, NODES, id="its defaults are others"
        ),
        pytest.param({"annotations": {}}, NODES, id="it was made from another spec"),
        pytest.param(
            {"containers": (a_container(exit_code=1),), "phase": "Failed"}, NODES, id="it failed"
        ),
        pytest.param(
            {"containers": (a_container(exit_code=0),), "phase": "Succeeded"}, NODES, id="it ended"
        ),
        pytest.param(
            {}, (a_node("node-1", ready=False, since=ago(5)), *NODES[1:]), id="its node is silent"
        ),
    ],
)
def test_what_may_not_go_well_in_the_next_attempt_is_made_anew(
    change: dict[str, Any], nodes: Any
) -> None:
    pods = a_gang(job := an_open_job(3))
    pods[1] = lost(pods[1])
    job = closed(job, pods)
    doubtful = [replace(pods[0], **change), *pods[1:]]
    decided = next_plan(job, doubtful, nodes=nodes)
    assert decided.create == ()
    if not doubtful[0].deleting:
        assert deleted(decided) == ["digits-train-1-0"]
    opening = next_plan(job, [lost(doubtful[0]), *pods[1:]], nodes=nodes)
    assert created(opening) == ["digits-train-2-0", "digits-train-2-1"]


def test_a_node_that_the_job_avoids_keeps_no_pod() -> None:
    job = an_open_job(3)
    pods = a_gang(job)
    said = a_record("Failed", reason="UserError", message="Xid 79", matched=["GpuError"])
    pods[1] = replace(pods[1], containers=(a_container(exit_code=1, message=said),), phase="Failed")
    pods[2] = replace(pods[2], node="node-2")
    nodes = (*NODES, a_node("node-4"), a_node("node-5"))
    job = closed(job, pods, nodes=nodes)
    assert [each.node for each in job.status.avoided_nodes] == ["node-2"]
    decided = next_plan(job, pods, nodes=nodes)
    assert deleted(decided) == ["digits-train-1-1", "digits-train-1-2"]


def test_a_job_that_is_suspended_or_has_ended_keeps_nothing() -> None:
    pods = a_gang(job := an_open_job(2, failurePolicy={"maxInfrastructureRestarts": 1}))
    pods[1] = lost(pods[1])
    closed_job = closed(job, pods)
    assert deleted(next_plan(with_spec(closed_job, suspend=True), pods)) == ["digits-train-1-0"]
    ended = an_open_job(2, failurePolicy={"maxInfrastructureRestarts": 0})
    assert deleted(next_plan(closed(ended, pods), pods)) == ["digits-train-1-0"]


def test_a_changed_spec_keeps_nothing() -> None:
    pods = a_gang(job := an_open_job(2))
    pods[1] = lost(pods[1])
    changed = with_spec(closed(job, pods), failurePolicy={"hangTimeoutSeconds": 60})
    assert deleted(next_plan(changed, pods)) == ["digits-train-1-0"]


def test_an_operator_that_ended_while_it_opened_an_attempt_keeps_the_same_pods() -> None:
    pods = a_gang(job := an_open_job(3))
    pods[1], pods[2] = lost(pods[1]), lost(pods[2])
    job = closed(job, pods)
    half = [pods[0], a_pod(1, attempt=2, node=None)]
    decided = next_plan(job, half)
    assert (created(decided), deleted(decided)) == (["digits-train-2-2"], [])
    assert status_of(decided)["attempts"][-1]["kept"] == 1


def test_a_pod_that_dies_while_its_attempt_is_opened_is_waited_for() -> None:
    pods = a_gang(job := an_open_job(2))
    pods[1] = lost(pods[1])
    job = closed(job, pods)
    dying = [replace(pods[0], deleting=True), a_pod(1, attempt=2, node=None)]
    assert next_plan(job, dying).create == ()
    gone = [lost(pods[0]), dying[1]]
    assert created(next_plan(job, gone)) == ["digits-train-2-0"]


@pytest.mark.parametrize(
    "annotation",
    [
        "",
        "{",
        "[]",
        "[" * 100_000,
        '{"attempt": 2}',
        '{"attempt": "2", "nodeRank": 0}',
        '{"attempt": 2, "nodeRank": 1}',
        '{"attempt": 99999999999999, "nodeRank": 0}',
        '{"attempt": 1000000000, "nodeRank": 0}',
        '{"attempt": -1, "nodeRank": 0}',
    ],
)
def test_an_annotation_that_is_none_of_ours_moves_no_pod(annotation: str) -> None:
    assert build.followed_attempt(annotation, 0) is None


# A node that does not answer, and a gang that tells of itself


SILENT = (a_node("node-1"), a_node("node-2", ready=False, since=ago(100)), a_node("node-3"))


def heard(seconds_ago: float, attempt: int = 1, loss: Loss | None = None) -> Told:
    return Told(Progress(time=ago(seconds_ago), attempt=attempt, phase="training"), loss=loss)


def lost_node(node_rank: int, seconds_ago: float, attempt: int = 1) -> Told:
    why = "Node 1's launcher was not heard for 10 s."
    return heard(1, attempt, Loss(node_rank, why, ago(seconds_ago)))


def test_a_kubelet_that_stopped_alone_restarts_nothing() -> None:
    pods = a_gang(job := an_open_job(2))
    decided = next_plan(job, pods, nodes=SILENT, told=heard(20))
    assert condition(decided).reason == "Running"
    assert condition(decided).message.endswith(
        "Node node-2 does not answer: the pods there are replaced if the ranks stop."
    )
    assert decided.due == ago(20) + PROGRESS_HOLDS


@pytest.mark.parametrize(
    "told_last",
    [
        pytest.param({"told": None}, id="nobody tells anything"),
        pytest.param({"told": heard(90)}, id="it was told before the others could miss it"),
        pytest.param({"told": heard(20, attempt=2)}, id="it is of another attempt"),
        pytest.param({"told": lost_node(1, 60)}, id="its peers do not hear it"),
    ],
)
def test_a_node_that_does_not_answer_loses_its_pod_if_nobody_hears_of_it(
    told_last: dict[str, Any],
) -> None:
    pods = a_gang(job := an_open_job(2))
    job = closed(job, pods, nodes=SILENT, **told_last)
    last = job.status.attempts[-1]
    assert (last.reason, last.node, last.rank) == ("NodeNotReady", "node-2", 1)
    assert last.failed_time == ago(100).replace(microsecond=0)
    opening = next_plan(job, [pods[0], replace(pods[1], deleting=True)], nodes=SILENT)
    assert created(opening) == ["digits-train-2-1"]


def test_progress_holds_for_so_long_only() -> None:
    silent = (NODES[0], a_node("node-2", ready=False, since=ago(500)), NODES[2])
    pods = a_gang(job := an_open_job(2))
    assert closed(job, pods, nodes=silent, told=heard(76)).status.attempts[-1].reason == (
        "NodeNotReady"
    )


def test_whom_the_launchers_lost_is_replaced_though_it_looks_well() -> None:
    pods = a_gang(job := an_open_job(3))
    early = next_plan(job, pods, told=lost_node(1, 19))
    assert status_of(early)["attempts"][-1]["outcome"] == "Running"
    assert early.due == ago(19) + LOSS_PATIENCE
    job = closed(job, pods, told=lost_node(1, 21))
    last = job.status.attempts[-1]
    assert (last.reason, last.node, last.budget) == ("Partitioned", "node-2", "Infrastructure")
    assert last.message == (
        "The pod digits-train-1-1 on node node-2 was lost by its peers, whose ranks have ended: "
        "Node 1's launcher was not heard for 10 s."
    )
    assert deleted(next_plan(job, pods)) == ["digits-train-1-1"]


@pytest.mark.parametrize(
    "told_last",
    [lost_node(1, 60, attempt=2), lost_node(7, 60)],
    ids=["of another attempt", "of nobody"],
)
def test_a_loss_that_cannot_be_is_none(told_last: Told) -> None:
    pods = a_gang(job := an_open_job(2))
    decided = next_plan(job, pods, told=told_last)
    assert condition(decided).reason == "Running"
    assert decided.due is None


def test_how_a_pod_ended_outranks_that_its_peers_lost_it() -> None:
    pods = a_gang(job := an_open_job(2))
    said = a_record("Failed", reason="UserError", message="boom")
    pods[1] = replace(pods[1], containers=(a_container(exit_code=1, message=said),), phase="Failed")
    assert closed(job, pods, told=lost_node(1, 60)).status.attempts[-1].reason == "UserError"


def test_a_kept_launcher_completes_the_ledger_of_the_attempt_before() -> None:
    at = ago(5).replace(microsecond=0)
    said = Progress(time=at, attempt=1, phase="training", ledger=Spent(productive="5"))
    pods = a_gang(job := an_open_job(2))
    job = after(job, decide(a_view(job, *pods, nodes=NODES, told=Told(said))))
    pods[1] = lost(pods[1])
    job, pods = opened(job, pods)
    before = job.status.attempts[0].ledger
    assert before is not None
    assert float(before.unobserved or 0) == pytest.approx(15, abs=1)
    now = said.model_copy(update={"attempt": 2})
    word = Told(now, earlier=(Earlier(1, {"productive": 14, "hang": 1000}),))
    decided = decide(a_view(job, *pods, nodes=NODES, told=word))
    job = after(job, decided)
    ledger = job.status.attempts[0].ledger
    assert ledger is not None
    assert (ledger.productive, ledger.unobserved) == ("14", None)
    assert float(ledger.hang or 0) == pytest.approx(6, abs=1)
    assert decide(a_view(job, *pods, nodes=NODES, told=word)).status is None


def test_what_a_kept_launcher_tells_of_another_attempt_changes_no_ledger() -> None:
    at = ago(5).replace(microsecond=0)
    pods = a_gang(job := an_open_job(2))
    pods[1] = lost(pods[1])
    job, pods = opened(job, pods)
    word = Told(
        Progress(time=at, attempt=2, phase="training"), earlier=(Earlier(7, {"productive": 14}),)
    )
    again = after(job, decide(a_view(job, *pods, nodes=NODES, told=word)))
    assert again.status.attempts[0].ledger == job.status.attempts[0].ledger
