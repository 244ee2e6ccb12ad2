"""What finished step pods have to say, put into the status: nothing twice, nothing lost.

Recording the same pods again changes nothing, so a pod whose outcome is in the status can be told
by just that, and only such pods are deleted.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from lepton_operator.api.model import Imported, LeptonModelStatus, StepStatus
from lepton_operator.build.steps import CONTAINER, Step, read
from lepton_operator.conditions import cut
from lepton_operator.diagnosis import ending, last_line
from lepton_operator.models import versions
from lepton_operator.models.agenda import (
    entry_of,
    has_ended,
    pods_of,
    step_of,
    unlisted_job,
    wanted,
)
from lepton_operator.models.reasons import FINAL, ModelReason
from lepton_operator.plan import Event
from lepton_operator.records import Record, VersionRecord, parse
from lepton_operator.views import ModelView, PodView

TRIED_AGAIN = "It is tried again."
GIVEN_UP = "It is tried again when the spec of this object changes."


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a step did not succeed."""

    reason: ModelReason
    message: str

    def is_final(self, step: Step) -> bool:
        """Return whether only a change of the spec can help, which says nothing to an index."""
        return self.reason in FINAL and step.kind != "index"


def recorded(view: ModelView, status: LeptonModelStatus, now: datetime) -> LeptonModelStatus:
    """Return the status with the outcome of every step pod that ended."""
    ended = [pod for pod in view.pods if has_ended(view, pod, now)]
    for pod in sorted(ended, key=lambda pod: (pod.created, pod.name)):
        step = read(pod.annotations)
        if step is not None:
            status = _with_outcome(view, status, _Ended(pod, step, now))
    return tidied(view, status)


def tidied(view: ModelView, status: LeptonModelStatus) -> LeptonModelStatus:
    """Return the status without old versions that nobody uses, and without settled failures."""
    status = status.model_copy(
        update={"versions": versions.kept(status.versions, versions.in_use(status, view.uses))}
    )
    steps = {each.step for each in wanted(view, status)}
    failing = tuple(each for each in status.failing if step_of(each) in steps)
    return status.model_copy(update={"failing": failing})


def conflicts(view: ModelView) -> list[Event]:
    """Return a warning for each record that contradicts the digest of a listed version."""
    listed = view.model.status.versions
    told = [record for pod in view.pods if pod.finished for record in _records(pod)]
    return [
        Event(
            "Warning",
            ModelReason.VERSION_CONFLICT,
            f"The store tells {each.digest} for version {each.version}, which is listed with "
            "another digest; the listed one is kept, because a version never changes. Look who "
            "writes to the store.",
        )
        for each in told
        if versions.contradicts(listed, each)
    ]


@dataclass(frozen=True, slots=True)
class _Ended:
    pod: PodView
    step: Step
    now: datetime


def _with_outcome(view: ModelView, status: LeptonModelStatus, ended: _Ended) -> LeptonModelStatus:
    record = _record(ended.pod)
    if ended.pod.finished and record is not None and record.outcome == "Succeeded":
        return _SUCCESSES[ended.step.kind](view, status, ended, record)
    return _with_failure(view, status, ended, failure(ended.pod, record))


def _indexed(
    view: ModelView, status: LeptonModelStatus, ended: _Ended, record: Record
) -> LeptonModelStatus:
    asked_at = ended.pod.created.replace(microsecond=0)  # as the status keeps it
    if status.indexed_time is not None and asked_at <= status.indexed_time:
        return status
    before = {each.version for each in status.versions}
    status = tidied(view, _with_versions(status, record.versions, ended.step))
    if not _known(ended.step) <= before:
        return status  # the status was lost since: what the step left out is not listed any more
    news = {each.version for each in status.versions} - before
    status = status.model_copy(
        # Versions too old to be kept would be told again and again.
        update={"indexed_time": asked_at, "unlisted": True if record.more and news else None}
    )
    if not status.versions:  # so there is nothing of what these speak of
        status = status.model_copy(update={"served": None, "imported": None})
    if status.unlisted or unlisted_job(view, status) is None:
        return _without_failure(status, ended.step)
    return _with_failure(view, status, ended, _missing(view, status))


def _known(step: Step) -> set[int]:
    return {int(each) for each in (step.known or "").split(",") if each.isdecimal()}


def _imported(
    view: ModelView, status: LeptonModelStatus, ended: _Ended, record: Record
) -> LeptonModelStatus:
    if not record.versions:
        return _with_failure(view, status, ended, _no_answer(ended.pod))
    status = _with_versions(status, record.versions, ended.step)
    source = view.model.spec.source
    if source is None or source.digest != ended.step.digest:
        return status
    imported = Imported(digest=source.digest, version=record.versions[0].version)
    return _without_failure(status.model_copy(update={"imported": imported}), ended.step)


