"""The same error again, one node again, and the nodes that a job stays away from."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from lepton_operator.api.training import TrainingJob
from lepton_operator.build import training as build
from lepton_operator.plan import Plan
from lepton_operator.training.avoidance import AVOIDED_SECONDS
from lepton_operator.views import PodView
from tests.builders import NOW, a_node, a_pod, a_record, a_training_job, ago, stamp
from tests.unit.training.builders import (
    a_view,
    after,
    condition,
    conditions,
    created,
    decide,
    status_of,
)

WHOLE_NOW = NOW.replace(microsecond=0)
NODES = tuple(a_node(f"node-{number}", gpus=8) for number in range(1, 9))
TWO_NODES = NODES[:2]
NO_RESTARTS = {"user": 0, "infrastructure": 0, "preemption": 0, "withoutProgress": 0}


def bug(step: int | None, words: str = "ValueError: bad", **more: Any) -> str:
    told = {} if step is None else {"step": step, "furthest": step}
    return a_record("Failed", reason="UserError", message=words, **told | more)


def failed(
    number: int, step: int | None, node: str = "node-1", words: str = "ValueError: bad", **more: Any
) -> dict[str, Any]:
    """An attempt that ended by the user's error, as the status has it."""
    told = {} if step is None else {"step": step}
    return {
        "number": number,
        "startTime": stamp(ago(4000)),
        "endTime": stamp(ago(4000)),
        "outcome": "Failed",
        "budget": "User",
        "reason": "UserError",
        "exitCode": 1,
        "node": node,
        "lastErrorLine": words,
        **told,
        **more,
    }


def a_job(
    *earlier: dict[str, Any], nodes: int = 2, status: Any = None, **policy: Any
) -> TrainingJob:
    """A job with these attempts behind it and one that is open."""
    number = len(earlier) + 1
    steps = [each["step"] for each in earlier if "step" in each]
    furthest = {"furthestStep": max(steps)} if steps else {}
    running = {"number": number, "startTime": stamp(ago(60)), "outcome": "Running"}
    return a_training_job(
        nodes,
        failurePolicy={"maxRestarts": 100, **policy},
        status={
            "observedGeneration": 1,
            "attempt": number,
            "attempts": [*earlier, running],
            "restarts": NO_RESTARTS,
            "startTime": stamp(ago(4000)),
            **furthest,
            **(status or {}),
        },
    )


def close(job: TrainingJob, *ended: PodView, nodes: Any = NODES) -> Plan:
    """The plan when these pods of the open attempt have failed, and the others run."""
    number = job.status.attempt or 1
    there = {pod.name for pod in ended}
    others = (
        a_pod(index, attempt=number, running=True, node=f"node-{index + 1}")
        for index in range(job.spec.num_nodes)
    )
    return decide(
        a_view(job, *ended, *(pod for pod in others if pod.name not in there), nodes=nodes)
    )


def a_failed_pod(job: TrainingJob, said: str, node: str = "node-1", index: int = 0) -> PodView:
    number = job.status.attempt or 1
    return a_pod(index, attempt=number, failed=True, said=said, node=node)


def avoided(decided: Plan) -> list[tuple[str, int | None]]:
    entries = status_of(decided).get("avoidedNodes", ())
    return [(each["node"], each.get("pod")) for each in entries]


def budget(decided: Plan) -> str | None:
    found: str | None = status_of(decided)["attempts"][-1].get("budget")
    return found


def reason(decided: Plan) -> str:
    return condition(decided).reason


# --- the same error at the same step


def test_the_first_of_its_kind_restarts_wherever_there_is_room() -> None:
    job = a_job()
    decided = close(job, a_failed_pod(job, bug(100)))
    assert (reason(decided), avoided(decided)) == ("Restarting", [])


def test_the_second_at_one_step_on_one_node_moves_that_pod() -> None:
    job = a_job(failed(1, 100))
    decided = close(job, a_failed_pod(job, bug(100)))
    assert (reason(decided), budget(decided)) == ("Restarting", "User")
    assert avoided(decided) == [("node-1", 0)]
    (entry,) = status_of(decided)["avoidedNodes"]
    assert entry["because"] == (
        "Attempt 2: the same error came at step 100 in attempt 1 too, on node-1"
    )
    assert entry["until"] == stamp(WHOLE_NOW + timedelta(seconds=AVOIDED_SECONDS))
    assert [each.reason for each in decided.events] == ["AttemptFailed", "NodeAvoided"]


