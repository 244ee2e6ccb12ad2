from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from lepton_operator import names
from lepton_operator.api.inference import Replicas
from lepton_operator.build import serving
from lepton_operator.conditions import find
from lepton_operator.inference.plan import plan
from lepton_operator.plan import Plan
from lepton_operator.settings import Images, Triton
from lepton_operator.views import (
    ContainerView,
    Fetched,
    InferenceView,
    PodView,
    Refusal,
    ServicePort,
)
from tests.builders import (
    NOW,
    a_model,
    a_node,
    a_record,
    a_waiting_container,
    ago,
    defaults,
    stamp,
)
from tests.conftest import Golden
from tests.plans import deleted, told
from tests.unit.inference.builders import (
    PORT,
    UNSCHEDULABLE,
    a_door,
    a_kubernetes_service,
    a_pod,
    a_served_model,
    a_service,
    a_view,
    after,
    crashed,
    created,
    digest,
    drained,
    failing_triton,
    marked,
    message,
    pods_of,
    revision,
    service_ports,
    settled,
    status,
    unschedulable,
)

# What Triton 2.51 wrote over models that fail on zeros.
_COLOURED = (
    "\x1b[1;31m2026-11-22 13:50:30.177310090 [E:onnxruntime:, sequential_executor.cc:516 "
    "ExecuteKernel] Non-zero status code returned while running Gather node. Name:'' Status "
    "Message: indices element out of data bounds, idx=-9 must be within the inclusive range "
    "[-5,4]\x1b[m\n"
)
FAILED_WARM_UP = _COLOURED + (
    "E1122 13:50:25.502341 15020 model_lifecycle.cc:642] \"failed to load 'm' version 1: Invalid "
    "argument: failed to run warmup sample 'zeros, batch 1': [ONNXRuntimeError] : 2 : "
    "INVALID_ARGUMENT : Non-zero status code returned while running Gather node. Name:'' Status "
    'Message: indices element out of data bounds, idx=-9 must be within [-5,4]; "\n'
    "Error: Failed to initialize NVML\n"
    "error: creating server: Internal - failed to load all models\n"
)
_RESHAPE = (
    " : RUNTIME_EXCEPTION : Non-zero status code returned while running Reshape node. The "
    "input tensor cannot be reshaped to the requested shape. Input shape:{8,4}, requested "
    "shape:{1,4}\\n; "
)
CUT_WARM_UP = (
    f"e:{{8,4}}, requested shape:{{1,4}}\\n; [ONNXRuntimeError] : 6{_RESHAPE}[ONNXRuntimeError] : 6"
    f'{_RESHAPE}"\nError: Failed to initialize NVML\n'
    "error: creating server: Internal - failed to load all models\n"
)
DIED_OF_WARM_UP = _COLOURED + (
    "I1122 13:50:28.009906 15151 pb_stub.cc:2145]  Non-graceful termination detected. \n"
)
FETCHED_HALF = a_record(
    "Failed",
    message="After 8388608 of 16777216 bytes: The model cannot be written. Make room on the node.",
)
UNBATCHED = (
    "The model cannot be batched: the first size of 'image' is always 1. Export it with one "
    "dynamic first dimension for all inputs and outputs, or take spec.batching away."
)


# Pods and the Service


def test_a_fresh_service_makes_its_pods_first_and_then_its_service() -> None:
    found = plan(a_view(a_service(2), kubernetes_service=None), NOW)
    assert created(found) == ["digits-serve-0", "digits-serve-1", "digits"]
    assert [each.manifest["kind"] for each in found.create] == ["Pod", "Pod", "Service"]


def test_a_service_that_serves_needs_nothing() -> None:
    start = settled(a_view(a_service(), a_pod(ready=True)))
    assert plan(start, NOW + timedelta(hours=1)) == Plan()


