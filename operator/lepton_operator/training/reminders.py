"""Has kubelets look again at what pods were told of their attempt.

A launcher reads its attempt from a file that the kubelet makes of an annotation. While a kubelet
sets up or looks after volumes it goes through a copy of its list of pods, and asks the API server
for each claim in it. A pod that changes meanwhile, further on in that list, is taken as it was, and
is thought to be up to date until the next resync, 60 to 90 s later (findAndAddNewPods and
ReprocessPod in Kubernetes' desired_state_of_world_populator.go; seen in 5 of 12 replacements on a
busy node). So pods with claims are told once more when none of the gang starts any more.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta

from lepton_operator import names
from lepton_operator.plan import Patch
from lepton_operator.training.evidence import running_since
from lepton_operator.training.situation import Gang, Situation, has_ended

SETTLED_SECONDS = 2
"""After the last container started: such times are whole seconds, and kubelets tell at once."""


def reminders(situation: Situation, gang: Gang) -> Iterator[Patch]:
    """Yield a patch for each pod whose kubelet is to look again."""
    at = remind_at(situation, gang)
    if at is None or at > situation.now:
        return
    told = {names.TOLD_AGAIN: str(gang.number)}
    for pod in gang.pods.values():
        if not (has_ended(pod) or pod.gone) and not told.items() <= pod.annotations.items():
            yield Patch(pod.reference, {"metadata": {"annotations": told}})


def remind_at(situation: Situation, gang: Gang) -> datetime | None:
    """Return when the pods may be told again; None if they need not be, or are not all there."""
    told = situation.view.told or situation.status
    if situation.spec.num_nodes == 1 or not situation.spec.volumes:
        return None
    if told.progress is not None and told.progress.attempt == gang.number:
        return None  # all ranks met
    since = running_since(gang)
    return since + timedelta(seconds=SETTLED_SECONDS) if since else None
