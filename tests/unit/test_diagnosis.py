from __future__ import annotations

from dataclasses import replace
from enum import StrEnum
from typing import Any

import pytest

from lepton_operator.api.common import Resources
from lepton_operator.diagnosis import (
    TRANSIENT,
    Asked,
    PodReason,
    diagnose,
    gpus_asked,
    no_capacity,
)
from lepton_operator.inference.reasons import ServingReason
from lepton_operator.models.reasons import ModelReason
from lepton_operator.training.status import Reason
from lepton_operator.views import ContainerView, NodeView, PodView
from tests.builders import a_container, a_node, a_pod, a_waiting_container

GPU = "nvidia.com/gpu"
SCHEDULER = "0/3 nodes are available: 3 Insufficient nvidia.com/gpu."
NO_CLAIM = '0/2 nodes are available: persistentvolumeclaim "photos" not found. not found'
UNBOUND = "0/2 nodes are available: pod has unbound immediate PersistentVolumeClaims."


def pending(**more: Any) -> PodView:
    return a_pod(node=None, **more)


def with_free(free: int, name: str = "node-1") -> NodeView:
    """A node of four GPUs, of which so many are free."""
    return replace(a_node(name, gpus=4), free_gpus=free)


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        pytest.param(
            Asked(8, GPU, (a_node(gpus=4), a_node("node-2", gpus=2))),
            "it asks for 8 nvidia.com/gpu, the largest node has 4; ask for at most 4",
            id="more than any node has",
        ),
        pytest.param(
            Asked(4, GPU, (a_node(gpus=4),)),
            "the largest node has 4; wait for a free one, or add a node",
            id="as many as a node has, but none is free",
        ),
        pytest.param(
            Asked(4, GPU, (with_free(0), with_free(3, "node-2"), with_free(1, "node-3"))),
            "4 of 12 are free, at most 3 on one node, the largest node has 4; wait",
            id="what is free is spread over nodes",
        ),
        pytest.param(
            Asked(4, GPU, (with_free(0),)), "0 of 4 are free, the largest node", id="none is free"
        ),
        pytest.param(
            Asked(4, GPU, (with_free(0), replace(with_free(4, "node-2"), schedulable=False))),
            "0 of 4 are free",
            id="what is free on a cordoned node does not count",
        ),
        pytest.param(
            Asked(1, GPU, ()),
            "and no node has any: add one that has 1, or ask for none",
            id="there is no node",
        ),
        pytest.param(Asked(2, GPU, None), "add a node that has 2", id="nodes are not watched"),
        pytest.param(Asked(0, GPU, ()), "add a node, or ask for less", id="no GPU is asked for"),
    ],
)
def test_the_sentence_about_capacity(asked: Asked, words: str) -> None:
    sentence = no_capacity(asked, SCHEDULER)
    assert words in sentence
    assert sentence.endswith(f"The scheduler says: {SCHEDULER}")


@pytest.mark.parametrize(
    ("scheduler", "advice"),
    [
        pytest.param(
            "0/2 nodes are available: 2 node(s) didn't match Pod's node affinity/selector.",
            "change nodeSelector or tolerations",
            id="no node has the labels",
        ),
        pytest.param(
            "0/2 nodes are available: 2 node(s) had untolerated taint(s).",
            "change nodeSelector or tolerations",
            id="every node is tainted",
        ),
        pytest.param(
            "0/2 nodes are available: 1 Insufficient nvidia.com/gpu, "
            "1 node(s) didn't match Pod's node affinity/selector.",
            "add a node, or ask for less",
            id="one of them is only full",
        ),
    ],
)
def test_more_room_is_asked_for_only_where_it_would_help(scheduler: str, advice: str) -> None:
    assert advice in no_capacity(Asked(0, GPU, (a_node(),)), scheduler)