@pytest.mark.parametrize(
    ("pods", "replicas", "made", "gone"),
    [
        pytest.param((), 0, [], [], id="none is asked for"),
        pytest.param(
            (a_pod(1, ready=True),), 2, ["digits-serve-0"], [], id="the lowest free index"
        ),
        pytest.param(
            (a_pod(0, ready=True, deleting=True), a_pod(1, ready=True)),
            2,
            ["digits-serve-2"],
            [],
            id="a pod being deleted is replaced at once, and keeps its name",
        ),
        pytest.param(
            (a_pod(0, gone=True), a_pod(1, ready=True)),
            2,
            ["digits-serve-0"],
            [],
            id="a pod that is gone leaves its name",
        ),
        pytest.param(
            (failing_triton(a_pod(0)), a_pod(1, ready=True)),
            2,
            [],
            [],
            id="a crash-looping pod stays: the kubelet starts it again",
        ),
        pytest.param(
            (a_pod(0, ready=True), a_pod(1), a_pod(2, ready=True)),
            2,
            [],
            ["digits-serve-1"],
            id="scaling down takes one that is not ready first",
        ),
        pytest.param(
            (a_pod(0, ready=True), a_pod(1, ready=True), a_pod(2, ready=True)),
            1,
            [],
            ["digits-serve-1", "digits-serve-2"],
            id="then the highest index",
        ),
        pytest.param(
            (a_pod(0, ready=True, created=ago(10)), a_pod(1, ready=True)),
            1,
            [],
            ["digits-serve-0"],
            id="but the youngest before it",
        ),
        pytest.param((a_pod(0, ready=True),), 0, [], ["digits-serve-0"], id="scaling to zero"),
    ],
)
def test_the_number_of_pods(
    pods: tuple[PodView, ...], replicas: int, made: list[str], gone: list[str]
) -> None:
    found = plan(settled(a_view(a_service(replicas), *pods)), NOW)
    assert pods_of(found) == made
    assert sorted([*deleted(found), *drained(found)]) == gone


def test_a_pod_on_a_node_that_stopped_answering_is_replaced() -> None:
    silent = a_node("node-1", ready=False, since=ago(31))
    found = plan(a_view(a_service(), a_pod(0, ready=True), nodes=(silent,)), NOW)
    assert pods_of(found) == ["digits-serve-1"]
    assert deleted(found) == []
    assert [each.reason for each in status(found).waiting] == ["NodeLost"]


def test_a_node_that_is_silent_for_a_moment_is_looked_at_again() -> None:
    since = ago(10).replace(microsecond=0)
    silent = a_node("node-1", ready=False, since=since)
    found = plan(a_view(a_service(), a_pod(0, ready=True), nodes=(silent,)), NOW)
    assert pods_of(found) == []
    assert found.due == since + timedelta(seconds=30)


def test_a_pod_whose_labels_bring_it_no_requests_is_replaced_and_left_alone() -> None:
    pod = a_pod(0, ready=True)
    released = replace(pod, labels={**pod.labels, names.NAME: "other"})
    found = plan(a_view(a_service(), released), NOW)
    assert pods_of(found) == ["digits-serve-1"]
    assert found.delete == ()
    assert [each.reason for each in status(found).waiting] == ["Released"]
    assert status(found).replicas == Replicas()


def test_a_failed_pod_is_recorded_then_replaced() -> None:
    evicted = a_pod(0, phase="Failed", reason="Evicted", message="low on memory")
    first = plan(a_view(a_service(), evicted), NOW)
    assert (first.delete, first.create) == ((), ())
    assert status(first).last_failure is not None
    second = plan(after(a_view(a_service(), evicted), first), NOW)
    assert deleted(second) == ["digits-serve-0"]
    assert pods_of(second) == ["digits-serve-1"]


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"selector": {"app": "mine"}}, id="its selector"),
        pytest.param({"ports": service_ports()[:1]}, id="its ports"),
        pytest.param({"ports": service_ports("http")}, id="a target that is no port of the door"),
        pytest.param({"ports": service_ports(80)}, id="a target that the door does not listen on"),
    ],
)
def test_a_service_that_does_not_lead_to_the_door_is_mended(change: dict[str, Any]) -> None:
    view = a_view(a_service(), a_pod(ready=True), kubernetes_service=a_kubernetes_service(**change))
    (patch,) = plan(settled(view), NOW).patch
    assert patch.target.uid == "uid-of-service"
    assert patch.body["spec"]["selector"][names.ROLE] == "door"
    assert patch.body["spec"]["selector"].get("app", "absent") is (
        None if "selector" in change else "absent"
    )
    assert [each["port"] for each in patch.body["spec"]["ports"]] == [8000, 8001]
    assert len({each["targetPort"] for each in patch.body["spec"]["ports"]}) == 1


