"""Which revision the pods are to be of: the one that is asked for, or the one before, if it failed.

A revision fails when none of its pods becomes ready and one of them ends for a reason that trying
again does not mend. It is remembered in the status until spec or model change, which gives the
wanted revision another name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from lepton_operator.api.inference import FailedRevision, Revision
from lepton_operator.build.serving import Target
from lepton_operator.conditions import cut
from lepton_operator.diagnosis import Asked, PodReason, failing
from lepton_operator.inference.fleet import Fleet
from lepton_operator.inference.reasons import ServingReason
from lepton_operator.inference.revisions import Wanted, recorded, revision_of, wanted
from lepton_operator.inference.target import Blocked
from lepton_operator.inference.waiting import explain
from lepton_operator.views import InferenceView, PodView

# Some ends say that the version will never serve; of others the first ones may be bad luck.
_RESTARTS_UNTIL_FINAL: Mapping[str, int] = {
    ServingReason.MODEL_LOAD_FAILED: 0,
    ServingReason.CANNOT_BATCH: 0,
    PodReason.CRASH_LOOP: 2,
    PodReason.OUT_OF_MEMORY: 2,
}


@dataclass(frozen=True, slots=True)
class Course:
    """`previous` is the revision that a failure of the wanted one goes back to, if there is one.

    `failed`: the one that was asked for was given up, and `wanted` is the one before it.
    `blocked`: why none can be named, or made.
    """

    wanted: Wanted | None = None
    previous: str | None = None
    failed: FailedRevision | None = None
    blocked: Blocked | None = None


def course(view: InferenceView, chosen: Target | Blocked) -> Course:
    blocked = chosen if isinstance(chosen, Blocked) else None
    goal = chosen.fallback if isinstance(chosen, Blocked) else chosen
    if goal is None:
        return Course(blocked=blocked)
    asked = wanted(view, goal)
    if isinstance(asked, Blocked):
        return Course(blocked=blocked or asked)
    rollout = view.service.status.rollout
    if rollout is not None and rollout.failed is not None and rollout.failed.name == asked.name:
        back = recorded(view, rollout.to)
        if back is not None:
            return Course(back, failed=rollout.failed, blocked=blocked)
    name = _previous(view, asked.name)
    return Course(asked, name if recorded(view, name) is not None else None, blocked=blocked)


def _previous(view: InferenceView, asked: str) -> str | None:
    """Return the last revision that served, other than the one asked for."""
    status = view.service.status
    last, rollout = next(iter(status.revisions), None), status.rollout
    under_way = (
        rollout.from_revision
        if last is not None
        and rollout is not None
        and rollout.to == last.name
        and rollout.failed is None
        else None
    )
    if last is None or last.name == asked:
        return under_way
    if under_way is not None:
        return under_way if under_way != asked else None
    return last.name if _has_served(view, last) else None


def _has_served(view: InferenceView, revision: Revision) -> bool:
    return revision.ready > 0 or any(
        pod.ready and revision_of(pod) == revision.name for pod in view.pods
    )


def failure(heading: Course, pods: Fleet, asked: Asked) -> FailedRevision | None:
    """Return why the wanted revision is to be given up for the one before it."""
    revision = heading.wanted
    if revision is None or heading.previous is None or any(pod.ready for pod in pods.wanted):
        return None
    for pod in pods.wanted:
        found = explain(pod, asked)
        limit = _RESTARTS_UNTIL_FINAL.get(found.reason)
        if limit is not None and _restarts(pod) >= limit:
            version = revision.target.version
            return FailedRevision(
                name=revision.name,
                version=version,
                reason=str(found.reason),
                message=cut(found.message),
            )
    return None


def _restarts(pod: PodView) -> int:
    return max((each.restarts for each in failing(pod)), default=0)
