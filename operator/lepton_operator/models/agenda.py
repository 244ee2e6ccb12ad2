"""Which steps a model wants, in which order, and which of them may run now."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from lepton_operator.api.model import LeptonModelStatus, StepStatus
from lepton_operator.api.training import TrainingJob
from lepton_operator.build.steps import Step, read
from lepton_operator.diagnosis import lost_nodes
from lepton_operator.models import versions
from lepton_operator.views import ModelView, PodView

FIRST_DELAY_SECONDS = 5
LONGEST_DELAY_SECONDS = 300


@dataclass(frozen=True, slots=True)
class Wanted:
    """A step, and why it is wanted."""

    step: Step
    because: str


@dataclass(frozen=True, slots=True)
class Agenda:
    """What is to do. `running` and `next` never both hold something: one step at a time."""

    wanted: tuple[Wanted, ...] = ()
    running: tuple[PodView, ...] = ()
    current: Wanted | None = None  # what `running` works on, or what `next` will
    next: Wanted | None = None
    retry: StepStatus | None = None  # the step that is waited for, if nothing may run now
    due: datetime | None = None

    @property
    def settled(self) -> bool:
        """Return whether nothing is to be waited for."""
        return self.current is None and self.retry is None


def agenda(view: ModelView, status: LeptonModelStatus, now: datetime) -> Agenda:
    """Return what is to do for a model whose pods' outcomes are in this status."""
    generation = view.model.metadata.generation
    open_steps = tuple(
        each for each in wanted(view, status) if not _given_up(status, each.step, generation)
    )
    running = [
        (each, pod)
        for each in open_steps
        for pod in pods_of(view, each.step)
        if not has_ended(view, pod, now)
    ]
    if running:
        pods = tuple(pod for _, pod in running)
        losses = (lost_at for pod in pods if (lost_at := _lost_from(view, pod)) is not None)
        return Agenda(open_steps, pods, current=running[0][0], due=min(losses, default=None))
    ready = [each for each in open_steps if not _waits(status, each.step, now)]
    if ready:
        return Agenda(open_steps, current=ready[0], next=ready[0])
    failing = [entry for each in open_steps if (entry := entry_of(status, each.step)) is not None]
    return Agenda(
        open_steps,
        retry=failing[0] if failing else None,
        due=min((retry_time(each) for each in failing), default=None),
    )


def wanted(view: ModelView, status: LeptonModelStatus) -> Iterator[Wanted]:
    """Yield every step that is still to do, in the order in which they run."""
    for rule in RULES:
        yield from rule(view, status)


def _index(view: ModelView, status: LeptonModelStatus) -> Iterator[Wanted]:
    because = _why_index(view, status)
    if because is not None:
        asked = view.model.spec.evaluation
        known = ",".join(str(each.version) for each in status.versions) or None
        step = Step("index", dataset=asked.dataset if asked else None, known=known)
        yield Wanted(step, because)


def _why_index(view: ModelView, status: LeptonModelStatus) -> str | None:
    if status.indexed_time is None:
        return "the store was not asked for versions yet"
    if not status.versions and (status.served or status.imported):
        return "the status lists none of the versions that it speaks of"
    if status.unlisted:
        return "the store has further versions"
    job = unlisted_job(view, status)
    if job is not None and job.status.output is not None:
        return f"TrainingJob {job.metadata.name} made version {job.status.output.version}"
    return None


def unlisted_job(view: ModelView, status: LeptonModelStatus) -> TrainingJob | None:
    """Return a job whose version is newer than every one that is listed."""
    newest = versions.newest(status.versions)
    listed = newest.version if newest else 0
    made = (job for job in view.jobs if _version_of(job, view.model.metadata.name) > listed)
    return max(made, key=lambda job: _version_of(job, view.model.metadata.name), default=None)


def _version_of(job: TrainingJob, model: str) -> int:
    output = job.status.output
    return output.version if output is not None and output.model == model else 0


def _import(view: ModelView, status: LeptonModelStatus) -> Iterator[Wanted]:
    source = view.model.spec.source
    if source is None or (status.imported and status.imported.digest == source.digest):
        return
    step = Step("import", digest=source.digest, uri=source.uri)
    yield Wanted(step, f"{source.uri} with that digest is no version yet")


def _evaluate(view: ModelView, status: LeptonModelStatus) -> Iterator[Wanted]:
    """Yield the newest version, and those that services name and that were never evaluated."""
    asked = view.model.spec.evaluation
    if asked is None:
        return
    newest = versions.newest(status.versions)
    pinned = versions.pinned(view.uses)
    for each in status.versions:
        step = Step("evaluate", version=each.version, digest=each.digest, dataset=asked.dataset)
        if each == newest and (not each.evaluation or each.evaluation.dataset != asked.dataset):
            yield Wanted(step, f"version {each.version} is the newest one")
        elif each.evaluation is None and each.version in pinned:
            yield Wanted(step, f"an InferenceService names version {each.version}")


RULES: tuple[Callable[[ModelView, LeptonModelStatus], Iterator[Wanted]], ...] = (
    _index,
    _import,
    _evaluate,
)


def pods_of(view: ModelView, step: Step) -> list[PodView]:
    """Return the pods that work or worked on exactly this step, oldest first."""
    ours = (pod for pod in view.pods if read(pod.annotations) == step)
    return sorted(ours, key=lambda pod: (pod.created, pod.name))


def has_ended(view: ModelView, pod: PodView, now: datetime) -> bool:
    """Return whether nothing is to be waited for: a step may run twice, so a lost one has ended."""
    lost_at = _lost_from(view, pod)
    lost = lost_at is not None and lost_at <= now
    return pod.finished or pod.deleting or pod.gone or lost


def _lost_from(view: ModelView, pod: PodView) -> datetime | None:
    return lost_nodes(view.nodes, view.defaults.node_not_ready_seconds).get(pod.node or "")


def entry_of(status: LeptonModelStatus, step: Step) -> StepStatus | None:
    """Return what is recorded about the step's failures."""
    return next((each for each in status.failing if step_of(each) == step), None)


def step_of(entry: StepStatus) -> Step:
    return Step(entry.step, entry.version, entry.digest, entry.dataset, entry.uri)


def retry_time(entry: StepStatus) -> datetime:
    """Return when a failed step runs again: 5 s later, doubling to 5 min."""
    if entry.last_failure_time is None:
        return datetime.min.replace(tzinfo=UTC)
    doublings = min(max(entry.failures - 1, 0), 10)
    delay = min(FIRST_DELAY_SECONDS * 2**doublings, LONGEST_DELAY_SECONDS)
    return entry.last_failure_time + timedelta(seconds=delay)


def _given_up(status: LeptonModelStatus, step: Step, generation: int) -> bool:
    entry = entry_of(status, step)
    return entry is not None and entry.final and entry.generation == generation


def _waits(status: LeptonModelStatus, step: Step, now: datetime) -> bool:
    entry = entry_of(status, step)
    # A failure for good that a changed spec has made worth another try waits for nothing.
    return entry is not None and not entry.final and now < retry_time(entry)