PAST_DOORS = a_kubernetes_service(
    selector=serving.selector(a_service()),
    ports=(ServicePort("http", 8000, "http"), ServicePort("grpc", 8001, "grpc")),
)


Told = Sequence[tuple[PodView, Collection[int]]]
"""Doors, each with the ports that it told."""


def past_doors(told: Told, *, announced: int | None = PORT) -> Plan:
    """A service from before there were doors, by what its doors told of their ports."""
    view = a_view(
        a_service(),
        a_pod(ready=True),
        kubernetes_service=replace(PAST_DOORS, announced_port=announced),
        doors=tuple(door for door, _ in told),
        listening={door.uid: frozenset(ports) for door, ports in told if ports},
    )
    return plan(settled(view), NOW)


@pytest.mark.parametrize("door", [True, False])
def test_the_doors_learn_the_port_of_an_old_service_before_it_leads_to_them(*, door: bool) -> None:
    (patch,) = past_doors([(a_door(ready=door), [PORT])], announced=None).patch
    assert patch.body.keys() == {"metadata"}
    assert int(patch.body["metadata"]["annotations"][names.DOOR_PORT]) in names.DOOR_PORTS


LISTENS, LISTENS_FOR_OTHERS = (PORT, PORT + 1), (PORT + 1,)


@pytest.mark.parametrize(
    "told",
    [
        pytest.param([], id="there is none"),
        pytest.param([(a_door(ready=False), LISTENS)], id="none is ready"),
        pytest.param([(a_door(), ())], id="it has not told where it listens"),
        pytest.param([(a_door(), LISTENS_FOR_OTHERS)], id="it listens for others only"),
        pytest.param([(a_door(), LISTENS), (a_door(1), ())], id="one of two listens"),
        pytest.param([(a_door(deleting=True), LISTENS)], id="it leaves"),
    ],
)
def test_an_old_service_leads_to_its_pods_while_of_the_doors(told: Told) -> None:
    assert past_doors(told) == Plan()


@pytest.mark.parametrize(
    "told",
    [
        pytest.param([(a_door(), LISTENS)], id="the only one"),
        pytest.param([(a_door(), LISTENS), (a_door(1), LISTENS)], id="both"),
        pytest.param([(a_door(), LISTENS), (a_door(1, ready=False), ())], id="one that is ready"),
    ],
)
def test_an_old_service_is_led_to_the_doors_once_they_listen_there(told: Told) -> None:
    (patch,) = past_doors(told).patch
    assert patch.body["spec"]["selector"][names.ROLE] == "door"
    assert {each["targetPort"] for each in patch.body["spec"]["ports"]} == {PORT}
    assert patch.body["metadata"]["annotations"] == {names.DOOR_PORT: None}


def test_an_old_service_is_ready_without_a_door() -> None:
    view = a_view(a_service(), a_pod(ready=True), kubernetes_service=PAST_DOORS, doors=())
    ready = find(status(plan(view, NOW)).conditions, "Ready")
    assert ready is not None
    assert (ready.status, ready.reason) == ("True", "Serving")
    assert "directly until the doors of this namespace are ready" in ready.message


def test_other_limits_replace_no_pod() -> None:
    limited = a_service(limits={"concurrency": 4, "queue": 2})
    view = a_view(limited, a_pod(ready=True))
    assert pods_of(plan(view, NOW)) == deleted(plan(view, NOW)) == []


def test_a_name_that_a_stranger_has_is_not_taken_over() -> None:
    refusal = Refusal("digits-serve-0", "NameTaken", "it belongs to another owner")
    assert pods_of(plan(a_view(refusals=(refusal,)), NOW)) == ["digits-serve-1"]


# Which version


