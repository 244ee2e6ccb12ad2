"""Revisions: sets of pods that are alike.

A revision is named by what the user says about pods and by the version's digest, never by the
administrator's values: those are resolved when a revision is made, and recorded with it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from lepton_operator import names
from lepton_operator.api.inference import (
    MAX_RECORDED_SPEC,
    InferenceService,
    InferenceServiceSpec,
    Revision,
)
from lepton_operator.build.serving import Resolved, Target, is_older, resolve
from lepton_operator.inference.draining import is_draining
from lepton_operator.inference.reasons import ServingReason
from lepton_operator.inference.target import Blocked
from lepton_operator.settings import Triton
from lepton_operator.views import InferenceView, PodView

# What is no word about pods, so that it replaces none.
_NOT_OF_PODS = frozenset({"model", "replicas", "autoscaling", "limits", "rollout", "disruption"})


@dataclass(frozen=True, slots=True)
class Wanted:
    """The revision that all pods are to be of; `service` says what its pods are made of."""

    name: str
    service: InferenceService
    target: Target
    resolved: Resolved


def wanted(view: InferenceView, target: Target) -> Wanted | Blocked:
    """Return the revision for this version; none is made anew with a server that is too old."""
    name = revision_name(view.service, target)
    found = next(_recorded(view, name), None)
    if found is None and (refusal := _too_old(view.defaults.triton)):
        return Blocked(ServingReason.SERVER_TOO_OLD, refusal)
    made = resolve(view.service, view.defaults, _size_bytes(view, target))
    return Wanted(name, view.service, target, found or made)


def _size_bytes(view: InferenceView, target: Target) -> int | None:
    listed = view.model.status.versions if view.model is not None else ()
    return next((each.size_bytes for each in listed if each.digest == target.digest), None)


def recorded(view: InferenceView, name: str | None) -> Wanted | None:
    """Return an earlier revision, if enough is known of it to make its pods again."""
    found = next((each for each in view.service.status.revisions if each.name == name), None)
    resolved = _parsed(found.resolved) if found is not None else None
    if found is None or found.model is None or resolved is None:
        return None
    target = Target(found.model, found.version, found.digest)
    service = _as_it_was(view.service, found)
    if service is None or revision_name(service, target) != name:
        return None
    return Wanted(found.name, service, target, resolved)


def _as_it_was(service: InferenceService, revision: Revision) -> InferenceService | None:
    """Return the service with what it said about the pods of this revision."""
    if revision.spec is None:  # by an operator that recorded none
        return service
    spec = service.spec
    try:
        said = InferenceServiceSpec.model_validate(
            {**json.loads(revision.spec), "model": spec.model.model_dump(by_alias=True)}
        )
    except ValueError:
        return None
    return service.model_copy(update={"spec": said.model_copy(update={"replicas": spec.replicas})})


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
    """Return the revision's name: a hash of all that makes a pod other than the defaults."""
    served = {"model": target.model, "version": target.version, "digest": target.digest}
    return names.short_hash({"spec": _said(service), **served})


def _said(service: InferenceService) -> dict[str, Any]:
    """Return what the service says about its pods.

    Limits are the door's, and reach no pod. What is not set is left out, so that a field that a
    later operator adds changes no name.
    """
    spec = service.spec.model_dump(
        mode="json", by_alias=True, exclude_defaults=True, exclude=set(_NOT_OF_PODS)
    )
    # Empty resources are a word: no GPU. These say nothing.
    silent = [name for name in ("batching", "spread", "triton") if spec.get(name) == {}]
    spec = {name: value for name, value in spec.items() if name not in silent}
    rollout = service.spec.rollout
    if rollout is not None and rollout.restarted_at is not None:
        spec["rollout"] = rollout.model_dump(mode="json", by_alias=True, include={"restarted_at"})
    return spec


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


def listed(
    view: InferenceView, current: Wanted | None, kept: Collection[str] = ()
) -> tuple[Revision, ...]:
    """Return the revisions for the status: the wanted one, those kept, and those with pods."""
    recorded = {each.name: each for each in view.service.status.revisions}
    if current is not None:
        recorded[current.name] = Revision(
            name=current.name,
            model=current.target.model,
            version=current.target.version,
            digest=current.target.digest,
            spec=_written(current.service),
            resolved=current.resolved.written(),
        )
    counted = [_counted(view, each) for each in recorded.values()]
    first = current.name if current is not None else _first(view)
    found = [each for each in counted if each.name in (first, *kept) or each.replicas]
    return tuple(sorted(found, key=_order(first, kept)))[:MAX_LISTED]


MAX_LISTED = 10


def _order(first: str, kept: Collection[str]) -> Callable[[Revision], tuple[bool, bool]]:
    return lambda each: (each.name != first, each.name not in kept)


def _written(service: InferenceService) -> str | None:
    text = names.canonical(_said(service))
    return text if len(text) <= MAX_RECORDED_SPEC else None


def _first(view: InferenceView) -> str:
    return next((each.name for each in view.service.status.revisions), "")


def _counted(view: InferenceView, revision: Revision) -> Revision:
    pods = [pod for pod in view.pods if revision_of(pod) == revision.name and not pod.gone]
    there = [pod for pod in pods if not (pod.finished or pod.deleting)]
    ready = [pod for pod in there if pod.answers and not is_draining(pod)]
    return revision.model_copy(update={"replicas": len(there), "ready": len(ready)})