def test_after_a_pod_was_moved_the_first_failure_comes_to_the_operator() -> None:
    job = a_job(failed(1, 100))
    moved = after(job, close(job, a_failed_pod(job, bug(100))))
    assert build.restarts_left(job) > 0
    assert build.restarts_left(moved) == 0


def test_on_another_node_it_is_the_user_s_and_fails_fast_with_its_message() -> None:
    job = a_job(failed(1, 100), failed(2, 100))
    decided = close(job, a_failed_pod(job, bug(100), "node-2"))
    assert conditions(decided) == {"Ready": "False", "Stalled": "True", "Failed": "True"}
    assert reason(decided) == "SameError"
    message = condition(decided).message
    assert "ValueError: bad" in message
    assert "at step 100 in attempt 1 and attempt 2 too, on node-1 and node-2" in message
    assert message.endswith("kubectl replace --force -f MANIFEST")


def test_ranks_on_two_nodes_in_one_attempt_count_as_both() -> None:
    job = a_job(failed(1, 100))
    pods = (a_failed_pod(job, bug(100)), a_failed_pod(job, bug(100), "node-2", 1))
    assert reason(close(job, *pods)) == "SameError"


def test_ranks_on_two_nodes_in_the_first_attempt_are_not_enough() -> None:
    job = a_job()
    pods = (a_failed_pod(job, bug(100)), a_failed_pod(job, bug(100), "node-2", 1))
    assert reason(close(job, *pods)) == "Restarting"


@pytest.mark.parametrize(
    ("earlier", "expected"),
    [
        pytest.param([failed(1, 100)], "Restarting", id="twice"),
        pytest.param([failed(1, 100), failed(2, 100)], "SameError", id="three times"),
    ],
)
def test_where_there_is_one_node_only_it_takes_three_times(
    earlier: list[dict[str, Any]], expected: str
) -> None:
    job = a_job(*earlier, nodes=1)
    decided = close(job, a_failed_pod(job, bug(100)), nodes=NODES[:1])
    assert (reason(decided), avoided(decided)) == (expected, [])


@pytest.mark.parametrize(
    ("said", "exit_code"),
    [
        pytest.param(bug(100, "KeyError: 'x'"), 1, id="another error"),
        pytest.param(bug(100), 3, id="another exit code"),
        pytest.param(bug(100, signal=11), 1, id="a signal"),
        pytest.param(bug(None), 1, id="without a step"),
    ],
)
def test_what_is_not_the_same_error_at_the_same_step(said: str, exit_code: int) -> None:
    job = a_job(failed(1, 100), failed(2, 100, "node-2"))
    pod = a_pod(0, attempt=3, failed=True, said=said, exit_code=exit_code)
    assert reason(close(job, pod)) == "Restarting"


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (bug(101), "ranks are not counted at the same moment"),
        (bug(100, "ValueError: bad"), "it is the same"),
    ],
    ids=["a step apart", "the same"],
)
def test_what_is_the_same_error(said: str, why: str) -> None:
    job = a_job(failed(1, 100, "node-2"))
    assert reason(close(job, a_failed_pod(job, said))) == "SameError", why


def test_figures_in_an_error_do_not_make_it_another_one() -> None:
    job = a_job(failed(1, 100, "node-2", "CUDA error at 0x7f12 on rank 3"))
    said = bug(100, "CUDA error at 0x7f34 on rank 5")
    assert reason(close(job, a_failed_pod(job, said))) == "SameError"


def test_a_rule_of_the_user_s_goes_before() -> None:
    rules = [{"match": {"reasons": ["UserError"]}, "action": "Restart"}]
    job = a_job(failed(1, 100), failed(2, 100, "node-2"), rules=rules)
    assert reason(close(job, a_failed_pod(job, bug(100)))) == "Restarting"


# --- different steps on one node


def test_different_steps_on_one_node_are_the_node_s() -> None:
    job = a_job(failed(1, 900), failed(2, 500))
    decided = close(job, a_failed_pod(job, bug(700)))
    assert (reason(decided), budget(decided)) == ("Restarting", "Infrastructure")
    assert avoided(decided) == [("node-1", None)]
    assert status_of(decided)["avoidedNodes"][0]["because"] == (
        "Attempt 3: UserError at step 700 on it after attempt 1 (UserError at step 900) and "
        "attempt 2 (UserError at step 500) had failed on it"
    )