@pytest.mark.parametrize(
    ("view", "reason", "words"),
    [
        pytest.param(
            a_view(model=None), "ModelNotFound", "There is no LeptonModel digits", id="no model"
        ),
        pytest.param(
            a_view(a_service(version=7)),
            "VersionNotFound",
            "has no version 7 (it has: 1)",
            id="a version that is not listed",
        ),
        pytest.param(
            a_view(model=a_model()),
            "NoAcceptedVersion",
            "has no version that passed its gate yet",
            id="nothing has passed",
        ),
        pytest.param(
            a_view(
                model=a_model(
                    status={
                        "conditions": [
                            {
                                "type": "Ready",
                                "status": "False",
                                "reason": "GateFailed",
                                "message": "accuracy 0.5 is below its minimum 0.9.",
                                "lastTransitionTime": stamp(NOW),
                            }
                        ]
                    }
                )
            ),
            "NoAcceptedVersion",
            "GateFailed: accuracy 0.5 is below its minimum 0.9.",
            id="nothing has passed, and the model says why",
        ),
    ],
)
def test_without_a_version_the_service_waits(view: InferenceView, reason: str, words: str) -> None:
    found = plan(view, NOW)
    assert told(found) == ("False", reason, "Reconciling")
    assert words in message(found)
    assert pods_of(found) == []


def test_a_pinned_version_is_served_as_it_is() -> None:
    view = a_view(a_service(version=1), model=a_served_model(2, 1))
    (pod,) = plan(view, NOW).create
    command = pod.manifest["spec"]["initContainers"][0]["command"]
    assert command[command.index("--version") + 1] == "1"
    assert command[command.index("--digest") + 1] == digest(1)


@pytest.mark.parametrize("model", [None, a_model()], ids=["deleted", "being listed anew"])
def test_what_is_served_is_kept_up_while_the_model_is_away(model: Any) -> None:
    start = settled(a_view(a_service(2), a_pod(0, ready=True), a_pod(1, ready=True)))
    away = replace(start, model=model, pods=(a_pod(0, ready=True),))
    found = plan(away, NOW)
    assert pods_of(found) == ["digits-serve-1"]
    assert deleted(found) == []
    assert message(found).endswith("Meanwhile version 1 is served.")


def test_another_model_that_is_not_there_yet_replaces_nothing() -> None:
    start = settled(a_view(a_service(), a_pod(0, ready=True)))
    changed = start.service.spec.model.model_copy(update={"name": "other"})
    spec = start.service.spec.model_copy(update={"model": changed})
    service = start.service.model_copy(update={"spec": spec})
    found = plan(replace(start, service=service, model=None), NOW)
    assert (pods_of(found), deleted(found)) == ([], [])
    assert told(found) == ("False", "ModelNotFound", "Reconciling")


# Revisions


@pytest.mark.parametrize(
    ("changed", "same"),
    [
        pytest.param(a_service(5), True, id="replicas"),
        pytest.param(a_service(version=1), True, id="a pin of the very version"),
        pytest.param(a_service(nodeSelector={"gpu": "a100"}), False, id="a node selector"),
        pytest.param(a_service(resources={"limits": {"cpu": 1}}), False, id="resources"),
        pytest.param(
            a_service(rollout={"restartedAt": stamp(NOW)}), False, id="a restart that is asked for"
        ),
        pytest.param(a_service(rollout={}), True, id="a rollout that says nothing"),
        pytest.param(a_service(resources={}), False, id="no GPU"),
        pytest.param(a_service(batching={"maxBatchSize": 4}), False, id="batching"),
        pytest.param(a_service(batching={}, spread={}, triton={}), True, id="what says nothing"),
        pytest.param(a_service(triton={"instances": 2}), False, id="instances"),
        pytest.param(a_service(limits={"queue": 10}), True, id="limits: they are the door's"),
    ],
)
def test_what_makes_another_revision(changed: Any, same: bool) -> None:  # noqa: FBT001
    assert (revision(1, changed) == revision(1)) is same


def test_another_version_is_another_revision() -> None:
    assert revision(1) != revision(2)


NEWER = defaults(
    images=Images(agent="agent:2", trainer="trainer:2", triton="triton:2", door="door:2")
)


@pytest.mark.parametrize(
    "view",
    [
        pytest.param(
            settled(a_view(a_service(2), a_pod(0, ready=True))), id="recorded in the status"
        ),
        pytest.param(a_view(a_service(2), a_pod(0, ready=True)), id="recorded with the oldest pod"),
    ],
)
def test_a_changed_chart_value_reaches_no_pod_of_a_revision_that_exists(
    view: InferenceView,
) -> None:
    found = plan(replace(view, defaults=NEWER), NOW)
    assert deleted(found) == []
    (pod,) = found.create
    assert pod.manifest["spec"]["containers"][0]["image"] == "triton:1"


