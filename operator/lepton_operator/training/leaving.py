"""Pods that somebody else asked to leave: their gang saves at one step and goes, and is waited for.

Their launchers tell all others (docs/architecture.md). What the attempt is closed for is known when
they have ended, and the next one could not begin sooner.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from lepton_operator.conditions import READY, find
from lepton_operator.plan import Plan
from lepton_operator.training.situation import Situation, training_container
from lepton_operator.training.status import Reason, reconciling, written
from lepton_operator.views import PodView

SLACK_SECONDS = 5  # for the kubelet to kill a pod at the end of its grace period, and to say so

_LEAVES = (
    " was asked to leave: all ranks save at one step, if they can, and leave. The next attempt "
    "goes on from there."
)


def wait(situation: Situation) -> Plan | None:
    """Wait for the ranks of a pod that is being deleted, evicted or preempted."""
    pods = situation.gang.pods.values() if situation.gang else ()
    ends = {pod.name: end for pod in pods if (end := _killed_at(situation, pod)) is not None}
    if not ends:
        return None
    name = min(ends)
    stands = find(situation.status.conditions, READY)
    # Pods that leave one after the other are told of once.
    is_told = stands is not None and stands.message.endswith(_LEAVES)
    message = stands.message if stands is not None and is_told else f"Pod {name}{_LEAVES}"
    status = written(situation, reconciling(Reason.RESTARTING, message))
    because = f"wait for pod {name}, which was asked to leave" if status else ""
    return Plan(because=because, status=status, due=max(ends.values()))


def _killed_at(situation: Situation, pod: PodView) -> datetime | None:
    """Return when a pod that is leaving will have been killed; None for any other."""
    if pod.leaves_by is None or pod.gone or pod.finished:
        return None
    container, node = training_container(pod), situation.node(pod)
    if container is None or container.state != "running" or not (node is None or node.ready):
        return None
    end = pod.leaves_by + timedelta(seconds=SLACK_SECONDS)
    return end if end > situation.now else None
