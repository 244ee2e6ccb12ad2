"""What the time of an attempt went into: every second of it in exactly one class.

Up to the moment when the last pod's ranks could start, what pods say of themselves decides: the pod
that was last, for a gang runs when all of it does. From then on it is what a launcher told. What
neither saw is `unobserved`. Pods' times are whole seconds, each of its own node's clock: none can
make the sum another than the time from the attempt's start to its end.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from typing import Literal

from lepton_operator import names
from lepton_operator.api.training import Attempt, Ledger, Spent, TrainingJobStatus
from lepton_operator.build import training as build
from lepton_operator.diagnosis import gpus_asked
from lepton_operator.training.evidence import record_of
from lepton_operator.training.situation import Gang, Situation, training_container
from lepton_operator.views import PodView

Seconds = Mapping[str, float]
"""By the names of the classes, as the fields of Spent."""

Rest = Literal["checkpointing", "waiting", "unobserved"]
"""What the time is after the last that a launcher told: storing the result, ending, unknown."""

CLASSES = tuple(Spent.model_fields)
# As they come in a run: where more is told than there was time, the last ones are cut.
_IN_ORDER = (
    *("start", "rendezvous", "restoring", "productive", "checkpointing", "repeated", "hang"),
    "unobserved",
)
_DIGITS = 1
_MOST = 1e20  # of GPUs a spec may ask for any number


@dataclass(frozen=True, slots=True)
class LastWord:
    """What a launcher told of its attempt; `since` is when its container started."""

    seconds: Seconds
    since: datetime
    is_final: bool


@dataclass(frozen=True, slots=True)
class Span:
    """An attempt's time, and when all its ranks could start; None if they never could."""

    start: datetime
    end: datetime
    running: datetime | None

    @property
    def whole(self) -> float:
        return _between(self.start, self.end)


def of_attempt(span: Span, pods: Collection[PodView], told: LastWord | None, rest: Rest) -> Seconds:
    """Return the classes of a whole attempt. They add up to `span.whole`, whatever is told."""
    if not pods:
        return {"unobserved": span.whole}
    classes = _until_it_runs(span, max(pods, key=_how_late))
    left = span.whole - sum(classes.values())
    if left > 0:
        _add(classes, _while_it_runs(left, span, told, rest))
    return classes


def so_far(span: Span, pods: Collection[PodView], told: LastWord) -> Seconds:
    """Return the classes of an attempt that goes on, as far as they are settled."""
    settled = dict(of_attempt(span, pods, told, "unobserved"))
    settled.pop("unobserved", None)
    return settled


def waited_with_a_node(span: Span, pods: Collection[PodView]) -> float:
    """Return the time that pods which had a node waited for those that had none, added up."""
    if not pods:
        return 0.0
    waited = _until_it_runs(span, max(pods, key=_how_late)).get("waiting", 0.0)
    placed = (each.scheduled_since for each in pods if each.scheduled_since is not None)
    return sum(max(0.0, waited - _between(span.start, since)) for since in placed)


def with_late_word(span: Span, before: Seconds, told: LastWord) -> Seconds:
    """Return the classes of a closed attempt, part of which was unobserved until now."""
    started = {name: before.get(name, 0.0) for name in ("waiting", "image")}
    running = span.running or span.end
    started["start"] = max(0.0, _between(span.start, running) - sum(started.values()))
    left = max(0.0, span.whole - sum(started.values()))
    _add(started, _while_it_runs(left, span, told, "unobserved"))
    return started


def _until_it_runs(span: Span, pod: PodView) -> dict[str, float]:
    """Where the time went until the ranks of this pod started, or until the end."""
    classes: dict[str, float] = {}
    at, latest = span.start, min(span.running or span.end, span.end)
    for name, until in _stages(pod):
        reached = max(at, min(until or latest, latest))
        _add(classes, {name: _between(at, reached)})
        at = reached
    return classes


def _stages(pod: PodView) -> Iterator[tuple[str, datetime | None]]:
    """Yield what a pod waited for, and until when; the last one may have no end."""
    prepare, sidecar = pod.container(build.PREPARE), pod.container(build.SIDECAR)
    train = training_container(pod)
    marks = [
        ("waiting", pod.scheduled_since),
        ("start", pod.sandbox_since),
        # An image is pulled right before its container starts.
        ("image", prepare.started if prepare else None),
        ("start", prepare.finished if prepare else None),
        ("image", sidecar.started if sidecar else None),
        ("image", train.started if train else None),
    ]
    known = [index for index, (_, until) in enumerate(marks) if until is not None]
    last = known[-1] if known else -1
    yield from (marks[index] for index in known)
    if last + 1 < len(marks):
        # A pod that runs without telling of containers is a fake node's.
        unknown = pod.phase != "Pending" and train is None
        yield ("unobserved" if unknown else marks[last + 1][0], None)


