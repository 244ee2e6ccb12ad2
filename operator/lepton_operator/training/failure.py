"""Why an attempt failed: which of the ends of its pods is the cause."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta

from lepton_operator.api.training import Cause
from lepton_operator.build import training as build
from lepton_operator.training import policy
from lepton_operator.training.evidence import Failure, Suspect, loss_in, silent_until
from lepton_operator.training.rules import classify
from lepton_operator.training.situation import Gang, Situation, has_ended
from lepton_operator.views import PodView

LOSS_PATIENCE = timedelta(seconds=20)


def causes(situation: Situation) -> list[Failure]:
    """Return the failures in the open attempt, the one that it is closed for first.

    Of those that weigh the same, one that a rule of the user's is about goes first, then the
    earliest.
    """
    if situation.gang is None:
        return []

    def order(each: Failure) -> tuple[int, bool, datetime]:
        unruled = policy.rule_for(situation.spec.failure_policy, each) is None
        return each.trait.weight, unruled, each.finished or situation.now

    found = [*_failures(situation, situation.gang), *_told_losses(situation, situation.gang)]
    return sorted(found, key=order)


def silence_due(situation: Situation) -> datetime | None:
    """Return when the next silent node of the open attempt will have been silent too long."""
    pods = situation.gang.pods.values() if situation.gang else ()
    ends = [silent_until(situation, pod) for pod in pods if not has_ended(pod)]
    return min((each for each in (*ends, _loss_due(situation)) if each is not None), default=None)


def _loss_due(situation: Situation) -> datetime | None:
    """Return when a loss that launchers tell of is a failure: a pod that ends is seen before."""
    loss = loss_in(situation)
    return loss.since + LOSS_PATIENCE if loss else None


def _failures(situation: Situation, gang: Gang) -> Iterator[Failure]:
    for index in situation.ranks:
        pod = gang.pods.get(index)
        if pod is None:
            if gang.recorded and not situation.view.refusals:
                yield _absent(situation, gang, index)
            continue
        if goes_on(situation, pod):
            continue
        failure = classify(Suspect(situation, gang, index, pod))
        if failure is not None:
            yield failure


def _told_losses(situation: Situation, gang: Gang) -> Iterator[Failure]:
    """Yield the pod that the others lost, though the API server shows nothing wrong about it."""
    loss, due = loss_in(situation), _loss_due(situation)
    if loss is None or due is None or due > situation.now:
        return
    lost = Suspect(situation, gang, loss.node_rank, gang.pods[loss.node_rank])
    message = f"The {lost.where} was lost by its peers, whose ranks have ended: {loss.message}"
    yield replace(lost.failure(Cause.PARTITIONED, message), began=loss.since)


def goes_on(situation: Situation, pod: PodView) -> bool:
    """Tell whether nothing at all has happened to a pod: of thousands, most are looked at so."""
    node = situation.node(pod)
    return (
        pod.phase in ("Pending", "Running")
        and not (pod.gone or pod.deleting or pod.deleted_by_eviction)
        and (node is None or node.ready)
        and all(each.state != "terminated" for each in pod.containers)
        and not any(each.exit_code for each in pod.init_containers)
    )


def _absent(situation: Situation, gang: Gang, index: int) -> Failure:
    name = build.pod_name(situation.job, gang.number, index)
    message = f"The pod of node rank {index} is gone, and left nothing to tell why."
    return Failure(Cause.POD_LOST, message, pod=name, index=index, absent=True)
