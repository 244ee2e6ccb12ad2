"""The faults: what is done to a run, and when it was done (the time of day, in seconds).

A fault is a context: what it broke is whole again after the block.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from e2e.installation import SYSTEM
from e2e.jobs import attempts
from e2e.operators import LEASE, leader_uid, without_operator
from e2e.recovery.run import Run
from e2e.waiting import is_true, wait_until

VICTIM = 2
"""The rank that is hurt, where it is not rank 0."""
NODE_GRACE_SECONDS = 20
"""How long a node may be silent before Kubernetes says so (the embedded cluster's setting)."""
_AWAY_SECONDS = 3.0

Injected = AbstractContextManager[float]


@dataclass(frozen=True, slots=True)
class Fault:
    """One way in which a training is hurt, and by when that has to be noticed."""

    inject: Callable[[Run], Injected]
    detect_seconds: float | None
    """None: ten times the p99 of the job's own steps, and at least 10 s."""
    spec: Mapping[str, Any] = field(default_factory=dict)
    ends_the_job: bool = False
    saves_lost: int = 1
    """Since which complete checkpoint steps may be lost, counted from the last one; 0: none."""

    def detect_bound(self, p99_step_seconds: float) -> float:
        if self.detect_seconds is not None:
            return self.detect_seconds
        return max(10.0, 10 * p99_step_seconds)


def _kill(rank: int, number: signal.Signals) -> Callable[[Run], Injected]:
    @contextmanager
    def inject(run: Run) -> Iterator[float]:
        pid, at = run.process(rank), time.time()
        os.kill(pid, number)
        yield at

    return inject


def _delete(rank: int) -> Callable[[Run], Injected]:
    @contextmanager
    def inject(run: Run) -> Iterator[float]:
        place = f"/api/v1/namespaces/{run.kubectl.namespace}/pods/"
        name = run.pod(rank)["metadata"]["name"]
        at = time.time()  # not by kubectl, which takes half a second to start
        run.shared.cluster.plane.api.delete(f"{place}{name}?gracePeriodSeconds=0")
        yield at

    return inject


def _order(kind: str, rank: int = VICTIM) -> Callable[[Run], Injected]:
    """Have the script do it itself; it notes when."""

    @contextmanager
    def inject(run: Run) -> Iterator[float]:
        run.order(kind, rank)
        yield _noted(run)

    return inject


def _noted(run: Run) -> float:
    """Wait until a rank has noted that it does wrong now; return when it began to."""
    noted = wait_until(
        lambda: [each for each in run.events() if each.name == "fault"], bool, "a step is done"
    )
    return noted[0].at


@contextmanager
def _user_bug(run: Run) -> Iterator[float]:
    """Have a rank fail each time that it comes to one and the same step."""
    run.order("raise_an_error", VICTIM, again=True)
    yield _noted(run)


@contextmanager
def _node(run: Run) -> Iterator[float]:
    """Stop the second node's kubelet and kill all that ran there."""
    node = run.shared.cluster.nodes[1]
    at = time.time()
    run.shared.cluster.kill_node(node)
    try:
        yield at
    finally:
        run.shared.cluster.start_node(node)


@contextmanager
def _partition(run: Run) -> Iterator[float]:
    """Cut the second node's pods off from all others, until the attempt is closed for it."""
    node = run.shared.cluster.nodes[1]
    at = time.time()
    run.shared.cluster.partition_node(node)
    try:
        wait_until(run.job, _has_closed_an_attempt, "an attempt is closed")
    finally:
        run.shared.cluster.rejoin_node(node)
    yield at


def _has_closed_an_attempt(job: Mapping[str, Any] | None) -> bool:
    return any(each.get("endTime") for each in attempts(job))


@contextmanager
def _corrupt(run: Run) -> Iterator[float]:
    """Damage a checkpoint as soon as it is complete, and kill a rank."""
    pid, known = run.process(VICTIM), len(run.checkpoints())
    found = wait_until(run.checkpoints, lambda all_: len(all_) > known, "a step is done")
    for file in found[-1].path.parent.glob("*.distcp"):
        os.truncate(file, file.stat().st_size // 2)
    at = time.time()
    os.kill(pid, signal.SIGKILL)
    yield at


@contextmanager
def _operator_dead_rank(run: Run) -> Iterator[float]:
    with without_operator(run.kubectl), _kill(VICTIM, signal.SIGKILL)(run) as at:
        yield at
    wait_until(lambda: leader_uid(run.kubectl), bool, "the operator leads")


@contextmanager
def _operator_dead_pod(run: Run) -> Iterator[float]:
    """Delete a pod while no operator lives; what counts begins when one holds the Lease again."""
    before = leader_uid(run.kubectl)
    with without_operator(run.kubectl), _delete(VICTIM)(run):
        time.sleep(_AWAY_SECONDS)
    wait_until(
        lambda: leader_uid(run.kubectl), lambda uid: uid not in ("", before), "the operator leads"
    )
    lease = run.kubectl.within(SYSTEM).get("lease", LEASE) or {}
    yield datetime.fromisoformat(lease["spec"]["acquireTime"]).timestamp()


@contextmanager
def _drain(run: Run) -> Iterator[float]:
    """Drain the second node, as its administrator would; it takes pods again afterwards."""
    node = run.shared.cluster.nodes[1]
    ours = ("--pod-selector", f"lepton.ai/name={run.name}")
    at = time.time()
    draining = run.kubectl.start("drain", node, *ours, "--force", "--delete-emptydir-data")
    try:
        yield at
    finally:
        draining.terminate()
        draining.communicate()
        run.kubectl.run("uncordon", node)


@contextmanager
def _suspend_resume(run: Run) -> Iterator[float]:
    """Suspend the job and wait until it is; what counts begins when it may go on."""
    run.suspend(True)
    wait_until(run.job, lambda job: is_true(job, "Suspended"), "ranks leave")
    wait_until(run.pods, lambda pods: not pods, "a pod is gone")
    at = time.time()
    run.suspend(False)
    yield at


_PROCESS_SECONDS = 1.0
_NODE_SECONDS = NODE_GRACE_SECONDS + 5.0
_BOUNDED_MEMORY = {"limits": {"nvidia.com/gpu": "1", "memory": "1Gi"}}

FAULTS: Mapping[str, Fault] = {
    "rank0_process": Fault(_kill(0, signal.SIGKILL), _PROCESS_SECONDS),
    "rank_process": Fault(_kill(VICTIM, signal.SIGKILL), _PROCESS_SECONDS),
    "rank0_pod": Fault(_delete(0), _PROCESS_SECONDS),
    "pod": Fault(_delete(VICTIM), _PROCESS_SECONDS),
    "node": Fault(_node, _NODE_SECONDS),
    "hang_stopped": Fault(_kill(VICTIM, signal.SIGSTOP), None),
    "hang_collective": Fault(_order("skip_a_collective"), None),
    "hang_gil": Fault(_order("hold_the_interpreter"), None),
    "node_partitioned": Fault(_partition, _NODE_SECONDS),
    "oom": Fault(
        _order("exhaust_memory"), _PROCESS_SECONDS, spec={"resourcesPerNode": _BOUNDED_MEMORY}
    ),
    "user_bug": Fault(_user_bug, _PROCESS_SECONDS, ends_the_job=True),
    "corrupt_checkpoint": Fault(_corrupt, _PROCESS_SECONDS, saves_lost=2),
    "operator_dead_rank": Fault(_operator_dead_rank, _PROCESS_SECONDS),
    "operator_dead_pod": Fault(_operator_dead_pod, _PROCESS_SECONDS),
    "drain": Fault(_drain, _PROCESS_SECONDS, saves_lost=0),
    "suspend_resume": Fault(_suspend_resume, _PROCESS_SECONDS, saves_lost=0),
}