def test_a_changed_chart_value_reaches_the_next_revision() -> None:
    start = settled(a_view(a_service(), a_pod(0, ready=True)))
    (pod,) = plan(replace(start, defaults=NEWER, model=a_served_model(2, 1)), NOW).create
    assert pod.manifest["spec"]["containers"][0]["image"] == "triton:2"


def test_an_unreadable_record_of_defaults_is_resolved_anew() -> None:
    pod = a_pod(0, ready=True, annotations={names.RESOLVED: "{"})
    (made,) = plan(a_view(a_service(2), pod), NOW).create
    assert made.manifest["spec"]["containers"][0]["image"] == "triton:1"


SAFE = defaults(triton=Triton(minimum_version="2.70.0"))


def test_no_pods_are_made_with_a_triton_below_the_floor() -> None:
    found = plan(a_view(a_service(2), defaults=SAFE), NOW)
    assert pods_of(found) == []
    assert told(found) == ("False", "ServerTooOld", "Reconciling")
    assert message(found) == (
        "The Triton of this installation is 2.51.0, and no pods are made with one before 2.70.0: "
        "older ones have holes that NVIDIA's security bulletins list. An administrator sets "
        "images.triton and triton.version to a current release, or lowers triton.minimumVersion, "
        "in the chart's values."
    )


def test_a_floor_that_was_raised_takes_no_service_away() -> None:
    start = settled(a_view(a_service(2), a_pod(0, ready=True), a_pod(1, ready=True)))
    assert plan(replace(start, defaults=SAFE), NOW) == Plan()


def test_below_the_floor_a_new_version_waits_while_the_old_one_serves() -> None:
    start = settled(a_view(a_service(), a_pod(0, ready=True)))
    found = plan(replace(start, defaults=SAFE, model=a_served_model(2, 1)), NOW)
    assert (pods_of(found), deleted(found)) == ([], [])
    assert told(found) == ("False", "ServerTooOld", "Reconciling")
    assert message(found).endswith("Meanwhile version 1 is served.")


# Rollouts


def rollout(*pods: PodView, replicas: int = 2) -> Plan:
    """A plan while version 2 replaces version 1."""
    view = a_view(a_service(replicas), *pods, model=a_served_model(2, 1))
    return plan(settled(view), NOW)


OLD = (a_pod(0, ready=True), a_pod(1, ready=True))


@pytest.mark.parametrize(
    ("pods", "made", "gone"),
    [
        pytest.param(OLD, ["digits-serve-2"], [], id="one pod of the new revision is surged"),
        pytest.param((*OLD, a_pod(2, version=2)), [], [], id="it is waited for"),
        pytest.param(
            (*OLD, a_pod(2, version=2, ready=True, ready_seconds=1)),
            [],
            [],
            id="until every node sends it requests",
        ),
        pytest.param(
            (*OLD, a_pod(2, version=2, ready=True)),
            [],
            ["digits-serve-1"],
            id="then an old one drains",
        ),
        pytest.param(
            (OLD[0], marked(OLD[1]), a_pod(2, version=2, ready=True)),
            [],
            [],
            id="which keeps its room until it has drained",
        ),
        pytest.param(
            (OLD[0], replace(OLD[1], deleting=True), a_pod(2, version=2, ready=True)),
            ["digits-serve-3"],
            [],
            id="and the next new one comes when it goes",
        ),
        pytest.param(
            (OLD[0], a_pod(2, version=2, ready=True), a_pod(3, version=2, ready=True)),
            [],
            ["digits-serve-0"],
            id="the last old one goes when enough new ones serve",
        ),
        pytest.param(
            (*OLD, failing_triton(a_pod(2, version=2))),
            [],
            [],
            id="a new revision that does not load leaves the old one serving",
        ),
        pytest.param(
            (OLD[0], a_pod(1), a_pod(2, version=2)),
            [],
            [],
            id="an old pod that is not ready may come back while the new one starts",
        ),
        pytest.param(
            (OLD[0], a_pod(1), a_pod(2, version=2, ready=True)),
            ["digits-serve-3"],
            ["digits-serve-1"],
            id="of the old ones the one that serves nothing goes first",
        ),
        pytest.param(
            (failing_triton(a_pod(0)), failing_triton(a_pod(1)), a_pod(2, version=2, ready=True)),
            ["digits-serve-3"],
            ["digits-serve-1"],
            id="a broken old revision is replaced one by one too",
        ),
        pytest.param(
            (failing_triton(a_pod(0)), OLD[1], unschedulable(a_pod(2, version=2))),
            ["digits-serve-3"],
            ["digits-serve-0"],
            id="an old pod that serves nothing makes room for a new one that finds none",
        ),
        pytest.param(
            (*OLD, unschedulable(a_pod(2, version=2), seconds=10)),
            [],
            [],
            id="one that serves does not, as long as room is waited for",
        ),
        pytest.param(
            (*OLD, failing_triton(a_pod(2, version=3))),
            ["digits-serve-3"],
            ["digits-serve-2"],
            id="a broken revision in between is given up for the next one",
        ),
    ],
)
def test_a_rollout(pods: tuple[PodView, ...], made: list[str], gone: list[str]) -> None:
    found = rollout(*pods)
    assert (pods_of(found), [*deleted(found), *drained(found)]) == (made, gone)


