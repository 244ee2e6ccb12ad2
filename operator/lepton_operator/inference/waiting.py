"""Why a replica is not ready, and what failed last: for the status, in words of serving."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from datetime import datetime

from lepton_operator.api.inference import KEPT_WAITING, LastFailure, Waiting
from lepton_operator.build.serving import FETCH, TRITON
from lepton_operator.conditions import cut
from lepton_operator.diagnosis import (
    TRANSIENT,
    Asked,
    Diagnosis,
    PodReason,
    diagnose,
    ending,
    failing,
    last_line,
    last_message,
)
from lepton_operator.inference.draining import Drain, clock
from lepton_operator.inference.fleet import Fleet
from lepton_operator.inference.reasons import ServingReason
from lepton_operator.records import STORE_REASONS, Reason, parse
from lepton_operator.views import ContainerView, Fault, Fetched, PodView, Refusal

# Triton's log: E1122 04:26:23.3 1 model_lifecycle.cc:642] "failed to load 'digits' version 1: why"
_LOAD_FAILURE = re.compile(r"failed to load '[^'\n]*' version \d+: (?P<why>[^\n]*)")
_NO_MODEL_LOADED = "failed to load all models"
# ONNX Runtime's own line, in colours. Triton 2.51 mostly dies of a warm-up that fails (SIGSEGV)
# before it has said why.
_SEGMENTATION_FAULT = ("by signal 11", "with exit code 139")
_COMPUTATION_FAILURE = re.compile(r"\[E:onnxruntime:[^\]\n]*\] (?P<why>[^\x1b\n]*)")

MAX_WAITING_MESSAGE = 400
# Of what Triton says, so that what to do about it has room too.
LONGEST_START, LONGEST_END = 80, 150

_RELEASED = (
    "The labels of this pod were changed, so that it gets no requests, and another pod takes its "
    "place: delete it, or give it its labels back."
)


def explain(pod: PodView, asked: Asked) -> Diagnosis:
    """Return why this serving pod does not answer."""
    if pod.fault is not None and pod.ready and not pod.deleting:
        return _fault(pod.fault)
    found = diagnose(pod, asked)
    if pod.phase == "Failed" and found.reason not in (PodReason.EVICTED, PodReason.DRAINING):
        return Diagnosis(ServingReason.POD_FAILED, f"The pod failed: {found.message}")
    if found.reason == PodReason.STARTING:
        return _start(pod) or found
    if found.reason != PodReason.CRASH_LOOP:
        return found
    container = next(iter(failing(pod)))
    if container.name == FETCH:
        return _fetch_failure(container)
    return _load_failure(container) or found if container.name == TRITON else found


def _fault(fault: Fault) -> Diagnosis:
    way = (
        "The doors leave it out for a while each time"
        if fault.ejected
        else "It goes on getting requests, because at least half of the pods always do"
    )
    return Diagnosis(
        ServingReason.REQUESTS_FAIL,
        f"The pod is ready, and fails the requests that it gets: since {clock(fault.since)} it "
        f"{fault.what}, and nothing without an error. {way}. Its log says why; delete it if a new "
        "one would do better, or serve another version.",
    )


def _start(pod: PodView) -> Diagnosis | None:
    stopped = _stopped_answering(pod)
    if stopped is not None:
        return Diagnosis(
            ServingReason.NOT_ANSWERING,
            f"The pod was ready, and is not since {clock(stopped)}: its model does not answer the "
            "kubelet's probe. Its log says why; it is started again if Triton itself answers no "
            "more either.",
        )
    if pod.fetched is not None:
        return Diagnosis(ServingReason.STARTING, _fetching(pod.fetched))
    return None


def _stopped_answering(pod: PodView) -> datetime | None:
    """Return since when a pod is not ready whose server has been, since it was started."""
    server, since = pod.container(TRITON), pod.unready_since
    if server is None or server.state != "running" or server.started is None or since is None:
        return None
    return since if since > server.started else None


def _fetching(fetched: Fetched) -> str:
    share = 100 * fetched.done_bytes // max(fetched.total_bytes, 1)
    return (
        f"The pod fetches its model: {fetched.done_bytes} of {fetched.total_bytes} bytes, "
        f"{share} %."
    )


def _fetch_failure(container: ContainerView) -> Diagnosis:
    said = last_message(container)
    record = parse(said)
    words = record.message if record is not None else last_line(said)
    words = words.removesuffix(".").removesuffix("; it is tried again")
    if record is not None and record.reason in STORE_REASONS:
        return Diagnosis(record.reason, f"{words or record.reason}. It is tried again.")
    if record is not None and record.reason is Reason.CANNOT_BATCH:
        return Diagnosis(ServingReason.CANNOT_BATCH, f"{words}.")
    return Diagnosis(
        ServingReason.FETCH_FAILED,
        f"The model could not be fetched (ended {ending(container)}): "
        f"{words or 'it left no message'}. It is tried again.",
    )


def _load_failure(container: ContainerView) -> Diagnosis | None:
    said = last_message(container)
    found = _LOAD_FAILURE.search(said)
    if found is not None:
        why = f"Triton cannot load the model: {_readable(found['why'])}"
    elif _NO_MODEL_LOADED in said:
        why = f"Triton cannot load the model: {_readable(_said_last(said))}"
    elif ending(container) in _SEGMENTATION_FAULT and (found := _COMPUTATION_FAILURE.search(said)):
        why = f"Triton ended {ending(container)} when the model failed: {_readable(found['why'])}"
    else:
        return None
    return Diagnosis(
        ServingReason.MODEL_LOAD_FAILED,
        f"{why}. Serve another version (spec.model.version), or hand over a model that this "
        "Triton loads and that answers zeros of its input shapes.",
    )


def _said_last(said: str) -> str:
    """Return why a model did not load, from a log whose start is cut off.

    A warm-up of a batch says it once a request, in one line; the kubelet keeps the last 2 KiB.
    """
    lines = (line.rstrip('" ') for line in said.splitlines())
    repeated = next((line for line in lines if line.endswith(";")), None)
    return repeated.rstrip("; ").rsplit("; ", 1)[-1] if repeated else last_line(said)


def _readable(why: str) -> str:
    """Return Triton's words: the library says first where it was, and what was wrong last."""
    words = why.replace("\\n", " ").strip('"; .')
    if len(words) <= LONGEST_START + LONGEST_END:
        return words
    return f"{words[:LONGEST_START]}…{words[-LONGEST_END:]}"