@pytest.mark.parametrize(
    ("pod", "reason", "words"),
    [
        pytest.param(
            a_pod(running=True, deleting=True), "Draining", "is being deleted", id="deleted"
        ),
        pytest.param(
            replace(a_pod(failed=True), reason="Evicted", message="disk pressure"),
            "Evicted",
            "disk pressure",
            id="evicted",
        ),
        pytest.param(
            pending(unschedulable_message=SCHEDULER), "NoCapacity", SCHEDULER, id="no node fits"
        ),
        pytest.param(
            pending(unschedulable_message=NO_CLAIM),
            "VolumeNotReady",
            f"create it, or correct its name. The scheduler says: {NO_CLAIM}",
            id="a claim that is not there",
        ),
        pytest.param(
            pending(unschedulable_message=UNBOUND),
            "VolumeNotReady",
            UNBOUND,
            id="a claim without a volume",
        ),
        pytest.param(
            a_pod(containers=(a_waiting_container("train", "InvalidImageName", "bad name"),)),
            "ImageError",
            "The image of container train cannot be pulled: bad name",
            id="a name that is no image",
        ),
        pytest.param(
            a_pod(
                containers=(
                    a_waiting_container("train", "CreateContainerConfigError", "no secret 'x'"),
                )
            ),
            "ContainerError",
            "Container train cannot be started: no secret 'x'",
            id="a Secret that is not there",
        ),
        pytest.param(
            a_pod(
                containers=(a_container(exit_code=137, reason="OOMKilled"),),
            ),
            "OutOfMemory",
            "Container train was killed",
            id="too much memory",
        ),
        pytest.param(
            a_pod(containers=(a_container(exit_code=3, message="a\nTypeError: b\n"),)),
            "CrashLoop",
            "with exit code 3 and is started again; its last words: TypeError: b",
            id="a crash",
        ),
        pytest.param(
            a_pod(containers=(a_container(exit_code=139, signal=11),)),
            "CrashLoop",
            "by signal 11",
            id="a crash by a signal",
        ),
        pytest.param(pending(), "Starting", "waits for the scheduler", id="not scheduled yet"),
        pytest.param(a_pod(), "Starting", "are being made", id="just scheduled"),
        pytest.param(
            a_pod(init_containers=(ContainerView("fetch", "running"),)),
            "Starting",
            "runs its init container fetch",
            id="in an init container",
        ),
        pytest.param(
            a_pod(
                init_containers=(ContainerView("sidecar", "running", ready=True),),
                containers=(ContainerView("train", "running"),),
            ),
            "Starting",
            "The pod runs and is not ready yet",
            id="beside its sidecar",
        ),
    ],
)
def test_why_a_pod_is_not_ready(pod: PodView, reason: str, words: str) -> None:
    found = diagnose(pod, Asked(1, GPU, ()))
    assert found.reason == reason
    assert words in found.message


@pytest.mark.parametrize("reasons", [Reason, ModelReason, ServingReason])
def test_what_holds_a_pod_up_is_a_reason_of_every_kind(reasons: type[StrEnum]) -> None:
    # A training pod that was evicted closes its attempt, which has reasons of its own.
    told = set(PodReason) - TRANSIENT - {PodReason.EVICTED}
    assert {each.value for each in told} <= {each.value for each in reasons}


def test_an_image_that_is_tried_again_is_told_in_the_same_words() -> None:
    error = "rpc error: code = NotFound desc = failed to pull nope:1"
    tried = a_waiting_container("train", "ErrImagePull", error)
    waits = a_waiting_container(
        "train", "ImagePullBackOff", f'Back-off pulling image "nope:1": ErrImagePull: {error}'
    )
    first, second = (diagnose(a_pod(containers=(each,)), Asked(1, GPU)) for each in (tried, waits))
    assert first == second


def test_a_container_that_recovered_is_no_trouble() -> None:
    recovered = ContainerView("train", "running", ready=True, restarts=2, last_exit_code=1)
    found = diagnose(a_pod(containers=(recovered,)), Asked(1, GPU))
    assert found.reason == "Starting"


@pytest.mark.parametrize(
    ("resources", "gpus"),
    [({"limits": {GPU: 2}}, 2), ({"requests": {GPU: "4"}}, 4), ({"limits": {"cpu": 1}}, 0)],
    ids=["in the limits", "in the requests", "none"],
)
def test_gpus_are_counted(resources: dict[str, Any], gpus: int) -> None:
    assert gpus_asked(Resources.model_validate(resources), GPU) == gpus
