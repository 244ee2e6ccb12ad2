"""Nodes that a job stays away from: which, for how long, and never so many that it cannot run."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import timedelta

from lepton_operator.api.training import MAX_AVOIDED_NODES, AvoidedNode
from lepton_operator.build.pods import Avoided
from lepton_operator.conditions import cut
from lepton_operator.training.situation import Gang, Situation
from lepton_operator.views import NodeView

AVOIDED_SECONDS = 6 * 3600
LARGEST_SHARE = 4  # at most one node in so many
MOST_UNSEEN = 4  # where nodes are not watched, their number is not known
MAX_EVIDENCE = 512


def standing(situation: Situation) -> tuple[AvoidedNode, ...]:
    """Return the nodes that are avoided still."""
    entries = situation.status.avoided_nodes
    return tuple(each for each in entries if each.until > situation.now)


def of_pod(situation: Situation, index: int) -> Avoided:
    """Return the nodes that a pod is kept away from.

    Karpenter gives up on a pod that rules a node of its own out, and of a node that is not seen it
    is not known whether there is another: these are only asked for to be avoided.
    """
    names = {each.node for each in standing(situation) if each.pod in (None, index)}
    soft = {name for name in names if _is_soft(situation, name)}
    return Avoided(required=tuple(sorted(names - soft)), preferred=tuple(sorted(soft)))


def _is_soft(situation: Situation, name: str) -> bool:
    if situation.view.nodes is None:
        return True
    node = situation.nodes.get(name)
    return node is not None and node.replaceable


def avoid(
    situation: Situation, gang: Gang, node: str | None, because: str, *, pod: int | None = None
) -> tuple[AvoidedNode, ...] | None:
    """Return what is avoided with this node too; None if the job cannot do without it.

    With `pod` only that one stays away, and changes places with another.
    """
    if node is None:
        return None
    others = [each for each in standing(situation) if (each.node, each.pod) != (node, pod)]
    more = AvoidedNode(
        node=node,
        pod=pod,
        attempt=gang.number,
        until=situation.now.replace(microsecond=0) + timedelta(seconds=AVOIDED_SECONDS),
        because=cut(because, MAX_EVIDENCE),
    )
    wanted = (*others, more)
    if len(wanted) > MAX_AVOIDED_NODES or not _leaves_enough(situation, gang, wanted):
        return None
    return wanted


def _leaves_enough(situation: Situation, gang: Gang, wanted: Sequence[AvoidedNode]) -> bool:
    everywhere = _avoided_by(None, wanted)
    if situation.view.nodes is None:
        return len(everywhere) <= MOST_UNSEEN
    fitting = _fitting(situation, gang)
    if len(everywhere & situation.nodes.keys()) > max(1, len(fitting) // LARGEST_SHARE):
        return False
    left = [each for each in fitting if each.name not in everywhere]
    moved = [_avoided_by(pod, wanted) for pod in {each.pod for each in wanted} - {None}]
    every_pod_has_one = all(any(each.name not in nodes for each in left) for nodes in moved)
    return every_pod_has_one and _hold(left, situation, gang)


def _avoided_by(pod: int | None, entries: Iterable[AvoidedNode]) -> set[str]:
    return {each.node for each in entries if each.pod == pod}


def _fitting(situation: Situation, gang: Gang) -> list[NodeView]:
    """Return the nodes that answer, take pods, and have what one pod asks for."""
    asked = situation.asked(gang.resolved).gpus
    nodes = situation.view.nodes or ()
    return [each for each in nodes if each.ready and each.schedulable and each.gpus >= asked]


def _hold(nodes: Iterable[NodeView], situation: Situation, gang: Gang) -> bool:
    """Tell whether these nodes have GPUs for all pods, were they free; of CPUs nothing is known."""
    nodes, asked = list(nodes), situation.asked(gang.resolved).gpus
    if not asked:
        return bool(nodes)
    return sum(each.gpus // asked for each in nodes) >= situation.spec.num_nodes
