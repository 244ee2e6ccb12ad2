"""Which version a service is to serve."""

from __future__ import annotations

from dataclasses import dataclass

from lepton_operator.api.inference import Revision
from lepton_operator.api.model import LeptonModel
from lepton_operator.build.serving import Target
from lepton_operator.conditions import READY, find
from lepton_operator.inference.reasons import ServingReason
from lepton_operator.views import InferenceView


@dataclass(frozen=True, slots=True)
class Blocked:
    """Why no version can be named now; `fallback` is what the service already serves."""

    reason: ServingReason
    message: str
    fallback: Target | None = None


def target(view: InferenceView) -> Target | Blocked:
    """Return the version to serve: the pinned one, else the model's served one.

    While there is none, what is being served stays, and is kept up.
    """
    model = view.model
    if model is None:
        return _not_found(view)
    if view.service.spec.model.version is not None:
        return _pinned(view, model, view.service.spec.model.version)
    served = model.status.served
    if served is not None:
        return Target(model.metadata.name, served.version, served.digest)
    return _none_accepted(view, model)


def _not_found(view: InferenceView) -> Blocked:
    name = view.service.spec.model.name
    return Blocked(
        ServingReason.MODEL_NOT_FOUND,
        f"There is no LeptonModel {name} in this namespace yet: apply it, or correct "
        "spec.model.name.",
        _fallback(view),
    )


def _pinned(view: InferenceView, model: LeptonModel, number: int) -> Target | Blocked:
    listed = [each for each in model.status.versions if each.version == number]
    if listed:
        return Target(model.metadata.name, number, listed[0].digest)
    there = ", ".join(str(each.version) for each in model.status.versions) or "none yet"
    return Blocked(
        ServingReason.VERSION_NOT_FOUND,
        f"LeptonModel {model.metadata.name} has no version {number} (it has: {there}): correct "
        "spec.model.version, or leave it out to serve the newest that passed.",
        _fallback(view),
    )


def _none_accepted(view: InferenceView, model: LeptonModel) -> Blocked:
    ready = find(model.status.conditions, READY)
    why = f" {ready.reason}: {ready.message}" if ready is not None else ""
    return Blocked(
        ServingReason.NO_ACCEPTED_VERSION,
        f"LeptonModel {model.metadata.name} has no version that passed its gate yet.{why}",
        _fallback(view),
    )


def _fallback(view: InferenceView) -> Target | None:
    recorded: Revision | None = next(iter(view.service.status.revisions), None)
    if recorded is None or recorded.model != view.service.spec.model.name:
        return None
    return Target(recorded.model, recorded.version, recorded.digest)
