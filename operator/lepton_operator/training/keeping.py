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

GRACE_TOLERANCE = 1.25


def kept(situation: Situation) -> Mapping[int, Member]:
    """Return the pods that keep their place, by rank, while no attempt is open.

    Their launchers wait for the next attempt. What is not sure to go well there is made anew.
    """
    last, spec = situation.last, situation.spec
    if situation.gang is not None or last is None or last.outcome != "Failed":
        return {}
    if spec.num_nodes == 1 or spec.suspend or end(situation) is not None:
        return {}
    wanted = names.short_hash(resolved(situation).wire())
    return {
        each.rank: each
        for each in situation.others
        if each.rank in situation.ranks and _may_stay(situation, last, each, wanted)
    }


def resolved_today(situation: Situation) -> build.Resolved:
    """Return the defaults of an attempt whose pods are all made anew."""
    told = situation.status.progress
    leave_seconds = told.leave_seconds if told else None
    return build.resolve(situation.spec, situation.view.defaults, leave_seconds=leave_seconds)


def resolved(situation: Situation) -> build.Resolved:
    """Return the defaults of an attempt in which pods are kept: theirs, if these still will do.

    What it takes to save is measured again and again; a pod's grace period cannot change.
    """
    last, today = situation.last, resolved_today(situation)
    before = build.parse_resolved(last.resolved) if last else None
    if before is None or before.grace_seconds is None or today.grace_seconds is None:
        return today
    is_like = before == today.model_copy(update={"grace_seconds": before.grace_seconds})
    will_do = today.grace_seconds <= before.grace_seconds * GRACE_TOLERANCE
    return before if is_like and will_do else today


def _may_stay(situation: Situation, last: Attempt, member: Member, wanted: str) -> bool:
    pod = member.pod
    if pod.node is None or not failure.goes_on(situation, pod):
        return False
    if last.reason in _OF_THE_NODE and pod.node == last.node:
        return False
    avoided = avoidance.of_pod(situation, member.rank)
    return (
        pod.node not in (*avoided.required, *avoided.preferred)
        and pod.labels.get(names.RESOLVED_HASH) == wanted
        and pod.annotations.get(names.GENERATION) == str(situation.job.metadata.generation)
    )