def test_different_steps_on_different_nodes_are_nobody_s() -> None:
    job = a_job(failed(1, 900))
    decided = close(job, a_failed_pod(job, bug(500), "node-2"))
    assert (budget(decided), avoided(decided)) == ("User", [])


def test_without_another_node_to_show_the_difference_the_user_s_budget_pays() -> None:
    job = a_job(failed(1, 900), nodes=1)
    decided = close(job, a_failed_pod(job, bug(500)), nodes=NODES[:1])
    assert (budget(decided), avoided(decided)) == ("User", [])


def test_steps_that_were_only_counted_do_not_blame_a_node() -> None:
    job = a_job(failed(1, 900), status={"furthestStep": None})
    decided = close(job, a_failed_pod(job, bug(500, furthest=None)))
    assert (budget(decided), avoided(decided)) == ("User", [])


def test_steps_that_were_only_counted_tell_of_the_same_error() -> None:
    job = a_job(failed(1, 100), status={"furthestStep": None})
    assert avoided(close(job, a_failed_pod(job, bug(100, furthest=None)))) == [("node-1", 0)]


def test_an_error_on_two_nodes_at_once_is_neither_node_s() -> None:
    job = a_job(failed(1, 900))
    pods = (a_failed_pod(job, bug(500)), a_failed_pod(job, bug(500), "node-2", 1))
    decided = close(job, *pods)
    assert (budget(decided), avoided(decided)) == ("User", [])


def test_a_node_that_stopped_answering_twice_is_avoided() -> None:
    job = a_job(failed(1, None, reason="NodeNotReady", budget="Infrastructure"))
    silent = replace(NODES[0], ready=False, ready_changed=ago(31))
    decided = close(job, nodes=(silent, *NODES[1:]))
    assert status_of(decided)["attempts"][-1]["reason"] == "NodeNotReady"
    assert avoided(decided) == [("node-1", None)]


# --- which nodes may be avoided


def elsewhere(job: TrainingJob, node: str = "node-1", nodes: Any = NODES) -> Plan:
    """A failure whose class sends the job elsewhere."""
    return close(job, a_failed_pod(job, bug(None, matched=["GpuError"]), node), nodes=nodes)


def standing(*names: str, seconds: float = 600) -> dict[str, Any]:
    until = stamp(NOW + timedelta(seconds=seconds))
    return {
        "avoidedNodes": [
            {"node": each, "until": until, "because": "Attempt 1: x"} for each in names
        ]
    }


def test_a_class_that_sends_the_job_elsewhere_does_so_at_once() -> None:
    decided = elsewhere(a_job())
    assert avoided(decided) == [("node-1", None)]
    assert budget(decided) == "User"


def test_a_job_that_ends_avoids_nothing() -> None:
    decided = elsewhere(a_job(maxRestarts=0))
    assert (reason(decided), avoided(decided)) == ("MaxRestartsExceeded", [])
    assert [each.reason for each in decided.events] == ["AttemptFailed", "Failed"]


def test_a_second_node_is_avoided_beside_the_first() -> None:
    decided = elsewhere(a_job(status=standing("node-7")))
    assert avoided(decided) == [("node-7", None), ("node-1", None)]


def test_no_more_than_a_quarter_of_the_nodes_is_avoided() -> None:
    decided = elsewhere(a_job(status=standing("node-7", "node-8")))
    assert avoided(decided) == [("node-7", None), ("node-8", None)]


def test_nodes_that_cannot_run_the_job_do_not_count() -> None:
    small = tuple(a_node(f"cpu-{number}", gpus=0) for number in range(20))
    assert avoided(elsewhere(a_job(), nodes=(NODES[0], *small))) == []


def test_a_job_that_needs_all_gpus_keeps_its_nodes() -> None:
    nodes = tuple(replace(each, gpus=1) for each in TWO_NODES)
    assert avoided(elsewhere(a_job(nodes=2), nodes=nodes)) == []
    assert avoided(elsewhere(a_job(nodes=1), nodes=nodes)) == [("node-1", None)]


def test_a_node_that_is_gone_takes_nobody_s_place() -> None:
    decided = elsewhere(a_job(status=standing("node-7", "long-gone")))
    assert ("node-1", None) in avoided(decided)


