"""Revisions: sets of pods that are alike.

A revision is named by what the user says about pods and by the version's digest, never by the
administrator's values: those are resolved when a revision is made, and recorded with it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from pydantic import ValidationError

from lepton_operator import names
from lepton_operator.api.inference import InferenceService, Revision
from lepton_operator.build.serving import Resolved, Target, is_older, resolve
from lepton_operator.inference.reasons import ServingReason
from lepton_operator.inference.target import Blocked
from lepton_operator.settings import Triton
from lepton_operator.views import InferenceView, PodView


@dataclass(frozen=True, slots=True)
class Wanted:
    """The revision that all pods are to be of."""

    name: str
    target: Target
    resolved: Resolved


def wanted(view: InferenceView, target: Target) -> Wanted | Blocked:
    """Return the revision for this version; none is made anew with a server that is too old."""
    name = revision_name(view.service, target)
    found = next(_recorded(view, name), None)
    if found is None and (refusal := _too_old(view.defaults.triton)):
        return Blocked(ServingReason.SERVER_TOO_OLD, refusal)
    return Wanted(name, target, found or resolve(view.service, view.defaults))


def _too_old(triton: Triton) -> str | None:
    if not is_older(triton.version, triton.minimum_version):
        return None
    return (
        f"The Triton of this installation is {triton.version}, and no pods are made with one "
        f"before {triton.minimum_version}: older ones have holes that NVIDIA's security bulletins "
        "list. An administrator sets images.triton and triton.version to a current release, or "
        "lowers triton.minimumVersion, in the chart's values."
    )


def revision_name(service: InferenceService, target: Target) -> str:
    """Return the revision's name: a hash of all that makes a pod other than the defaults.

    Limits are the door's, and reach no pod. What is not set is left out, so that a field that a
    later operator adds changes no name.
    """
    spec = service.spec.model_dump(
        mode="json", by_alias=True, exclude_defaults=True, exclude={"model", "replicas", "limits"}
    )
    # Empty resources are a word: no GPU. These say nothing.
    silent = [name for name in ("rollout", "batching", "triton") if spec.get(name) == {}]
    spec = {name: value for name, value in spec.items() if name not in silent}
    served = {"model": target.model, "version": target.version, "digest": target.digest}
    return names.short_hash({"spec": spec, **served})


def revision_of(pod: PodView) -> str:
    return pod.labels.get(names.REVISION, "")


def _recorded(view: InferenceView, name: str) -> Iterator[Resolved]:
    """Yield what was resolved for this revision: by the status, then by its oldest pod."""
    texts = [each.resolved for each in view.service.status.revisions if each.name == name]
    pods = sorted(view.pods, key=lambda pod: (pod.created, pod.name))
    texts += [pod.annotations.get(names.RESOLVED) for pod in pods if revision_of(pod) == name]
    for text in texts:
        found = _parsed(text)
        if found is not None:
            yield found


def _parsed(text: str | None) -> Resolved | None:
    try:
        return Resolved.model_validate_json(text or "")
    except ValidationError:
        return None


def listed(view: InferenceView, current: Wanted | None) -> tuple[Revision, ...]:
    """Return the revisions for the status: the wanted one, then others that still have pods."""
    recorded = {each.name: each for each in view.service.status.revisions}
    if current is not None:
        recorded[current.name] = Revision(
            name=current.name,
            model=current.target.model,
            version=current.target.version,
            digest=current.target.digest,
            resolved=current.resolved.written(),
        )
    counted = [_counted(view, each) for each in recorded.values()]
    first = current.name if current is not None else _first(view)
    kept = [each for each in counted if each.name == first or each.replicas]
    return tuple(sorted(kept, key=lambda each: each.name != first))[:MAX_LISTED]


MAX_LISTED = 10


def _first(view: InferenceView) -> str:
    return next((each.name for each in view.service.status.revisions), "")


def _counted(view: InferenceView, revision: Revision) -> Revision:
    pods = [pod for pod in view.pods if revision_of(pod) == revision.name and not pod.gone]
    there = [pod for pod in pods if not (pod.finished or pod.deleting)]
    return revision.model_copy(
        update={"replicas": len(there), "ready": sum(pod.ready for pod in there)}
    )
