"""What must survive: a node that dies, an operator that dies, an upgrade, a wiped status."""

from __future__ import annotations

from typing import Any

import pytest

from e2e import installation
from e2e.cluster.node import GPU
from e2e.cluster.target import Target
from e2e.installation import SYSTEM
from e2e.jobs import attempts, counted, model, service, training_job
from e2e.kubectl import Kubectl
from e2e.models import upload_digits
from e2e.operators import OPERATORS, leader_uid, without_operator
from e2e.test_serving import serves
from e2e.test_training import WAIT_IN_FIRST_ATTEMPT, completes, gang, job_of, runs
from e2e.waiting import wait_until


def pods_by_uid(kubectl: Kubectl) -> dict[str, str]:
    return {pod["metadata"]["uid"]: pod["metadata"]["name"] for pod in kubectl.list("pods")}


@pytest.fixture
def dying_node(installed: Target) -> Any:
    """The second node; it is alive again after the test."""
    cluster = installed.embedded
    if cluster is None or len(cluster.nodes) < 2:
        pytest.skip("no node of this cluster may be killed: it is not the embedded one")
    node = cluster.nodes[1]
    yield cluster, node
    cluster.start_node(node)


def crowd(kubectl: Kubectl, node: str) -> None:
    """Leave one free GPU on a node: else a gang may fit on it as a whole."""
    found = kubectl.get("node", node)
    assert found
    limits = {GPU: int(found["status"]["allocatable"][GPU]) - 1}
    place: dict[str, Any] = {"nodeSelector": {"kubernetes.io/hostname": node}}
    asleep = "import time; time.sleep(3600)"
    job = training_job(
        "crowd", asleep, numProcPerNode=1, resourcesPerNode={"limits": limits}, **place
    )
    kubectl.apply(job)
    runs(kubectl, "crowd")


def test_a_node_that_dies_loses_its_pods_and_the_others_keep_their_place(
    bare_namespace: Kubectl, dying_node: Any
) -> None:
    cluster, node = dying_node
    crowd(bare_namespace, cluster.nodes[0])
    spread = {"nodeSelector": {"node.lepton.ai/e2e": "true"}}
    bare_namespace.apply(gang("stranded", then=WAIT_IN_FIRST_ATTEMPT, **spread))
    job = runs(bare_namespace, "stranded")
    on_it = [pod for pod in bare_namespace.list("pods") if pod["spec"].get("nodeName") == node]
    assert on_it, f"the gang does not reach {node}: {job}"
    bare_namespace.delete("trainingjob", "crowd")
    cluster.kill_node(node)
    wait_until(
        lambda: attempts(job_of(bare_namespace, "stranded")),
        lambda found: found[0]["outcome"] == "Failed",
        "an attempt is closed",
    )
    first, second = attempts(completes(bare_namespace, "stranded"))
    assert (first["budget"], first["node"]) == ("Infrastructure", node)
    assert second["outcome"] == "Succeeded"


def test_a_killed_operator_makes_nothing_twice(namespace: Kubectl) -> None:
    namespace.apply(gang("twice", then=WAIT_IN_FIRST_ATTEMPT))
    runs(namespace, "twice")
    kept = namespace.get("pod", "twice-train-1-0")
    system = namespace.within(SYSTEM)
    for pod in system.list("pods", OPERATORS):
        system.delete("pod", pod["metadata"]["name"], "--grace-period=0", "--force")
    namespace.delete("pod", "twice-train-1-1")
    job = completes(namespace, "twice")
    assert [each["outcome"] for each in attempts(job)] == ["Failed", "Succeeded"]
    assert counted(job) == {"infrastructure": 1}
    assert kept is not None
    assert pods_by_uid(namespace).keys() > {kept["metadata"]["uid"]}
    assert sorted(pods_by_uid(namespace).values()) == ["twice-train-1-0", "twice-train-2-1"]


def test_an_upgrade_with_other_images_deletes_no_pod(namespace: Kubectl, installed: Target) -> None:
    namespace.apply(
        model("digits", source=upload_digits(namespace)),
        service("digits"),
        gang("running", then=WAIT_IN_FIRST_ATTEMPT),
    )
    serves(namespace, "digits", version=1)
    runs(namespace, "running")
    chosen = "lepton.ai/role in (train,serve)"
    before = {pod["metadata"]["uid"] for pod in namespace.list("pods", chosen)}
    other = {"images": {"trainer": "localhost/other:1", "triton": "localhost/other:1"}}
    try:
        installation.install(installed, values=other)
        # Each kind has been through a pass of the new operator once these are seen.
        namespace.run("label", "tj,lisvc", "--all", "seen=by-the-new-one")
        namespace.run("scale", "lisvc", "digits", "--replicas=2")
        wait_until(
            lambda: {pod["metadata"]["uid"] for pod in namespace.list("pods", chosen)},
            lambda uids: len(uids) == len(before) + 1,
            "a pod runs",
        )
        serves(namespace, "digits", version=1)
        after = {pod["metadata"]["uid"] for pod in namespace.list("pods", chosen)}
        assert before < after
    finally:
        installation.install(installed)


def test_deleting_works_while_the_operator_is_down(namespace: Kubectl) -> None:
    namespace.apply(gang("orphan", then=WAIT_IN_FIRST_ATTEMPT))
    runs(namespace, "orphan")
    with without_operator(namespace):
        namespace.delete("trainingjob", "orphan")
        wait_until(lambda: namespace.list("pods"), lambda pods: not pods, "a pod is gone")
    wait_until(lambda: leader_uid(namespace), bool, "the operator leads")