def _how_late(pod: PodView) -> tuple[float, ...]:
    """Order pods by how late they were; what has not happened is later than anything."""
    train = training_container(pod)
    marks = (train.started if train else None, pod.sandbox_since, pod.scheduled_since)
    return tuple(math.inf if mark is None else mark.timestamp() for mark in marks)


def _while_it_runs(left: float, span: Span, told: LastWord | None, rest: Rest) -> dict[str, float]:
    """Part what is left by what was told: never more than there is, and all of it."""
    if told is None:
        return {"unobserved": left}
    # A launcher that started before the others waited while they were still on their way. One from
    # before the attempt, in a pod that was kept, began anew when all of them were there.
    is_new = span.running is not None and told.since >= span.start
    early = _between(told.since, span.running) if is_new and span.running else 0.0
    classes: dict[str, float] = {}
    for name in _IN_ORDER:
        spent = told.seconds.get(name, 0.0) - (early if name == "start" else 0.0)
        classes[name] = min(max(spent, 0.0), left)
        left -= classes[name]
    _add(classes, {rest if told.is_final else "unobserved": left})
    return classes


# What a situation says


def closed(situation: Situation, gang: Gang, outcome: str, running: datetime | None) -> Ledger:
    """Return the ledger of the open attempt, as it is recorded when that is closed."""
    span = _span(gang.attempt, situation.now, running)
    stores = outcome == "Succeeded" and situation.spec.output is not None
    rest: Rest = "checkpointing" if stores else "waiting"
    classes = of_attempt(span, gang.pods.values(), _told(situation, gang), rest)
    return _of_gang(situation, gang, span, classes)


def present(situation: Situation, gang: Gang, running: datetime | None) -> Ledger | None:
    """Return the ledger of an attempt that goes on; None before all its ranks could start."""
    told = _told(situation, gang)
    if told is None or running is None:
        return gang.attempt.ledger
    span = _span(gang.attempt, situation.now, running)
    return _of_gang(situation, gang, span, so_far(span, gang.pods.values(), told))


def _of_gang(situation: Situation, gang: Gang, span: Span, classes: Seconds) -> Ledger:
    gpus = _gpus(situation, gang.resolved)
    waited = waited_with_a_node(span, gang.pods.values())
    return _ledger(classes, gpus, idle=waited * gpus / situation.spec.num_nodes)


def superseded(situation: Situation, attempt: Attempt) -> Ledger:
    """Return the ledger of an attempt whose end nobody saw."""
    classes, span = _read(attempt.ledger), _span(attempt, situation.now, None)
    rest = max(0.0, span.whole - sum(classes.values()))
    _add(classes, {"unobserved": rest})
    return _again(situation, attempt, classes)


def settled(situation: Situation, attempt: Attempt) -> Ledger | None:
    """Return the ledger of a closed attempt once a pod of it has told more than was known."""
    record = next(_final(situation, attempt, _pods_of(situation)), None)
    told = record or _of_kept_pod(situation, attempt.number)
    before = _read(attempt.ledger)
    if told is None or attempt.running_time is None or not before.get("unobserved"):
        return None
    end = attempt.end_time or situation.now
    classes = with_late_word(_span(attempt, end, attempt.running_time), before, told)
    found = _again(situation, attempt, classes)
    return found if _read(found).get("unobserved", 0.0) < before["unobserved"] else None


def _again(situation: Situation, attempt: Attempt, classes: Seconds) -> Ledger:
    """Return what has become of an attempt's ledger; its pods may be gone that held GPUs idle."""
    gpus = _gpus(situation, build.parse_resolved(attempt.resolved))
    wasted = _fields(attempt.ledger).get("wasted_gpu_seconds", 0.0)
    return _ledger(classes, gpus, idle=max(0.0, wasted - _wasted(_read(attempt.ledger), gpus)))


def total(status: TrainingJobStatus, attempts: Sequence[Attempt]) -> Ledger | None:
    """Return the job's ledger: all attempts, and the time between one that failed and the next.

    A suspension is no time of the job's. Each attempt adds what it has become since the status was
    written, so those that the status no longer keeps stay in the sum.
    """
    before = {each.number: each for each in status.attempts}
    sums = _fields(status.ledger)
    for previous, each in pairwise((None, *attempts)):
        old = before.get(each.number) if each else None
        if each is None:
            continue
        _add(sums, _fields(each.ledger))
        _add(sums, {name: -spent for name, spent in _fields(old.ledger if old else None).items()})
        if old is None and previous and previous.outcome == "Failed" and previous.end_time:
            _add(sums, {"waiting": _between(previous.end_time, _whole_second(each.start_time))})
    return _model(sums) if any(sums.values()) else status.ledger


