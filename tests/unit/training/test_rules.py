"""How a pod's failure is classed, from statuses as kubelets and the API server write them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from lepton_operator import bodies
from lepton_operator.api.training import Attempt
from lepton_operator.views import NodeView, PodView
from tests.builders import NOW, a_node, a_pod, a_record, ago, stamp
from tests.unit.training.builders import a_view, an_open_job, decide, status_of

BUG = a_record("Failed", reason="UserError", message="ValueError: bad", rank=1)
PEER = a_record(
    "Failed",
    reason="UserError",
    message="RuntimeError: [pair.cc:553] Connection closed by peer [10.66.65.6]:8358",
    matched=["PeerLost"],
)


def fate(*pods: PodView, nodes: Any = None, **spec: Any) -> Attempt:
    job = an_open_job(len(pods), **spec)
    more = {} if nodes is None else {"nodes": nodes}
    decided = decide(a_view(job, *pods, **more))
    return Attempt.model_validate(status_of(decided)["attempts"][-1])


def kubelet(terminated: dict[str, Any], **status: Any) -> PodView:
    """Pod 1 with the status that a kubelet wrote; only names and times are ours."""
    container = {
        "name": "train",
        "ready": False,
        "restartCount": 0,
        "state": {
            "terminated": {
                "containerID": "containerd://5c0ffee",
                "startedAt": stamp(ago(20)),
                "finishedAt": stamp(ago(1)),
                **terminated,
            }
        },
    }
    body = {
        "metadata": {
            "name": "digits-train-1-1",
            "namespace": "team",
            "uid": "uid-of-1-1",
            "creationTimestamp": stamp(ago(30)),
            "ownerReferences": [
                {
                    "kind": "TrainingJob",
                    "name": "digits",
                    "uid": "uid-of-digits",
                    "controller": True,
                }
            ],
        },
        "spec": {
            "nodeName": "node-2",
            "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}],
        },
        "status": {
            "phase": "Failed",
            "conditions": [
                {"type": "PodScheduled", "status": "True"},
                {"type": "Ready", "status": "False", "reason": "PodFailed"},
            ],
            "containerStatuses": [container],
            **status,
        },
    }
    return bodies.pod_view(body)


# --- out of memory: on cgroup v2 the kubelet sets memory.oom.group, and the launcher goes too

OOM_V2 = {"exitCode": 137, "reason": "OOMKilled"}
OOM_V1 = {"exitCode": 137, "reason": "Error", "message": BUG}
KILLED_BY_THE_NODE = {"exitCode": 137, "reason": "Error"}


@pytest.mark.parametrize(
    ("peer", "reason"),
    [
        pytest.param(a_pod(0, running=True), "OutOfMemory", id="its peers still wait for it"),
        pytest.param(
            a_pod(0, failed=True, said=PEER, finished=ago(9)),
            "OutOfMemory",
            id="a peer whose clock is behind blames it, and seems to have ended first",
        ),
    ],
)
def test_an_out_of_memory_kill_on_cgroup_v2_takes_the_launcher_and_leaves_no_message(
    peer: PodView, reason: str
) -> None:
    found = fate(peer, kubelet(OOM_V2))
    assert (found.reason, found.budget, found.node, found.rank) == (reason, "User", "node-2", 1)
    assert (found.exit_code, found.signal, found.last_error_line) == (137, 9, None)
    assert found.message is not None
    assert "raise the memory in resourcesPerNode" in found.message


def test_the_kernel_s_kill_of_one_process_on_cgroup_v1_is_told_by_the_launcher() -> None:
    found = fate(a_pod(0, running=True), kubelet(OOM_V1))
    assert (found.reason, found.last_error_line) == ("UserError", "ValueError: bad")


def test_a_rank_that_the_kernel_ended_for_its_memory_is_told_by_the_launcher() -> None:
    said = a_record("Failed", reason="OutOfMemory", message="Killed by SIGKILL.", rank=1, signal=9)
    found = fate(a_pod(0, running=True), kubelet({**OOM_V1, "message": said}))
    assert (found.reason, found.budget, found.signal) == ("OutOfMemory", "User", 9)


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        pytest.param(BUG, "UserError", id="its ranks failed later, in another way"),
        pytest.param(
            a_record("Failed", reason="UserError", message="Killed by SIGKILL.", signal=9),
            "OutOfMemory",
            id="its launcher cannot see the kernel's count",
        ),
    ],
)
def test_a_container_whose_memory_was_used_up_once_may_end_for_another_reason(
    said: str, reason: str
) -> None:
    found = fate(a_pod(0, running=True), kubelet({**OOM_V2, "message": said}))
    assert found.reason == reason


# --- a missing message: reason, node and the peers' messages decide


@pytest.mark.parametrize(
    ("peer", "reason", "node"),
    [
        pytest.param(a_pod(0, running=True), "NoMessage", "node-2", id="its peers still run"),
        pytest.param(
            a_pod(0, failed=True, said=PEER, finished=ago(9)),
            "NoMessage",
            "node-2",
            id="a peer blames it, and seems to have ended first",
        ),
        pytest.param(
            a_pod(0, failed=True, said=BUG, finished=ago(0)),
            "UserError",
            "node-1",
            id="a peer says what it did itself, and ended later",
        ),
        pytest.param(a_pod(0, gone=True), "PodLost", "node-1", id="a peer is gone"),
    ],
)
def test_without_a_message_the_peers_decide(peer: PodView, reason: str, node: str) -> None:
    found = fate(peer, kubelet(KILLED_BY_THE_NODE))
    assert (found.reason, found.node) == (reason, node)


def test_without_a_message_the_node_decides() -> None:
    cordoned = replace(a_node("node-2"), schedulable=False)
    found = fate(a_pod(0, running=True), kubelet(KILLED_BY_THE_NODE), nodes=(a_node(), cordoned))
    assert (found.reason, found.budget) == ("NodeUnhealthy", "Infrastructure")


def test_a_launcher_that_was_killed_too_says_where_to_look() -> None:
    message = fate(a_pod(0, running=True), kubelet(KILLED_BY_THE_NODE)).message
    assert message is not None
    assert message.startswith("Rank 1, pod digits-train-1-1 on node node-2, was ended by SIGKILL:")
    assert "kubectl logs digits-train-1-1" in message


# --- a peer's broken connection never outranks a cause


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        pytest.param(BUG, "UserError", id="an exception"),
        pytest.param(
            a_record("Failed", reason="UserError", matched=["GpuError"]), "GpuError", id="a GPU"
        ),
        pytest.param(
            a_record("Failed", reason="UserError", matched=["NetworkError"]),
            "NetworkError",
            id="a network",
        ),
        pytest.param("", "NoMessage", id="no message"),
    ],
)
def test_who_blames_a_peer_is_not_the_cause_though_its_clock_says_it_ended_first(
    said: str, reason: str
) -> None:
    victims = [a_pod(rank, failed=True, said=PEER, finished=ago(60)) for rank in (0, 2)]
    culprit = a_pod(1, failed=True, said=said, finished=ago(1), node="node-2")
    found = fate(victims[0], culprit, victims[1])
    assert (found.reason, found.node) == (reason, "node-2")


def test_where_all_blame_a_peer_that_is_what_is_known() -> None:
    found = fate(*(a_pod(rank, failed=True, said=PEER) for rank in (0, 1)))
    assert (found.reason, found.budget) == ("PeerLost", "User")


def test_a_gpu_outranks_the_network_in_one_log() -> None:
    said = a_record("Failed", reason="UserError", matched=["GpuError", "NetworkError", "PeerLost"])
    assert fate(a_pod(0, failed=True, said=said)).reason == "GpuError"


def test_a_pod_s_own_words_never_count_as_infrastructure() -> None:
    said = a_record("Failed", reason="UserError", message="Xid 79", matched=["GpuError"])
    assert fate(a_pod(0, failed=True, said=said)).budget == "User"


# --- the pod's own conditions


def disruption(reason: str) -> list[dict[str, str]]:
    return [{"type": "DisruptionTarget", "status": "True", "reason": reason, "message": "x"}]


@pytest.mark.parametrize(
    ("status", "reason", "budget"),
    [
        pytest.param(
            {"conditions": disruption("PreemptionByScheduler")},
            "Preempted",
            "Preemption",
            id="the scheduler gave its place to another pod",
        ),
        pytest.param(
            {"conditions": disruption("EvictionByEvictionAPI")},
            "Evicted",
            "Infrastructure",
            id="its node is drained",
        ),
        pytest.param(
            {"conditions": disruption("DeletionByTaintManager")},
            "Evicted",
            "Infrastructure",
            id="a taint drove it out",
        ),
        pytest.param(
            {
                "conditions": disruption("TerminationByKubelet"),
                "reason": "Evicted",
                "message": "The node was low on resource: memory. Threshold quantity: 100Mi.",
            },
            "Evicted",
            "Infrastructure",
            id="its node ran out of memory",
        ),
        pytest.param(
            {
                "conditions": disruption("TerminationByKubelet"),
                "reason": "Evicted",
                "message": 'Usage of EmptyDir volume "shared-memory" exceeds the limit "8Gi". ',
            },
            "StorageExceeded",
            "User",
            id="it filled its shared memory",
        ),
        pytest.param(
            {
                "conditions": disruption("TerminationByKubelet"),
                "reason": "Evicted",
                "message": "Pod ephemeral local storage usage exceeds the total limit of "
                "containers 10Gi. ",
            },
            "StorageExceeded",
            "User",
            id="it filled its disk",
        ),
        pytest.param(
            {
                "conditions": disruption("TerminationByKubelet"),
                "reason": "Terminated",
                "message": "Pod was terminated in response to imminent node shutdown.",
            },
            "Evicted",
            "Infrastructure",
            id="its node shuts down",
        ),
        pytest.param(
            {"reason": "UnexpectedAdmissionError", "message": "Allocate failed: no GPU"},
            "PodLost",
            "Infrastructure",
            id="its kubelet refused it",
        ),
    ],
)
def test_what_the_pod_s_status_says_outranks_how_its_container_ended(
    status: dict[str, Any], reason: str, budget: str
) -> None:
    ended = {"exitCode": 143, "reason": "Error", "message": BUG}
    found = fate(a_pod(0, running=True), kubelet(ended, **status))
    assert (found.reason, found.budget) == (reason, budget)


def test_a_pod_that_was_sent_sigterm_by_nobody_we_know_of() -> None:
    said = a_record("Failed", reason="Terminated", message="Asked to leave.", signal=15)
    found = fate(a_pod(0, running=True), kubelet({"exitCode": 143, "message": said}))
    assert (found.reason, found.budget, found.signal) == ("Terminated", "User", 15)


def test_a_hang_that_the_launcher_found() -> None:
    stacks = "runs/uid/stacks/1-0-1.txt"
    told = {"message": "Rank 1 is stopped.", "rank": 1, "signal": 9, "stacks": stacks}
    said = a_record("Failed", reason="Hang", **told)
    found = fate(a_pod(0, running=True), kubelet({"exitCode": 137, "message": said}))
    assert (found.reason, found.budget, found.stacks) == ("Hang", "User", stacks)
    assert found.last_error_line == "Rank 1 is stopped."


PARTED = a_record("Failed", reason="Partitioned", message="Node 1 does not answer.", silentNode=1)


@pytest.mark.parametrize(
    "said",
    [
        pytest.param(PARTED.replace('"silentNode": 1', '"silentNode": 7'), id="no such pod"),
        pytest.param(PARTED.replace(', "silentNode": 1', ""), id="nobody in particular"),
    ],
)
def test_a_partition_from_nobody_is_the_users(said: str) -> None:
    found = fate(a_pod(0, failed=True, said=said), a_pod(1, running=True))
    assert (found.reason, found.budget) == ("UserError", "User")


def test_launchers_that_lost_each_other_are_not_the_cause_of_a_lost_node() -> None:
    alone = a_pod(0, failed=True, said=PARTED, finished=ago(9))
    found = fate(alone, a_pod(1, running=True, node="node-2"))
    assert (found.reason, found.budget, found.node) == ("Partitioned", "Infrastructure", "node-2")
    assert "It was pod digits-train-1-1 on node node-2 that was not heard." in (found.message or "")
    assert fate(alone, a_pod(1, running=True, gone=True)).reason == "PodLost"


def test_ranks_that_were_told_to_leave_are_not_the_cause() -> None:
    said = a_record("Failed", reason="Terminated", message="Asked to leave.")
    left = a_pod(0, failed=True, exit_code=143, said=said, finished=ago(9))
    assert fate(left, kubelet({"exitCode": 1, "message": BUG})).reason == "UserError"


# --- the node


def node_2(**body: Any) -> NodeView:
    """Node 2 as the API server has it."""
    conditions = [
        {"type": "Ready", "status": "True", "lastTransitionTime": stamp(ago(3600))},
        *body.pop("conditions", ()),
    ]
    status = {"conditions": conditions, "allocatable": {"nvidia.com/gpu": "8"}}
    return bodies.node_view(
        {"metadata": {"name": "node-2"}, "spec": body, "status": status}, "nvidia.com/gpu"
    )


def says(kind: str, status: str = "True", seconds_ago: float = 5) -> dict[str, str]:
    moment = stamp(ago(seconds_ago))
    return {"type": kind, "status": status, "message": "Xid 79", "lastTransitionTime": moment}


CORDON = {"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"}


@pytest.mark.parametrize(
    ("node", "words"),
    [
        pytest.param(node_2(unschedulable=True), "was cordoned", id="it was cordoned"),
        pytest.param(
            node_2(unschedulable=True, taints=[CORDON]),
            "unschedulable",
            id="it was cordoned, as the API server shows it",
        ),
        pytest.param(
            node_2(taints=[{"key": "repair.example/gpu", "value": "x", "effect": "NoExecute"}]),
            "repair.example/gpu:NoExecute",
            id="a remediation system tainted it",
        ),
        pytest.param(
            node_2(conditions=[says("GpuXidError")]),
            "says GpuXidError: Xid 79",
            id="a condition that is true in a fault",
        ),
        pytest.param(
            node_2(conditions=[says("AcceleratedHardwareReady", "False")]),
            "says AcceleratedHardwareReady",
            id="a condition that is true while all is well",
        ),
        pytest.param(a_node("node-2", ready=False), "does not answer", id="it does not answer"),
    ],
)
def test_a_failure_on_a_node_that_fell_ill_meanwhile_is_the_node_s(
    node: NodeView, words: str
) -> None:
    found = fate(
        a_pod(0, running=True), kubelet({"exitCode": 1, "message": BUG}), nodes=(a_node(), node)
    )
    assert (found.reason, found.budget) == ("NodeUnhealthy", "Infrastructure")
    assert found.message is not None
    assert words in found.message
    assert "ValueError: bad" in found.message


@pytest.mark.parametrize(
    "node",
    [
        pytest.param(
            node_2(conditions=[says("EtcdIsVoter", seconds_ago=3600)]),
            id="a condition from before the pod came",
        ),
        pytest.param(
            node_2(conditions=[says("KernelDeadlock", "False")]), id="a condition that is not so"
        ),
        pytest.param(
            node_2(conditions=[says("MemoryPressure")]), id="want of memory, which is no fault"
        ),
        pytest.param(
            node_2(taints=[{"key": "nvidia.com/gpu", "value": "x", "effect": "NoSchedule"}]),
            id="a taint that the pod tolerates",
        ),
        pytest.param(
            node_2(taints=[{"key": "maybe", "effect": "PreferNoSchedule"}]),
            id="a taint that keeps no pod away",
        ),
    ],
)
def test_what_a_node_always_says_excuses_nobody(node: NodeView) -> None:
    found = fate(
        a_pod(0, running=True), kubelet({"exitCode": 1, "message": BUG}), nodes=(a_node(), node)
    )
    assert (found.reason, found.budget) == ("UserError", "User")


def test_where_nodes_are_not_watched_they_excuse_nobody() -> None:
    job = an_open_job(2)
    pods = (a_pod(0, running=True), kubelet({"exitCode": 1, "message": BUG}))
    decided = decide(a_view(job, *pods, nodes=None))
    assert status_of(decided)["attempts"][-1]["reason"] == "UserError"


# --- what an attempt keeps


def test_an_attempt_says_how_far_it_came_and_from_where() -> None:
    said = a_record("Failed", reason="UserError", message="x", step=120, resumedFrom=100)
    found = fate(a_pod(0, running=True), a_pod(1, failed=True, said=said))
    assert (found.step, found.resumed_from) == (120, 100)


def test_peers_tell_how_far_a_pod_came_that_left_no_message() -> None:
    said = a_record("Failed", reason="UserError", step=120, matched=["PeerLost"])
    found = fate(a_pod(0, failed=True, said=said), kubelet(OOM_V2))
    assert (found.reason, found.step) == ("OutOfMemory", 120)


def test_a_broken_pattern_ends_the_job_with_its_sentence() -> None:
    said = a_record("Failed", reason="InvalidSpec", message="messagePattern 'a(b' is none: ...")
    prepare = bodies.pod_view(
        {
            "metadata": {
                "name": "p",
                "namespace": "n",
                "uid": "u",
                "creationTimestamp": stamp(NOW),
            },
            "status": {
                "initContainerStatuses": [
                    {"name": "prepare", "state": {"terminated": {"exitCode": 2, "message": said}}}
                ]
            },
        }
    ).init_containers
    rules = [{"match": {"reasons": ["InvalidSpec"]}, "action": "Ignore"}]
    job = an_open_job(failurePolicy={"rules": rules})
    decided = decide(a_view(job, a_pod(0, phase="Failed", init_containers=prepare)))
    stalled = next(each for each in status_of(decided)["conditions"] if each["type"] == "Stalled")
    assert stalled["reason"] == "InvalidSpec"
    assert "messagePattern 'a(b' is none: ..." in stalled["message"]
    assert stalled["message"].endswith("kubectl replace --force -f MANIFEST")