def test_a_rollout_asks_again_when_the_new_pod_will_serve() -> None:
    new = a_pod(2, version=2, ready=True, ready_seconds=1)
    assert new.ready_since is not None
    assert rollout(*OLD, new).due == new.ready_since + timedelta(seconds=2)


def test_a_pod_that_serves_is_marked_only_after_a_live_look_at_the_others() -> None:
    assert rollout(*OLD, a_pod(2, version=2, ready=True)).relist


def test_going_back_to_the_old_version_drops_the_new_pod_at_once() -> None:
    start = settled(a_view(a_service(2), *OLD, a_pod(2, version=2)))
    found = plan(start, NOW)
    assert (pods_of(found), deleted(found)) == ([], ["digits-serve-2"])


def test_scaling_down_in_a_rollout_takes_from_the_old_revision() -> None:
    found = rollout(*OLD, a_pod(2, version=2), replicas=1)
    assert (pods_of(found), deleted(found), drained(found)) == ([], [], ["digits-serve-1"])


# Where the service stands


@pytest.mark.parametrize(
    ("view", "stands"),
    [
        pytest.param(a_view(), ("False", "Starting", "Reconciling"), id="no pod yet"),
        pytest.param(
            a_view(a_service(), a_pod()), ("False", "Starting", "Reconciling"), id="starting"
        ),
        pytest.param(a_view(a_service(), a_pod(ready=True)), ("True", "Serving", ""), id="serving"),
        pytest.param(
            a_view(a_service(), a_pod(ready=True), kubernetes_service=None),
            ("False", "Starting", "Reconciling"),
            id="without its Service",
        ),
        pytest.param(a_view(a_service(0)), ("True", "ScaledToZero", ""), id="scaled to zero"),
        pytest.param(
            a_view(a_service(0), a_pod(ready=True)),
            ("False", "ScalingDown", "Reconciling"),
            id="on its way to zero",
        ),
        pytest.param(
            a_view(a_service(), a_pod(ready=True), model=a_served_model(2, 1)),
            ("False", "RollingOut", "Reconciling"),
            id="rolling out",
        ),
        pytest.param(
            a_view(
                a_service(),
                a_pod(ready=True),
                unschedulable(a_pod(1, version=2)),
                model=a_served_model(2, 1),
            ),
            ("False", "NoCapacity", "Reconciling"),
            id="rolling out without room",
        ),
        pytest.param(
            a_view(refusals=(Refusal("digits-serve-0", "QuotaExceeded", "exceeded quota"),)),
            ("False", "QuotaExceeded", "Reconciling"),
            id="a quota",
        ),
        pytest.param(
            a_view(
                a_service(),
                a_pod(ready=True),
                kubernetes_service=None,
                refusals=(Refusal("digits", "NameTaken", "it belongs to another owner"),),
            ),
            ("False", "NameTaken", "Reconciling"),
            id="a stranger's Service of that name",
        ),
    ],
)
def test_where_a_service_stands(view: InferenceView, stands: tuple[str, str, str]) -> None:
    assert told(plan(view, NOW)) == stands