def _evaluated(
    view: ModelView, status: LeptonModelStatus, ended: _Ended, record: Record
) -> LeptonModelStatus:
    number, asked = ended.step.version, view.model.spec.evaluation
    if record.evaluation is None or number is None:
        return _with_failure(view, status, ended, _no_answer(ended.pod))
    listed = versions.find(status.versions, number)
    if listed is None or listed.digest != ended.step.digest:
        return status
    # The dataset is what was asked for; the agent may call it by another name.
    found = versions.evaluation(record.evaluation).model_copy(
        update={"dataset": ended.step.dataset or record.evaluation.dataset}
    )
    kept = versions.with_evaluation(
        status.versions, number, found, asked.dataset if asked else None
    )
    return _without_failure(status.model_copy(update={"versions": kept}), ended.step)


_Success = Callable[[ModelView, LeptonModelStatus, _Ended, Record], LeptonModelStatus]
_SUCCESSES: dict[str, _Success] = {
    "index": _indexed,
    "import": _imported,
    "evaluate": _evaluated,
}


def _with_versions(
    status: LeptonModelStatus, told: tuple[VersionRecord, ...], step: Step
) -> LeptonModelStatus:
    listed = status.versions
    for each in told:
        listed = versions.with_record(listed, each, step.dataset)
    return status.model_copy(update={"versions": listed})


def _with_failure(
    view: ModelView, status: LeptonModelStatus, ended: _Ended, found: Failure
) -> LeptonModelStatus:
    """Return the status with one failure more, if this is the last pod of a wanted step."""
    entry = entry_of(status, ended.step)
    counted = entry is not None and entry.pod == ended.pod.uid
    is_wanted = any(each.step == ended.step for each in wanted(view, status))
    if counted or not is_wanted or pods_of(view, ended.step)[-1] != ended.pod:
        return status
    failures = entry.failures if entry else 0
    failed = _entry(ended, found, failures + 1, view.model.metadata.generation)
    others = _without_failure(status, ended.step).failing
    return status.model_copy(update={"failing": (*others, failed)})


def _entry(ended: _Ended, found: Failure, failures: int, generation: int) -> StepStatus:
    step, container = ended.step, ended.pod.container(CONTAINER)
    finished = container.finished if container else None
    final = found.is_final(step)
    return StepStatus(
        step=step.kind,
        version=step.version,
        dataset=step.dataset,
        uri=step.uri,
        digest=step.digest,
        generation=generation,
        pod=ended.pod.uid,
        failures=failures,
        last_failure_time=(finished or ended.now).replace(microsecond=0),
        reason=found.reason,
        message=cut(f"{found.message.rstrip('. ')}. {GIVEN_UP if final else TRIED_AGAIN}"),
        final=final,
    )


def _without_failure(status: LeptonModelStatus, step: Step) -> LeptonModelStatus:
    rest = tuple(each for each in status.failing if step_of(each) != step)
    return status.model_copy(update={"failing": rest})


def failure(pod: PodView, record: Record | None) -> Failure:
    """Return why this step pod did not succeed."""
    if not pod.finished:
        return Failure(
            ModelReason.POD_LOST, f"Pod {pod.name} was deleted, or its node lost, before it ended"
        )
    if record is not None and record.outcome == "Failed":
        said = record.message.removesuffix(".").removesuffix("; it is tried again")
        return Failure(_reason(record), said or f"Pod {pod.name} did not say what went wrong")
    container = pod.container(CONTAINER)
    if container is not None and container.reason == "OOMKilled":
        return Failure(
            ModelReason.OUT_OF_MEMORY,
            f"Pod {pod.name} was killed because it used more memory than it may; an administrator "
            "can raise stepResources in the chart's values",
        )
    if pod.deleted_by_eviction or pod.reason:
        why = pod.message or pod.reason or "its node needed the room"
        return Failure(ModelReason.EVICTED, f"Pod {pod.name} was taken off its node: {why}")
    return _no_answer(pod)


def _reason(record: Record) -> ModelReason:
    told = record.reason.value if record.reason is not None else ""
    known = {each.value for each in ModelReason}
    return ModelReason(told) if told in known else ModelReason.STEP_FAILED


def _no_answer(pod: PodView) -> Failure:
    container = pod.container(CONTAINER)
    how = ending(container) if container else "without a container"
    said = last_line(container.message) if container else ""
    return Failure(
        ModelReason.STEP_FAILED,
        f"Pod {pod.name} ended {how} and did not say why; its last words: {said or '(none)'}",
    )


def _missing(view: ModelView, status: LeptonModelStatus) -> Failure:
    job = unlisted_job(view, status)
    output = job.status.output if job else None
    told = (
        f"TrainingJob {job.metadata.name} made version {output.version}" if job and output else ""
    )
    return Failure(
        ModelReason.VERSION_MISSING,
        f"{told}, but the store does not list it. If the store was emptied on purpose, delete "
        "that job",
    )


def _record(pod: PodView) -> Record | None:
    container = pod.container(CONTAINER)
    return parse(container.message) if container is not None else None


def _records(pod: PodView) -> tuple[VersionRecord, ...]:
    record = _record(pod)
    return record.versions if record is not None else ()
