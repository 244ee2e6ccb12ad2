"""Events: what changed between two statuses, for a person who reads `kubectl describe`."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from lepton_operator.api.model import LeptonModelStatus, StepStatus, Version
from lepton_operator.models import gate, versions
from lepton_operator.models.reasons import ModelReason
from lepton_operator.plan import Event


def events(before: LeptonModelStatus, after: LeptonModelStatus) -> tuple[Event, ...]:
    return tuple(event for rule in RULES for event in rule(before, after))


def _listed(before: LeptonModelStatus, after: LeptonModelStatus) -> Iterator[Event]:
    known = {each.version for each in before.versions}
    for each in after.versions:
        if each.version not in known:
            message = f"Version {each.version} ({each.size_bytes} bytes){_origin(each)}"
            yield Event("Normal", ModelReason.VERSION_LISTED, message)


def _origin(version: Version) -> str:
    lineage = version.lineage
    if lineage is None:
        return ""
    if lineage.training_job:
        return f" of TrainingJob {lineage.training_job}"
    return f" from {lineage.uri}" if lineage.uri else ""


def _judged(before: LeptonModelStatus, after: LeptonModelStatus) -> Iterator[Event]:
    for each in after.versions:
        listed = versions.find(before.versions, each.version)
        if each.gate is None or (
            listed and listed.gate and listed.gate.outcome == each.gate.outcome
        ):
            continue
        message = f"Version {each.version}: {each.gate.message}"
        if gate.passes(each):
            yield Event("Normal", ModelReason.VERSION_ACCEPTED, message)
        elif gate.failed(each):
            yield Event("Warning", ModelReason.VERSION_REFUSED, message)


def _served(before: LeptonModelStatus, after: LeptonModelStatus) -> Iterator[Event]:
    served = after.served
    if served is not None and (before.served is None or before.served.version != served.version):
        scored = f" ({served.score})" if served.score else ""
        message = f"Version {served.version}{scored} is served now."
        yield Event("Normal", ModelReason.SERVED, message)


def _failed(before: LeptonModelStatus, after: LeptonModelStatus) -> Iterator[Event]:
    counted = {_identity(each) for each in before.failing}
    for each in after.failing:
        if _identity(each) not in counted and each.reason is not None:
            yield Event("Warning", each.reason, each.message or "")


def _identity(entry: StepStatus) -> tuple[str, str | None, int]:
    return entry.step, entry.pod, entry.failures


RULES: tuple[Callable[[LeptonModelStatus, LeptonModelStatus], Iterator[Event]], ...] = (
    _listed,
    _judged,
    _served,
    _failed,
)