def test_in_a_rollout_that_fails_the_sentence_says_what_is_served_meanwhile() -> None:
    start = settled(a_view(a_service(), a_pod(ready=True)))
    pods = (a_pod(ready=True), failing_triton(a_pod(1, version=2)))
    found = plan(replace(start, pods=pods, model=a_served_model(2, 1)), NOW)
    assert told(found) == ("False", "ModelLoadFailed", "Reconciling")
    assert "opset 28 is under development" in message(found)
    assert message(found).endswith("Meanwhile version 1 is served.")
    assert status(found).version == 1


@pytest.mark.parametrize(
    ("pod", "reason", "words"),
    [
        pytest.param(
            unschedulable(a_pod()),
            "NoCapacity",
            "it asks for 1 nvidia.com/gpu, and no node has any: add one that has 1, or ask for "
            f"none. The scheduler says: {UNSCHEDULABLE}",
            id="no node has room",
        ),
        pytest.param(
            a_pod(containers=(a_waiting_container("triton", "ErrImagePull", "not found"),)),
            "ImageError",
            "The image of container triton cannot be pulled: not found",
            id="the image cannot be pulled",
        ),
        pytest.param(
            a_pod(
                init_containers=(
                    crashed("fetch", a_record("Failed", reason="NoStore", message="no Secret")),
                )
            ),
            "NoStore",
            "no Secret. It is tried again.",
            id="there is no store",
        ),
        pytest.param(
            a_pod(init_containers=(crashed("fetch", "Traceback\nOSError: disk full"),)),
            "FetchFailed",
            "OSError: disk full",
            id="the model could not be fetched",
        ),
        pytest.param(
            failing_triton(a_pod()),
            "ModelLoadFailed",
            "Triton cannot load the model: Internal: onnx runtime error 1: opset 28 is under "
            "development. Serve another version",
            id="Triton cannot load the model",
        ),
        pytest.param(
            failing_triton(a_pod(), "error: creating server: failed to load all models"),
            "ModelLoadFailed",
            "failed to load all models",
            id="Triton cannot load the model, and the reason is cut off",
        ),
        pytest.param(
            failing_triton(a_pod(), FAILED_WARM_UP),
            "ModelLoadFailed",
            "indices element out of data bounds, idx=-9 must be within [-5,4]. Serve another",
            id="the model does not answer the warm-up",
        ),
        pytest.param(
            failing_triton(a_pod(), CUT_WARM_UP),
            "ModelLoadFailed",
            "cannot be reshaped to the requested shape. Input shape:{8,4}, requested shape:{1,4}. "
            "Serve another version",
            id="it does not answer a whole batch, and the start of the line is cut off",
        ),
        pytest.param(
            failing_triton(a_pod(), DIED_OF_WARM_UP, last_exit_code=139),
            "ModelLoadFailed",
            "Triton ended with exit code 139 when the model failed: Non-zero status code returned "
            "while running Gather node. Name:'' Status Message: indices element out of data bounds",
            id="Triton itself dies of the warm-up",
        ),
        pytest.param(
            failing_triton(a_pod(), DIED_OF_WARM_UP, last_exit_code=137),
            "CrashLoop",
            "Container triton ended with exit code 137",
            id="a request had failed, and something else ended Triton",
        ),
        pytest.param(
            a_pod(
                init_containers=(
                    crashed("fetch", a_record("Failed", reason="CannotBatch", message=UNBATCHED)),
                )
            ),
            "CannotBatch",
            UNBATCHED,
            id="the model cannot be batched as it is asked to be",
        ),
        pytest.param(
            failing_triton(a_pod(), "", last_reason="OOMKilled", last_exit_code=137),
            "OutOfMemory",
            "raise the memory in resources",
            id="more memory than its limit",
        ),
        pytest.param(
            failing_triton(a_pod(), "Segmentation fault", last_exit_code=139),
            "CrashLoop",
            "Container triton ended with exit code 139",
            id="something else ended it",
        ),
        pytest.param(
            a_pod(init_containers=(crashed("fetch", FETCHED_HALF),)),
            "FetchFailed",
            "After 8388608 of 16777216 bytes: The model cannot be written. Make room on the node. "
            "It is tried again.",
            id="the disk was full half-way",
        ),
        pytest.param(
            a_pod(
                fetched=Fetched(1 << 20, 3 << 20),
                init_containers=(ContainerView("fetch", "running"),),
            ),
            "Starting",
            "The pod fetches its model: 1048576 of 3145728 bytes, 33 %.",
            id="it fetches its model",
        ),
        pytest.param(a_pod(), "Starting", "The pod runs and is not ready yet", id="it starts"),
        pytest.param(
            a_pod(
                unready_since=ago(60),
                containers=(ContainerView("triton", "running", started=ago(30)),),
            ),
            "Starting",
            "The pod runs and is not ready yet",
            id="it was not ready before it was started",
        ),
        pytest.param(
            a_pod(
                unready_since=ago(30),
                containers=(ContainerView("triton", "running", started=ago(60)),),
            ),
            "NotAnswering",
            "The pod was ready, and is not since 03:59:30 UTC: its model does not answer",
            id="it has stopped answering",
        ),
        pytest.param(
            a_pod(deleting=True), "Draining", "finishes what it has begun", id="it drains"
        ),
    ],
)
def test_why_a_pod_waits(pod: PodView, reason: str, words: str) -> None:
    found = plan(a_view(a_service(), pod, nodes=(a_node(gpus=0),)), NOW)
    (entry,) = status(found).waiting
    assert (entry.pod, entry.reason) == ("digits-serve-0", reason)
    assert words in entry.message


