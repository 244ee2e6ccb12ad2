"""Rollouts by capacity, drains, versions that fail, and nodes that are being emptied."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from lepton_operator import names
from lepton_operator.api.inference import RolloutStatus
from lepton_operator.api.model import LeptonModel
from lepton_operator.inference.plan import plan
from lepton_operator.plan import Plan
from lepton_operator.views import InferenceView, PodView, Refusal, Taint
from tests.builders import NOW, a_node, ago
from tests.plans import deleted, told
from tests.steps import steps
from tests.unit.inference.builders import (
    a_budget,
    a_door,
    a_pod,
    a_served_model,
    a_service,
    a_view,
    after,
    drained,
    failing_triton,
    in_flight,
    marked,
    message,
    pods_of,
    restored,
    revision,
    settled,
    status,
    unschedulable,
)

OLD = a_pod(0, ready=True)
NEW = a_pod(1, version=2)
NEW_MODEL = a_served_model(2, 1)
ROOM = (a_node(gpus=8),)


def serving(*pods: PodView, replicas: int = 1, **spec: Any) -> InferenceView:
    """A service that has come to rest with these pods."""
    service = a_service(replicas, **spec)
    return settled(a_view(service, *pods, nodes=ROOM))


def rolling(*pods: PodView, passes: int = 1, replicas: int = 1, **spec: Any) -> InferenceView:
    """A service of one pod, after so many passes with these pods while version 2 comes."""
    view = replace(serving(OLD, replicas=replicas, **spec), model=NEW_MODEL)
    view = after(view, plan(view, NOW))
    view = replace(view, pods=pods)
    for _ in range(passes - 1):
        view = after(view, plan(view, NOW))
    return view


def under_way(found: Plan) -> RolloutStatus:
    rollout = status(found).rollout
    assert rollout is not None
    return rollout


# Room for one more pod, or none


@pytest.mark.parametrize(
    ("rollout", "seconds", "phase", "waits_for"),
    [
        pytest.param(
            {},
            10,
            "Surging",
            "room for digits-serve-1; without any, at 04:01:50 UTC an old pod goes for it, and "
            "nothing answers for up to about 14 s",
            id="an autoscaler gets its time, and what comes then is said",
        ),
        pytest.param(
            {},
            121,
            "Replacing",
            "an old pod to make room for digits-serve-1, and nothing answers for up to about 14 s",
            id="when that is over, an old pod is to go",
        ),
        pytest.param(
            {"strategy": "Surge"},
            9999,
            "Surging",
            "room for digits-serve-1, as long as it takes",
            id="Surge waits as long as it takes",
        ),
        pytest.param(
            {"strategy": "Replace"},
            1,
            "Replacing",
            "an old pod to make room for digits-serve-1, and nothing answers for up to about 14 s",
            id="Replace waits for nobody",
        ),
        pytest.param(
            {"surgeTimeoutSeconds": 5}, 6, "Replacing", "an old pod", id="a shorter patience"
        ),
    ],
)
def test_a_rollout_without_room(
    rollout: Mapping[str, Any], seconds: float, phase: str, waits_for: str
) -> None:
    old = replace(OLD, ready_since=ago(100), scheduled_since=ago(104))
    view = rolling(old, unschedulable(NEW, seconds), rollout=rollout)
    found = plan(view, NOW)
    assert (under_way(found).phase, under_way(found).waiting_for[: len(waits_for)]) == (
        phase,
        waits_for,
    )
    assert (drained(found), deleted(found)) == ([], [])
    assert told(found) == ("False", "NoCapacity", "Reconciling")


def test_a_rollout_without_room_looks_again_when_its_patience_ends() -> None:
    found = plan(rolling(OLD, unschedulable(NEW, 10)), NOW)
    assert found.due == NOW + timedelta(seconds=110)


def test_in_place_an_old_pod_drains_only_after_the_status_has_said_so() -> None:
    view = rolling(OLD, unschedulable(NEW))
    first = plan(view, NOW)
    assert (drained(first), under_way(first).gap_seconds) == ([], 8)
    assert [each.reason for each in first.events] == ["NoCapacity", "Replacing"]
    assert "nothing answers for up to about 8 s" in message(first)
    second = plan(after(view, first), NOW)
    assert drained(second) == ["digits-serve-0"]
    assert second.delete == ()


def test_in_place_two_replicas_leave_no_gap() -> None:
    view = rolling(OLD, a_pod(2, ready=True), unschedulable(NEW), replicas=2)
    assert under_way(plan(view, NOW)).gap_seconds is None


@pytest.mark.parametrize(
    "pods",
    [
        pytest.param((marked(OLD), a_pod(2, ready=True)), id="while one drains"),
        pytest.param((replace(OLD, deleting=True), a_pod(2, ready=True)), id="while one ends"),
        pytest.param(
            (a_pod(2, ready=True), a_pod(3, version=2)), id="while a new one with room starts"
        ),
        pytest.param(
            (a_pod(2, ready=True), failing_triton(a_pod(3, version=2), "")),
            id="while a new one with room fails",
        ),
    ],
)
def test_in_place_the_next_pod_waits(pods: tuple[PodView, ...]) -> None:
    new = unschedulable(NEW)
    view = rolling(OLD, a_pod(2, ready=True), new, replicas=2, passes=2)
    assert under_way_of(view).phase == "Replacing"
    found = plan(replace(view, pods=(*pods, new)), NOW)
    assert drained(found) == []


def under_way_of(view: InferenceView) -> RolloutStatus:
    assert view.service.status.rollout is not None
    return view.service.status.rollout


def test_in_place_goes_on_without_waiting_anew_for_each_pod() -> None:
    view = rolling(OLD, a_pod(2, ready=True), unschedulable(NEW), replicas=2, passes=2)
    first_is_done = (a_pod(2, ready=True), replace(NEW, ready=True, ready_since=ago(9)))
    found = plan(replace(view, pods=(*first_is_done, unschedulable(a_pod(3, version=2), 1))), NOW)
    assert drained(found) == ["digits-serve-2"]


def test_in_place_a_pod_without_requests_ends_at_once_for_the_one_that_waits() -> None:
    view = rolling(OLD, unschedulable(NEW), passes=2)
    traffic = in_flight({OLD.ip or "": 0})
    (gone,) = plan(
        replace(view, pods=(marked(OLD), unschedulable(NEW)), traffic=traffic), NOW
    ).delete
    assert (gone.target.name, gone.grace_seconds) == ("digits-serve-0", 2)


def test_a_pod_that_is_told_to_have_no_requests_gives_its_gpu_back_at_once() -> None:
    """Not so where nobody could tell: its own grace period is for what it may have."""
    pods = (a_pod(1, ready=True), marked(a_pod(2, ready=True)))
    view = serving(*pods, replicas=1)
    (gone,) = plan(replace(view, traffic=in_flight({pods[1].ip or "": 0})), NOW).delete
    assert (gone.target.name, gone.grace_seconds) == ("digits-serve-2", 2)


def test_a_quota_is_as_good_as_a_full_cluster() -> None:
    refusal = Refusal("digits-serve-1", "QuotaExceeded", "exceeded quota: gpus")
    view = replace(rolling(OLD, rollout={"strategy": "Replace"}), refusals=(refusal,))
    first = plan(view, NOW)
    assert under_way(first).phase == "Replacing"
    assert drained(plan(after(view, first), NOW)) == ["digits-serve-0"]


def test_a_new_strategy_makes_no_new_revision() -> None:
    assert revision(service=a_service(rollout={"strategy": "Surge"})) == revision()
    assert revision(service=a_service(disruption={"maxUnavailable": 1})) == revision()


def test_a_rollout_says_how_far_it_is() -> None:
    pods = (OLD, a_pod(2, ready=True), replace(NEW, ready=True, ready_since=ago(9)))
    rollout = under_way(plan(rolling(*pods, replicas=3), NOW))
    assert (rollout.from_revision, rollout.to) == (revision(1), revision(2))
    assert (rollout.updated, rollout.total) == (1, 3)


def test_nothing_is_under_way_when_the_new_version_serves() -> None:
    view = rolling(replace(NEW, ready=True, ready_since=ago(9)))
    found = plan(view, NOW)
    assert status(found).rollout is None
    assert told(found) == ("True", "Serving", "")


# Drains


def drain(view: InferenceView) -> tuple[list[str], str]:
    """What is deleted, and what is said of the pod that drains."""
    found = plan(view, NOW)
    waits = [each for each in status(found).waiting if each.reason == "Draining"]
    return deleted(found), waits[0].message if waits else ""


SURPLUS = marked(a_pod(1, ready=True), seconds=5)
LOST_NODE = a_node("node-9", ready=False, since=ago(31))
LOST_DOOR = (a_door(0, node="node-9"),)
TWO_DOORS = (a_door(0), a_door(1))


@pytest.mark.parametrize(
    ("changes", "gone", "said"),
    [
        pytest.param(
            {"traffic": in_flight({"10.0.0.1": 0}, {"10.0.0.1": 0})},
            ["digits-serve-1"],
            "0 requests are in flight",
            id="every door told that nothing is in flight",
        ),
        pytest.param(
            {"traffic": in_flight({"10.0.0.1": 0}, {"10.0.0.1": 2})},
            [],
            "2 requests are in flight. What is left at 04:04:55 UTC is cut",
            id="one door has requests left",
        ),
        pytest.param(
            {"traffic": in_flight({"10.0.0.1": 0})},
            [],
            "0 requests are in flight",
            id="one door has not answered",
        ),
        pytest.param(
            {"traffic": in_flight({"10.0.0.1": 0}, {})},
            [],
            "0 requests are in flight",
            id="one door does not know yet that the pod drains",
        ),
        pytest.param(
            {"traffic": in_flight({"10.0.0.1": 0}, {"10.0.0.1": 0}, seconds_ago=6)},
            [],
            "",
            id="they told before the pod was marked",
        ),
        pytest.param({}, [], "have not told yet", id="no door has answered"),
        pytest.param({"doors": ()}, ["digits-serve-1"], "", id="there is no door"),
        pytest.param(
            {"doors": (a_door(0, phase="Pending", containers=()),)},
            ["digits-serve-1"],
            "",
            id="the only door has not begun",
        ),
        pytest.param(
            {"doors": (a_door(0, ready=False, deleting=True),)},
            [],
            "",
            id="a door that ends may have requests",
        ),
        pytest.param(
            {"doors": LOST_DOOR, "nodes": (*ROOM, LOST_NODE)},
            [],
            "",
            id="the only door may be cut off from the operator alone",
        ),
        pytest.param(
            {
                "doors": LOST_DOOR,
                "nodes": (*ROOM, LOST_NODE),
                "pods": (OLD, marked(a_pod(1, ready=True), seconds=11)),
            },
            ["digits-serve-1"],
            "",
            id="the only door is lost with its node",
        ),
        pytest.param(
            {
                "doors": LOST_DOOR,
                "nodes": (*ROOM, LOST_NODE),
                "pods": (OLD, marked(a_pod(1, ready=True), seconds=11)),
                "traffic": in_flight({"10.0.0.1": 2}),
            },
            [],
            "2 requests are in flight",
            id="a door on a lost node that still tells is believed",
        ),
    ],
)
def test_a_pod_that_drains_is_deleted_when_it_has_no_requests(
    changes: Mapping[str, Any], gone: list[str], said: str
) -> None:
    view = replace(serving(OLD), pods=(OLD, SURPLUS), doors=TWO_DOORS)
    found, words = drain(replace(view, **changes))
    assert found == gone
    assert said in words


def test_a_pod_whose_time_is_over_goes_and_what_is_cut_is_told() -> None:
    late = marked(a_pod(1, ready=True), seconds=301)
    view = replace(serving(OLD), pods=(OLD, late), traffic=in_flight({"10.0.0.1": 2}))
    found = plan(view, NOW)
    assert deleted(found) == ["digits-serve-1"]
    (event,) = [each for each in found.events if each.reason == "DrainTimedOut"]
    assert event.message == (
        "Pod digits-serve-1 had its time to drain; 2 requests were still in flight and may be cut."
    )


def test_a_drain_is_looked_at_again_when_its_time_is_over() -> None:
    found = plan(replace(serving(OLD), pods=(OLD, SURPLUS)), NOW)
    assert found.due == NOW + timedelta(seconds=295)


def test_a_pod_that_was_about_to_go_is_kept_when_pods_are_missing() -> None:
    view = replace(serving(OLD), pods=(SURPLUS,), traffic=in_flight({"10.0.0.1": 0}))
    found = plan(view, NOW)
    assert (restored(found), deleted(found), pods_of(found)) == (["digits-serve-1"], [], [])


@pytest.mark.parametrize(
    "pod",
    [
        pytest.param(replace(SURPLUS, ready=False), id="one that does not answer"),
        pytest.param(marked(a_pod(1, version=3, ready=True)), id="one of another revision"),
        pytest.param(replace(SURPLUS, node="node-2"), id="one on a node that is being emptied"),
    ],
)
def test_one_that_would_not_serve_is_not_kept(pod: PodView) -> None:
    view = replace(serving(OLD), pods=(pod,), nodes=(*ROOM, CORDONED))
    found = plan(view, NOW)
    assert (restored(found), pods_of(found)) == ([], ["digits-serve-0"])


def test_a_mark_that_is_no_time_is_written_anew() -> None:
    pod = replace(SURPLUS, annotations={**SURPLUS.annotations, names.DRAINING: "yes"})
    found = plan(replace(serving(OLD), pods=(OLD, pod)), NOW)
    assert (drained(found), deleted(found)) == (["digits-serve-1"], [])


def test_pods_that_only_finish_their_requests_keep_nobody_waiting() -> None:
    found = plan(replace(serving(OLD), pods=(OLD, SURPLUS)), NOW)
    assert under_way(found).phase == "Draining"
    assert under_way(found).waiting_for == (
        "requests in flight to digits-serve-1, until 04:04:55 UTC at the latest"
    )
    after_it = settled(replace(serving(OLD), pods=(OLD, SURPLUS)))
    ready = next(each for each in after_it.service.status.conditions if each.type == "Ready")
    assert ready.status == "True"


# A version that fails


def test_a_version_that_does_not_load_is_given_up_and_the_one_before_stays() -> None:
    broken = failing_triton(NEW)
    view = rolling(OLD, broken)
    first = plan(view, NOW)
    assert (first.delete, first.create, first.patch) == ((), (), ())
    assert under_way(first).phase == "RolledBack"
    assert [each.reason for each in first.events][1:] == ["RolledBack", "ModelLoadFailed"]
    view = after(view, first)
    second = plan(view, NOW)
    assert (deleted(second), pods_of(second)) == (["digits-serve-1"], [])
    view = settled(replace(view, pods=(OLD,)))
    assert plan(view, NOW + timedelta(hours=1)) == Plan()
    assert under_way_of(view).failed is not None
    ready = next(each for each in view.service.status.conditions if each.type == "Ready")
    assert (ready.status, ready.reason) == ("False", "ModelLoadFailed")
    assert ready.message.startswith("Version 2 was given up and is not tried again until spec or ")
    assert ready.message.endswith("Meanwhile version 1 is served.")


@pytest.mark.parametrize(
    ("pod", "phase"),
    [
        pytest.param(failing_triton(NEW, "", last_exit_code=139), "RolledBack", id="a crash loop"),
        pytest.param(
            failing_triton(NEW, "", last_exit_code=139, restarts=1), "Surging", id="one crash"
        ),
        pytest.param(
            failing_triton(NEW, "", last_reason="OOMKilled", last_exit_code=137),
            "RolledBack",
            id="no memory, again and again",
        ),
        pytest.param(NEW, "Surging", id="it starts"),
        pytest.param(replace(NEW, ready=True, ready_since=ago(1)), "Surging", id="it is ready"),
    ],
)
def test_what_gives_a_version_up(pod: PodView, phase: str) -> None:
    view = settled(rolling(OLD, pod))
    assert under_way_of(settled(view)).phase == phase


def test_the_first_version_of_a_service_has_none_to_go_back_to() -> None:
    view = settled(settled(a_view(a_service(), failing_triton(a_pod()), nodes=ROOM)))
    assert view.service.status.rollout is None
    assert deleted(plan(view, NOW)) == []


def given_up(**spec: Any) -> InferenceView:
    view = settled(rolling(OLD, failing_triton(NEW), **spec))
    return settled(replace(view, pods=(OLD,)))


def test_a_version_that_was_given_up_is_tried_again_when_the_spec_changes() -> None:
    view = given_up()
    changed = view.service.spec.model_copy(update={"node_selector": {"gpu": "a100"}})
    found = plan(replace(view, service=view.service.model_copy(update={"spec": changed})), NOW)
    assert pods_of(found) == ["digits-serve-1"]
    assert under_way(found).phase == "Surging"


def test_the_next_version_is_rolled_out_from_the_one_that_serves() -> None:
    found = plan(replace(given_up(), model=a_served_model(3, 2, 1)), NOW)
    assert pods_of(found) == ["digits-serve-1"]
    assert (under_way(found).from_revision, under_way(found).failed) == (revision(1), None)


def test_a_pod_of_the_version_before_is_made_as_it_was() -> None:
    service = a_service(nodeSelector={"gpu": "a100"})
    old = a_pod(0, ready=True, service=service)
    view = settled(a_view(service, old, nodes=ROOM))
    spec = service.spec.model_copy(update={"node_selector": {"gpu": "none"}})
    changed = view.service.model_copy(update={"spec": spec})
    broken = failing_triton(a_pod(1, service=changed))
    view = settled(replace(view, service=changed))
    view = settled(replace(view, pods=(old, broken)))
    view = settled(replace(view, pods=(broken,)))
    (pod,) = plan(view, NOW).create
    assert pod.manifest["spec"]["nodeSelector"] == {"gpu": "a100"}
    assert pod.manifest["metadata"]["labels"][names.REVISION] == revision(service=service)


# Nodes that are being emptied

CORDONED = replace(a_node("node-2", gpus=8), schedulable=False)
MOVING = a_pod(0, ready=True, node="node-2")
ELSEWHERE = a_pod(1)


def emptying(*pods: PodView, **changes: Any) -> InferenceView:
    view = settled(
        a_view(a_service(**changes), MOVING, nodes=(*ROOM, replace(CORDONED, schedulable=True)))
    )
    return replace(view, pods=pods, nodes=(*ROOM, CORDONED))


@pytest.mark.parametrize(
    "node",
    [
        CORDONED,
        replace(
            CORDONED,
            schedulable=True,
            taints=(Taint("ToBeDeletedByClusterAutoscaler", "1", "NoSchedule"),),
        ),
        replace(
            CORDONED, schedulable=True, taints=(Taint("karpenter.sh/disrupted", "", "NoSchedule"),)
        ),
    ],
    ids=["cordoned", "about to be removed", "disrupted by Karpenter"],
)
def test_a_pod_on_a_node_that_is_being_emptied_is_first_made_elsewhere(node: Any) -> None:
    found = plan(replace(emptying(MOVING), nodes=(*ROOM, node)), NOW)
    assert (pods_of(found), drained(found)) == (["digits-serve-1"], [])
    assert under_way(found).phase == "Evacuating"


def test_it_drains_when_the_other_serves() -> None:
    ready = replace(ELSEWHERE, ready=True, ready_since=ago(9))
    found = plan(emptying(MOVING, ready), NOW)
    assert (pods_of(found), drained(found)) == ([], ["digits-serve-0"])


def test_it_serves_on_where_there_is_no_other_room() -> None:
    view = settled(settled(emptying(MOVING, unschedulable(ELSEWHERE))))
    found = plan(view, NOW)
    assert (drained(found), deleted(found)) == ([], [])
    rollout = under_way_of(view)
    assert rollout.phase == "Evacuating"
    assert rollout.waiting_for == (
        "room for digits-serve-1 on another node; meanwhile an eviction may take a pod before "
        "another answers in its place"
    )
    ready = next(each for each in view.service.status.conditions if each.type == "Ready")
    assert ready.status == "True"


def test_the_pod_elsewhere_goes_when_the_node_is_no_longer_emptied() -> None:
    view = replace(emptying(MOVING, ELSEWHERE), nodes=(*ROOM, replace(CORDONED, schedulable=True)))
    assert deleted(plan(view, NOW)) == ["digits-serve-1"]


# What evictions may take


@pytest.mark.parametrize(
    ("view", "allowed"),
    [
        pytest.param(a_view(a_service(), OLD, nodes=ROOM), 0, id="at rest"),
        pytest.param(emptying(MOVING), 0, id="a node is being emptied"),
        pytest.param(emptying(MOVING, ELSEWHERE), 0, id="and another pod starts elsewhere"),
        pytest.param(
            emptying(MOVING, unschedulable(ELSEWHERE, 10)), 0, id="or waits for room, for a while"
        ),
        pytest.param(
            emptying(MOVING, unschedulable(ELSEWHERE)), 1, id="there is no room in all that time"
        ),
        pytest.param(
            emptying(MOVING, failing_triton(ELSEWHERE, "")), 1, id="the other pod never serves"
        ),
        pytest.param(a_view(a_service(), OLD), 1, id="nodes are not seen"),
        pytest.param(
            a_view(a_service(disruption={"maxUnavailable": 3}), OLD, nodes=ROOM), 3, id="one's word"
        ),
    ],
)
def test_what_evictions_may_take(view: InferenceView, allowed: int) -> None:
    found = plan(replace(settled(view), budget=a_budget(max_unavailable=7)), NOW)
    (patch,) = [each for each in found.patch if each.target.kind == "PodDisruptionBudget"]
    assert patch.body["spec"]["maxUnavailable"] == allowed


def test_a_budget_is_made_with_the_service() -> None:
    found = plan(a_view(budget=None, nodes=ROOM), NOW)
    (budget,) = [
        each.manifest for each in found.create if each.manifest["kind"] == "PodDisruptionBudget"
    ]
    assert budget["metadata"]["name"] == "digits-serve"
    assert budget["spec"]["unhealthyPodEvictionPolicy"] == "AlwaysAllow"


# Requests come through the door


def test_pods_that_no_request_reaches_do_not_make_a_service_ready() -> None:
    for doors in ((), (a_door(ready=False),), (a_door(deleting=True),)):
        found = plan(replace(serving(OLD), doors=doors), NOW)
        assert told(found) == ("False", "DoorNotReady", "Reconciling")


# Many pods


def a_crowd(replicas: int) -> tuple[PodView, ...]:
    return tuple(a_pod(index, ready=True) for index in range(replicas))


@pytest.mark.parametrize(
    "model",
    [
        pytest.param(a_served_model(1), id="at rest"),
        pytest.param(NEW_MODEL, id="all of them old"),
        pytest.param(None, id="without its model"),
    ],
)
def test_the_work_grows_with_the_pods_and_not_with_their_square(model: LeptonModel | None) -> None:
    def view(replicas: int) -> InferenceView:
        pods = a_crowd(replicas)
        return replace(serving(*pods, replicas=replicas), model=model)

    few, many = view(40), view(400)
    plan(few, NOW)  # what is done once only
    assert steps(lambda: plan(many, NOW)) < 12 * steps(lambda: plan(few, NOW))
