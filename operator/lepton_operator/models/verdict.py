"""Where a model stands: ordered rules, the first that says something decides.

A model that works or waits is Reconciling even while an older version is served: contract 4 makes
Ready mean that some version passes and none is being judged. It is Stalled only if nothing passes
and nothing but a change of this object can help.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from lepton_operator.api.model import LeptonModelStatus, StepStatus, Version
from lepton_operator.build.steps import Step
from lepton_operator.conditions import Extra, Standing, Verdict
from lepton_operator.diagnosis import TRANSIENT, Asked, Diagnosis, diagnose, gpus_asked
from lepton_operator.models import gate, versions
from lepton_operator.models.agenda import Agenda, entry_of
from lepton_operator.models.reasons import ModelReason
from lepton_operator.views import ModelView

LATEST_ACCEPTED = "LatestAccepted"


@dataclass(frozen=True, slots=True)
class Situation:
    """What the rules look at: the status with every outcome and gate in it, and what is to do."""

    view: ModelView
    status: LeptonModelStatus
    agenda: Agenda

    @property
    def newest(self) -> Version | None:
        return versions.newest(self.status.versions)

    @property
    def accepted(self) -> Version | None:
        """Return the newest version that passes."""
        return versions.newest(each for each in self.status.versions if gate.passes(each))

    @property
    def given_up(self) -> StepStatus | None:
        """Return a step that failed for good."""
        return next((each for each in self.status.failing if each.final), None)


def judge(situation: Situation) -> Verdict:
    found = (rule(situation) for rule in RULES)
    return next(each for each in found if each is not None)


def _refused(situation: Situation) -> Verdict | None:
    refusal = next(iter(situation.view.refusals), None)
    if refusal is None or situation.agenda.settled:
        return None
    return _reconciling(refusal.reason, refusal.sentence)


def _blocked(situation: Situation) -> Verdict | None:
    """Judge a step whose pod cannot run, by what keeps it from running."""
    found = (diagnose(pod, _asked(situation.view)) for pod in situation.agenda.running)
    trouble = next((each for each in found if each.reason not in TRANSIENT), None)
    return _diagnosed(trouble) if trouble is not None else None


def _failing(situation: Situation) -> Verdict | None:
    """Judge a step that failed and is tried again: its reason stays until it has succeeded."""
    agenda = situation.agenda
    entry = agenda.retry
    if agenda.current is not None:
        entry = entry_of(situation.status, agenda.current.step)
    if entry is None or entry.reason is None or entry.final:
        return None
    return _reconciling(entry.reason, entry.message or "")


def _working(situation: Situation) -> Verdict | None:
    current = situation.agenda.current
    if current is None:
        return None
    reason, sentence = _PROGRESS[current.step.kind]
    return _reconciling(reason, sentence(current.step))


def _accepted(situation: Situation) -> Verdict | None:
    accepted = situation.accepted
    if accepted is None or accepted.gate is None:
        return None
    message = f"Version {accepted.version} passed: {accepted.gate.message}"
    return Verdict(Standing.SETTLED, True, ModelReason.ACCEPTED, message)


def _none_accepted(situation: Situation) -> Verdict | None:
    newest = situation.newest
    if newest is None or newest.gate is None:
        return None
    given_up = situation.given_up
    if given_up is not None and given_up.reason is not None:
        return _stalled(given_up.reason, f"{given_up.message or ''}{_still_served(situation)}")
    return _stalled(
        ModelReason.GATE_FAILED,
        f"No version passes; version {newest.version}: {newest.gate.message} Train a better "
        f"version, or change spec.evaluation.thresholds.{_still_served(situation)}",
    )


def _given_up(situation: Situation) -> Verdict | None:
    entry = situation.given_up
    return _stalled(entry.reason, entry.message or "") if entry and entry.reason else None


def _no_versions(situation: Situation) -> Verdict:
    jobs = [job.metadata.name for job in situation.view.jobs if job.status.output is None]
    if jobs:
        message = f"No version yet: TrainingJob {jobs[0]} is to make one."
    else:
        message = (
            "No version yet: name this model in output.model of a TrainingJob, or set spec.source."
        )
    return _reconciling(ModelReason.NO_VERSIONS, message)


RULES: tuple[Callable[[Situation], Verdict | None], ...] = (
    _refused,
    _blocked,
    _failing,
    _working,
    _accepted,
    _none_accepted,
    _given_up,
    _no_versions,
)


def latest_accepted(situation: Situation) -> Iterable[Extra]:
    """Yield whether the newest version, or the source that should become it, was let through."""
    given_up = situation.given_up
    if given_up is not None and given_up.step == "import" and given_up.reason is not None:
        yield Extra(LATEST_ACCEPTED, "False", given_up.reason, given_up.message or "")
        return
    newest = situation.newest
    if newest is None or newest.gate is None:
        return
    message = f"Version {newest.version}: {newest.gate.message}"
    if gate.passes(newest):
        yield Extra(LATEST_ACCEPTED, "True", ModelReason.ACCEPTED, message)
    elif gate.failed(newest):
        yield Extra(LATEST_ACCEPTED, "False", ModelReason.GATE_FAILED, message)
    else:
        yield Extra(LATEST_ACCEPTED, "Unknown", ModelReason.BEING_JUDGED, message)


def _indexing(_: Step) -> str:
    return "The versions that the store has are being listed."


def _importing(step: Step) -> str:
    return f"The source {step.uri} is being checked and imported."


def _evaluating(step: Step) -> str:
    return f"Version {step.version} is being evaluated on {step.dataset}."


_PROGRESS: dict[str, tuple[ModelReason, Callable[[Step], str]]] = {
    "index": (ModelReason.INDEXING, _indexing),
    "import": (ModelReason.IMPORTING, _importing),
    "evaluate": (ModelReason.EVALUATING, _evaluating),
}


def _still_served(situation: Situation) -> str:
    served = situation.status.served
    return f" Version {served.version} goes on being served." if served is not None else ""


def _asked(view: ModelView) -> Asked:
    name = view.defaults.gpu_resource
    return Asked(gpus_asked(view.defaults.step_resources, name), name, view.nodes)


def _diagnosed(found: Diagnosis) -> Verdict:
    return _reconciling(found.reason, found.message)


def _reconciling(reason: str, message: str) -> Verdict:
    return Verdict(Standing.RECONCILING, False, reason, message)


def _stalled(reason: str, message: str) -> Verdict:
    return Verdict(Standing.STALLED, False, reason, message)