def waiting(
    fleet: Fleet, drains: Iterable[Drain], refusals: Iterable[Refusal], asked: Asked
) -> tuple[Waiting, ...]:
    """Return a reason for each replica that is not ready: the new revision's first."""
    entries = (*_of_pods(fleet, asked), *_of_drains(drains), *_of_refusals(refusals))
    return tuple(entries)[:KEPT_WAITING]


def _of_pods(fleet: Fleet, asked: Asked) -> Iterator[Waiting]:
    for pod in fleet.alive:
        if not pod.answers:
            yield _entry(pod.name, explain(pod, asked))
    for pod in fleet.lost:
        message = f"Node {pod.node} does not answer; another pod takes this one's place."
        yield _entry(pod.name, Diagnosis(ServingReason.NODE_LOST, message))
    for pod in fleet.released:
        yield _entry(pod.name, Diagnosis(ServingReason.RELEASED, _RELEASED))
    for pod in (*fleet.leaving, *fleet.ended):
        yield _entry(pod.name, explain(pod, asked))


def _of_drains(drains: Iterable[Drain]) -> Iterator[Waiting]:
    for each in drains:
        yield _entry(each.pod.name, Diagnosis(ServingReason.DRAINING, each.sentence))


def _of_refusals(refusals: Iterable[Refusal]) -> Iterator[Waiting]:
    for each in refusals:
        yield _entry(each.name, Diagnosis(each.reason, each.sentence))


def _entry(pod: str, found: Diagnosis) -> Waiting:
    message = cut(found.message, MAX_WAITING_MESSAGE)
    return Waiting(pod=pod, reason=str(found.reason), message=message)


def trouble(fleet: Fleet, asked: Asked) -> Diagnosis | None:
    """Return what is wrong with the wanted revision, beyond that it still starts."""
    found = (explain(pod, asked) for pod in fleet.wanted if not pod.answers)
    return next((each for each in found if each.reason not in TRANSIENT), None)


def last_failure(fleet: Fleet, recorded: LastFailure | None, asked: Asked) -> LastFailure | None:
    """Return the last failure: of a pod that ended, or of a container that is started again."""
    candidates = [
        each
        for pod in (*fleet.alive, *fleet.draining, *fleet.ended)
        for each in _failures(pod, asked)
    ]
    if recorded is not None:
        candidates.append(recorded)
    return max(candidates, key=lambda each: (each.time, each.pod), default=None)


def _failures(pod: PodView, asked: Asked) -> Iterator[LastFailure]:
    crashed = [container for container in failing(pod) if _ended_at(container) is not None]
    stopped = pod.fault.since if pod.ready and pod.fault else _stopped_answering(pod)
    if pod.phase != "Failed" and not crashed and stopped is None:
        return
    found = explain(pod, asked)
    if found.reason in TRANSIENT:
        return
    times = [at for each in crashed if (at := _ended_at(each)) is not None]
    times += [stopped] if stopped is not None else []
    yield LastFailure(
        pod=pod.name,
        reason=str(found.reason),
        message=cut(found.message),
        # A pod that its node never took has no container that ended.
        time=max(times, default=pod.created).replace(microsecond=0),
    )


def _ended_at(container: ContainerView) -> datetime | None:
    return container.finished if container.state == "terminated" else container.last_finished
