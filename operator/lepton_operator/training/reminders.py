"""Has kubelets look again at what pods were told of their attempt.

A launcher reads its attempt from a file that the kubelet makes of an annotation. While a kubelet
sets up or looks after volumes it goes through a copy of its list of pods, and asks the API server
for each claim in it. A pod that changes meanwhile, further on in that list, is taken as it was, and
is thought to be up to date until the next resync, 60 to 90 s later (findAndAddNewPods and
ReprocessPod in Kubernetes' desired_state_of_world_populator.go; seen in 4 of 9 replacements on a
busy node). So pods with claims are told once more when none of the gang starts any more.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta

from lepton_operator import names
from lepton_operator.plan import Patch
from lepton_operator.training.evidence import running_since
from lepton_operator.training.situation import Gang, Situation, has_ended
from lepton_operator.views import PodView

SETTLED_SECONDS = 2
"""After the last container started: such times are whole seconds, and kubelets tell at once."""


def reminders(situation: Situation, gang: Gang) -> Iterator[Patch]:
    """Yield a patch for each pod whose kubelet is to look again."""
    at = remind_at(situation, gang)
    if at is not None and at <= situation.now:
        pods = (pod for pod in gang.pods.values() if not (has_ended(pod) or pod.gone))
        yield from _told_again(pods, str(gang.number))


def remind_at(situation: Situation, gang: Gang) -> datetime | None:
    """Return when the pods may be told again; None if they need not be, or are not all there."""
    told = situation.view.told or situation.status
    if situation.spec.num_nodes == 1 or not situation.spec.volumes:
        return None
    if told.progress is not None and told.progress.attempt == gang.number:
        return None  # all ranks met
    since = running_since(gang)
    return since + timedelta(seconds=SETTLED_SECONDS) if since else None


def reminders_to_leave(
    situation: Situation, gang: Gang, awaited: Iterable[PodView], asked_at: datetime
) -> Iterator[Patch]:
    """Yield a patch for each pod that was asked to leave, and may not have heard it."""
    at = remind_to_leave_at(situation, asked_at)
    if at is not None and at <= situation.now:
        yield from _told_again(awaited, f"{gang.number}: leave")


def remind_to_leave_at(situation: Situation, asked_at: datetime) -> datetime | None:
    """Return when those that were asked to leave at a time are asked again; None if they need not.

    Several pods of a node that are asked at once are enough for a kubelet to overlook it.
    """
    return asked_at + timedelta(seconds=SETTLED_SECONDS) if situation.spec.volumes else None


def _told_again(pods: Iterable[PodView], what: str) -> Iterator[Patch]:
    told = {names.TOLD_AGAIN: what}
    for pod in pods:
        if not told.items() <= pod.annotations.items():
            yield Patch(pod.reference, {"metadata": {"annotations": told}})