def test_a_crash_between_two_states_is_told_in_the_same_words() -> None:
    waits = failing_triton(a_pod())
    last = waits.containers[0]
    ended = ContainerView(
        "triton",
        "terminated",
        restarts=3,
        exit_code=1,
        reason="Error",
        message=last.last_message,
        finished=last.last_finished,
    )
    starts = replace(last, state="running", reason="", message="")
    start = settled(a_view(a_service(), waits))
    for container in (ended, starts):
        assert plan(replace(start, pods=(replace(waits, containers=(container,)),)), NOW) == Plan()


def test_the_last_failure_outlives_the_pod() -> None:
    start = settled(a_view(a_service(), failing_triton(a_pod(), at=ago(5))))
    found = plan(replace(start, pods=(a_pod(0, ready=True),)), NOW)
    kept = status(found).last_failure
    assert kept is not None
    assert (kept.pod, kept.reason) == ("digits-serve-0", "ModelLoadFailed")
    assert kept.time == ago(5).replace(microsecond=0)


def test_a_later_failure_takes_its_place() -> None:
    start = settled(a_view(a_service(), failing_triton(a_pod(), at=ago(50))))
    later = failing_triton(a_pod(), "Segmentation fault", at=ago(5))
    found = status(plan(replace(start, pods=(later,)), NOW)).last_failure
    assert found is not None
    assert found.reason == "CrashLoop"


def test_events_tell_what_happened() -> None:
    first = plan(a_view(kubernetes_service=None), NOW)
    assert [each.reason for each in first.events] == ["RollingOut"]
    start = after(a_view(), first)
    second = plan(replace(start, pods=(a_pod(ready=True),)), NOW)
    assert [(each.type, each.reason) for each in second.events] == [("Normal", "Serving")]
    third = plan(replace(start, pods=(failing_triton(a_pod()),)), NOW)
    assert [each.type for each in third.events] == ["Warning", "Warning"]


def test_a_plan_explains_itself_in_one_line() -> None:
    found = rollout(*OLD, a_pod(2, version=2, ready=True))
    assert found.because == (
        "drain digits-serve-1: it is of an old revision, and enough others serve"
    )


def test_a_deleted_service_is_left_alone() -> None:
    assert plan(a_view(a_service(meta={"deletionTimestamp": stamp(NOW)})), NOW) == Plan()


def test_the_status_in_a_rollout(golden: Golden) -> None:
    start = settled(a_view(a_service(2), *OLD))
    new = unschedulable(a_pod(2, version=2))
    view = replace(start, pods=(*OLD, new), model=a_served_model(2, 1), nodes=(a_node(gpus=1),))
    golden("inference/status", plan(view, NOW).status)