def _told(situation: Situation, gang: Gang) -> LastWord | None:
    """Return the last word of a launcher: a record's, else what rank 0 told while it ran."""
    ranked = [gang.pods[rank] for rank in sorted(gang.pods)]
    final = next(_final(situation, gang.attempt, ranked), None)
    if final is not None:
        return final
    first = gang.pods.get(0)
    container = training_container(first) if first else None
    if container is None or container.started is None:
        return None
    told = situation.view.told
    every = (told.progress if told else None, situation.status.progress)
    found = next((each for each in every if each and each.attempt == gang.number), None)
    spent = _read(found.ledger) if found else {}
    return LastWord(spent, container.started, is_final=False) if spent else None


def _of_kept_pod(situation: Situation, attempt: int) -> LastWord | None:
    """Return the whole word about an attempt whose rank 0 goes on in the next one."""
    told = situation.view.told.earlier if situation.view.told else ()
    earlier = next((each for each in told if each.attempt == attempt), None)
    first = situation.gang.pods.get(0) if situation.gang else None
    container = training_container(first) if first else None
    if earlier is None or not container or not container.started:
        return None
    return LastWord(earlier.seconds, container.started, is_final=True)


def _final(situation: Situation, attempt: Attempt, pods: Sequence[PodView]) -> Iterator[LastWord]:
    """Yield what these pods told of an attempt when they ended; each tells of its last one."""
    for pod in pods:
        record, container = record_of(pod), training_container(pod)
        made = names.parse_training_pod(situation.job.metadata.name, pod.name)
        if not (record and record.ledger and container and container.started and made):
            continue
        if (record.attempt or made[0]) == attempt.number:
            yield LastWord(record.ledger, container.started, is_final=True)


def _pods_of(situation: Situation) -> list[PodView]:
    """Return the job's pods by rank, those that are gone too: a last word is in a last body."""
    uid, name = situation.job.metadata.uid, situation.job.metadata.name
    ours = (pod for pod in situation.view.pods if pod.owner_uid == uid)
    found = ((names.parse_training_pod(name, pod.name), pod) for pod in ours)
    ranked = [(numbers[1], pod) for numbers, pod in found if numbers]
    return [pod for _, pod in sorted(ranked, key=lambda each: each[0])]


def _span(attempt: Attempt, end: datetime, running: datetime | None) -> Span:
    return Span(_whole_second(attempt.start_time), _whole_second(end), running)


def _whole_second(moment: datetime) -> datetime:
    return moment.replace(microsecond=0)  # as the status keeps it


def _gpus(situation: Situation, resolved: build.Resolved | None) -> int:
    if resolved is None:
        return 0
    asked = build.resources(situation.spec, resolved)
    return gpus_asked(asked, resolved.gpu_resource) * situation.spec.num_nodes


def _ledger(classes: Seconds, gpus: int, *, idle: float) -> Ledger:
    """Return it as the status has it; `idle`: the GPU seconds that were held while waiting."""
    return _model(
        {
            **classes,
            "useful_gpu_seconds": gpus * classes.get("productive", 0.0),
            "wasted_gpu_seconds": _wasted(classes, gpus) + idle,
        }
    )


def held_for_nothing(classes: Seconds) -> float:
    """Return the seconds in which a whole gang held its GPUs, and got nowhere."""
    unheld = classes.get("waiting", 0.0) + classes.get("productive", 0.0)
    return sum(classes.values()) - unheld


def _wasted(classes: Seconds, gpus: int) -> float:
    """Return the GPU seconds of a whole gang that were worth nothing."""
    return gpus * held_for_nothing(classes)


def _model(fields: Seconds) -> Ledger:
    took = {name: min(spent, _MOST) for name, spent in fields.items() if spent > 0}
    texts = {name: f"{spent:.{_DIGITS}f}" for name, spent in took.items()}
    return Ledger.model_validate(
        {name: text.removesuffix(".0") for name, text in texts.items() if float(text) > 0}
    )


def _read(spent: Spent | None) -> dict[str, float]:
    """Return the classes as numbers."""
    return {name: value for name, value in _fields(spent).items() if name in CLASSES}


def _fields(spent: Spent | None) -> dict[str, float]:
    if spent is None:
        return {}
    return {name: float(text) for name, text in spent.model_dump().items() if text is not None}


def _between(start: datetime, end: datetime) -> float:
    return max(0.0, (end - start).total_seconds())


def _add(sums: dict[str, float], more: Seconds) -> None:
    for name, spent in more.items():
        sums[name] = sums.get(name, 0.0) + spent