def test_a_pod_always_has_a_node_left() -> None:
    moved = {"node": "node-2", "pod": 0, "until": stamp(ago(-600)), "because": "Attempt 1: x"}
    job = a_job(failed(1, 100), nodes=1, status={"avoidedNodes": [moved]})
    decided = close(job, a_failed_pod(job, bug(100)), nodes=TWO_NODES)
    assert avoided(decided) == [("node-2", 0)]


def test_an_entry_ends_by_itself_and_makes_room() -> None:
    job = a_job(status=standing("node-7", "node-8", seconds=-1))
    assert avoided(elsewhere(job)) == [("node-1", None)]


def test_one_node_is_listed_once() -> None:
    job = a_job(status=standing("node-1"))
    assert avoided(elsewhere(job)) == [("node-1", None)]


def test_where_nodes_are_not_watched_only_four_are_avoided() -> None:
    four = standing("a", "b", "c", "d")
    assert len(avoided(elsewhere(a_job(status=standing("a", "b", "c")), nodes=None))) == 4
    assert "node-1" not in dict(avoided(elsewhere(a_job(status=four), nodes=None)))


# --- how the next attempt's pods stay away


def affinities(job: TrainingJob, nodes: Any = NODES) -> list[Any]:
    decided = decide(a_view(job, nodes=nodes))
    assert created(decided)
    return [each.manifest["spec"].get("affinity") for each in decided.create]


def none_of(*names: str) -> dict[str, Any]:
    return {
        "matchFields": [
            {"key": "metadata.name", "operator": "NotIn", "values": [each]} for each in names
        ]
    }


def required(*names: str) -> dict[str, Any]:
    terms = {"nodeSelectorTerms": [none_of(*names)]}
    return {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": terms}}


def preferred(*names: str) -> dict[str, Any]:
    terms = [{"weight": 100, "preference": none_of(*names)}]
    return {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": terms}}


def closed_job(*entries: dict[str, Any]) -> TrainingJob:
    return a_training_job(
        2,
        status={
            "observedGeneration": 1,
            "attempts": [failed(1, 100)],
            "avoidedNodes": [
                {"until": stamp(ago(-600)), "because": "Attempt 1: x", **each} for each in entries
            ],
        },
    )


def test_all_pods_stay_away_from_a_node_that_is_blamed() -> None:
    job = closed_job({"node": "node-3"}, {"node": "node-1"})
    assert affinities(job) == [required("node-1", "node-3")] * 2


def test_only_the_pod_that_moves_stays_away() -> None:
    job = closed_job({"node": "node-1", "pod": 1})
    assert affinities(job) == [None, required("node-1")]


def test_a_node_of_karpenter_s_is_only_asked_to_be_avoided() -> None:
    nodes = (replace(NODES[0], replaceable=True), *NODES[1:])
    assert affinities(closed_job({"node": "node-1"}), nodes) == [preferred("node-1")] * 2


def test_where_nodes_are_not_watched_they_are_only_asked_to_be_avoided() -> None:
    assert affinities(closed_job({"node": "node-1"}), None) == [preferred("node-1")] * 2


def test_a_pod_that_finds_no_room_is_told_which_nodes_the_job_avoids() -> None:
    job = a_job(status=standing("node-7", "node-1"))
    waits = a_pod(0, attempt=1, node=None, unschedulable_message="0/8 nodes are available.")
    decided = decide(a_view(job, waits, a_pod(1, attempt=1, running=True), nodes=NODES))
    assert reason(decided) == "NoCapacity"
    message = condition(decided).message
    assert message.endswith("The job avoids node-1, node-7: status.avoidedNodes.")


def test_an_entry_whose_time_has_passed_binds_nobody_and_goes() -> None:
    job = closed_job({"node": "node-1", "until": stamp(ago(1))})
    assert affinities(job) == [None, None]
    assert avoided(decide(a_view(job))) == []


def test_the_whole_story_of_a_user_s_bug() -> None:
    """Attempt 1 got further than any before it, so it is free; then the pod moves; then it ends."""
    job = a_job(nodes=1)
    first = close(job, a_failed_pod(job, bug(100)))
    assert (budget(first), status_of(first)["furthestStep"]) == (None, 100)
    for node, expected in (("node-1", "Restarting"), ("node-2", "SameError")):
        closed = after(job, first)
        opened = decide(a_view(closed, nodes=NODES), NOW + timedelta(seconds=90))
        job = after(closed, opened)
        first = close(job, a_failed_pod(job, bug(100), node))
        assert reason(first) == expected
