"""Only what died is replaced: which pods of a failed attempt go on in the next one."""

from __future__ import annotations

from collections.abc import Mapping

from lepton_operator import names
from lepton_operator.api.training import Attempt, Cause
from lepton_operator.build import training as build
from lepton_operator.training import avoidance, failure
from lepton_operator.training.situation import Member, Situation
from lepton_operator.training.status import end

# Of these the node is to blame, or cannot be told from its pods: nothing on it is kept.
_OF_THE_NODE = frozenset({Cause.NODE_NOT_READY, Cause.NODE_UNHEALTHY, Cause.PARTITIONED})


def kept(situation: Situation) -> Mapping[int, Member]:
    """Return the pods that keep their place, by rank, while no attempt is open.

    Their launchers wait for the next attempt. What is not sure to go well there is made anew.
    """
    last, spec = situation.last, situation.spec
    if situation.gang is not None or last is None or last.outcome != "Failed":
        return {}
    if spec.num_nodes == 1 or spec.suspend or end(situation) is not None:
        return {}
    resolved = names.short_hash(build.resolve(spec, situation.view.defaults).wire())
    return {
        each.rank: each
        for each in situation.others
        if each.rank in situation.ranks and _may_stay(situation, last, each, resolved)
    }


def _may_stay(situation: Situation, last: Attempt, member: Member, resolved: str) -> bool:
    pod = member.pod
    if pod.node is None or not failure.goes_on(situation, pod):
        return False
    if last.reason in _OF_THE_NODE and pod.node == last.node:
        return False
    avoided = avoidance.of_pod(situation, member.rank)
    return (
        pod.node not in (*avoided.required, *avoided.preferred)
        and pod.labels.get(names.RESOLVED_HASH) == resolved
        and pod.annotations.get(names.GENERATION) == str(situation.job.metadata.generation)
    )
