"""How the class of a pod's failure is found: rules in order, the first that holds decides.

The outcome is read from our container's status. A pod that is gone, or is being deleted though its
record still stands open, was lost: we never delete a pod of an open attempt. docs/failures.md
lists these rules; a test holds it to them.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from dataclasses import dataclass, replace

from lepton_operator import records
from lepton_operator.api.training import Cause
from lepton_operator.build import training as build
from lepton_operator.training.evidence import Failure, Suspect
from lepton_operator.training.situation import ended_well, has_ended
from lepton_operator.views import ContainerView, NodeView, PodView, Taint

OUT_OF_MEMORY = "OOMKilled"
STORE_EXIT_CODE = 3  # of agent commands: NoStore or StoreUnavailable
# Reasons of a container whose command was never run; the runtime's own words are its message.
_NOT_STARTED = frozenset({"StartError", "ContainerCannotRun"})
_PREEMPTION = "PreemptionByScheduler"
# The kubelet's own words about a pod that used more storage than it asked for.
_STORAGE = (
    "local ephemeral storage limit",
    "ephemeral local storage usage exceeds",
    "Usage of EmptyDir volume",
)


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule, by the class that it finds; `when` is its row in docs/failures.md."""

    cause: Cause
    when: str
    find: Callable[[Suspect], Failure | None]


def classify(suspect: Suspect) -> Failure | None:
    """Return how this pod failed, by the first rule that holds; None if it did not."""
    found = (rule.find(suspect) for rule in RULES)
    return next((each for each in found if each is not None), None)


def _left_no_record(suspect: Suspect) -> Failure | None:
    awaited = suspect.situation.spec.output is not None and suspect.index == 0
    if not awaited or not ended_well(suspect.pod):
        return None
    if suspect.record is not None and suspect.record.model is not None:
        return None
    message = (
        f"The {suspect.where} exited 0 but left no readable record of its model version, which "
        "is looked for in the store when the next attempt starts."
    )
    container = suspect.pod.container(build.TRAIN)
    if container is None:
        return suspect.failure(Cause.NO_RECORD, message)
    return suspect.end(Cause.NO_RECORD, container, message)


def _saved_and_left(suspect: Suspect) -> Failure | None:
    container, record = suspect.failed_container, suspect.record
    if container is None or record is None or record.reason is not records.Reason.SAVED:
        return None
    if not suspect.is_of_a_gang_that_was_disturbed:
        return None
    failure = suspect.end(Cause.SAVED, container, record.message)
    why = f"A pod of the gang was asked to leave. {record.message}"
    return replace(failure, message=why, last_error_line=None)


def _was_preempted(suspect: Suspect) -> Failure | None:
    if ended_well(suspect.pod) or suspect.pod.disruption != _PREEMPTION:
        return None
    return suspect.failure(
        Cause.PREEMPTED, f"The {suspect.where} was preempted: the scheduler gave its place away."
    )


def _exceeded_its_storage(suspect: Suspect) -> Failure | None:
    pod = suspect.pod
    if pod.reason != "Evicted" or not any(words in pod.message for words in _STORAGE):
        return None
    advice = "Write to a volume, write less, or raise sharedMemory or ephemeral-storage"
    return suspect.failure(
        Cause.STORAGE_EXCEEDED,
        f"The {suspect.where} was ended by its node: {pod.message.rstrip('. ')}. {advice}.",
    )


def _was_evicted(suspect: Suspect) -> Failure | None:
    pod = suspect.pod
    if ended_well(pod) or not (pod.deleted_by_eviction or pod.reason == "Evicted"):
        return None
    why = f": {pod.message}" if pod.message else ""
    return suspect.failure(Cause.EVICTED, f"The {suspect.where} was evicted{why}.")


def _was_lost(suspect: Suspect) -> Failure | None:
    pod = suspect.pod
    if ended_well(pod) or not (pod.gone or pod.deleting):
        return None
    how = "is gone" if pod.gone else "is being deleted"
    return suspect.failure(
        Cause.POD_LOST, f"The {suspect.where} {how}, and not because its ranks failed."
    )


def _was_given_up(suspect: Suspect) -> Failure | None:
    pod = suspect.pod
    if pod.phase != "Failed" or not pod.reason:
        return None
    said = pod.message or pod.reason
    return suspect.failure(Cause.POD_LOST, f"The {suspect.where} was ended by its node: {said}")


def _has_an_invalid_spec(suspect: Suspect) -> Failure | None:
    code, record = _preparation(suspect)
    if not code or record is None or record.reason is not records.Reason.INVALID_SPEC:
        return None
    return suspect.failure(Cause.INVALID_SPEC, record.message)


def _found_no_store(suspect: Suspect) -> Failure | None:
    code, record = _preparation(suspect)
    if code != STORE_EXIT_CODE or _is_unavailable(record):
        return None
    namespace = suspect.situation.job.metadata.namespace
    missing = (
        f"There is no usable Secret lepton-store in namespace {namespace}: "
        "ask who runs the platform for one, or leave out output."
    )
    return suspect.failure(Cause.NO_STORE, (record and record.message) or missing)


def _got_no_answer_from_the_store(suspect: Suspect) -> Failure | None:
    code, record = _preparation(suspect)
    if code != STORE_EXIT_CODE or record is None or not _is_unavailable(record):
        return None
    return suspect.failure(
        Cause.STORE_UNAVAILABLE, record.message or "The object store does not answer."
    )


def _was_not_prepared(suspect: Suspect) -> Failure | None:
    code, record = _preparation(suspect)
    if not code:
        return None
    said = (record and record.message) or "it left no message"
    return suspect.failure(
        Cause.PREPARATION_FAILED, f"The init container of {suspect.where} exited {code}: {said}"
    )


def _preparation(suspect: Suspect) -> tuple[int, records.Record | None]:
    """Return how our init container ended, 0 if it has not, and what it left."""
    container = suspect.pod.container(build.PREPARE)
    if container is None or container.state != "terminated":
        return 0, None
    return container.exit_code or 0, records.parse(container.message)


def _is_unavailable(record: records.Record | None) -> bool:
    return record is not None and record.reason is records.Reason.STORE_UNAVAILABLE


def _ran_out_of_memory(suspect: Suspect) -> Failure | None:
    container = suspect.failed_container
    if container is None or not _tells_of_memory(container, suspect.record):
        return None
    advice = "it used more memory than its limit; raise the memory in resourcesPerNode."
    return suspect.end(Cause.OUT_OF_MEMORY, container, advice)


def _tells_of_memory(container: ContainerView, record: records.Record | None) -> bool:
    """Believe the launcher first: a runtime goes on saying it of ranks that were started again."""
    if record is None:
        return container.reason == OUT_OF_MEMORY
    was_killed = container.reason == OUT_OF_MEMORY and record.signal == signal.SIGKILL
    return was_killed or record.reason is records.Reason.OUT_OF_MEMORY


def _left_no_model(suspect: Suspect) -> Failure | None:
    return _judged_by_rank_0(suspect, records.Reason.NO_MODEL, Cause.NO_MODEL)


def _left_an_invalid_model(suspect: Suspect) -> Failure | None:
    return _judged_by_rank_0(suspect, records.Reason.INVALID_MODEL, Cause.INVALID_MODEL)


def _judged_by_rank_0(suspect: Suspect, reason: records.Reason, cause: Cause) -> Failure | None:
    """Only rank 0 of a job with an output can judge a model; it is a user's error at worst."""
    container, record = suspect.failed_container, suspect.record
    if container is None or record is None or record.reason is not reason:
        return None
    if suspect.index != 0 or suspect.situation.spec.output is None:
        return None
    return suspect.end(cause, container, record.message or "it left no model")


def _could_not_start(suspect: Suspect) -> Failure | None:
    container = suspect.failed_container
    if container is None or container.reason not in _NOT_STARTED:
        return None
    why = (
        f"its container could not be started: {container.message.removesuffix(': unknown')}. "
        "The image must have a python3 in its PATH, 3.9 or later, with torch"
    )
    return suspect.end(Cause.CANNOT_START, container, why)


def _was_on_an_unhealthy_node(suspect: Suspect) -> Failure | None:
    container, node = suspect.failed_container, suspect.node
    why = _what_ails(suspect, node) if container is not None and node is not None else None
    if container is None or why is None:
        return None
    said = f" Its own last words: {suspect.record.message}" if suspect.record else ""
    return suspect.end(Cause.NODE_UNHEALTHY, container, f"{why}.{said}")


def _what_ails(suspect: Suspect, node: NodeView) -> str | None:
    """Return what came over a node since this pod is there; what stood there before is no evidence.

    No pod is placed on a node that is cordoned or has a taint that the pod does not tolerate, so
    these came later; of other conditions the time is known.
    """
    if not node.ready:
        return f"node {node.name} does not answer"
    taint = next((each for each in node.taints if not _tolerates(suspect.pod, each)), None)
    if taint is not None:
        return f"node {node.name} was given the taint {taint.key}:{taint.effect}"
    if not node.schedulable:
        return f"node {node.name} was cordoned"
    began = suspect.pod.created
    fault = next((each for each in node.faults if each.since >= began), None)
    return f"node {node.name} says {fault.type}: {fault.message}" if fault else None


def _tolerates(pod: PodView, taint: Taint) -> bool:
    return any(each.covers(taint) for each in pod.tolerations)


def _names_its_gpu(suspect: Suspect) -> Failure | None:
    return _by_its_own_words(suspect, records.Sign.GPU_ERROR, Cause.GPU_ERROR)


def _names_its_network(suspect: Suspect) -> Failure | None:
    return _by_its_own_words(suspect, records.Sign.NETWORK_ERROR, Cause.NETWORK_ERROR)


def _blames_a_peer(suspect: Suspect) -> Failure | None:
    return _by_its_own_words(suspect, records.Sign.PEER_LOST, Cause.PEER_LOST)


def _by_its_own_words(suspect: Suspect, sign: records.Sign, cause: Cause) -> Failure | None:
    container, record = suspect.failed_container, suspect.record
    if container is None or record is None or not suspect.said(sign):
        return None
    return suspect.end(cause, container, record.message or f"its log tells of a {sign}")


def _hung(suspect: Suspect) -> Failure | None:
    container, record = suspect.failed_container, suspect.record
    if container is None or record is None or record.reason is not records.Reason.HANG:
        return None
    return suspect.end(Cause.HANG, container, record.message or "it made no progress.")


def _lost_its_gang(suspect: Suspect) -> Failure | None:
    container, record = suspect.failed_container, suspect.record
    if container is None or record is None or record.reason is not records.Reason.PARTITIONED:
        return None
    silent = suspect.gang.pods.get(-1 if record.silent_node is None else record.silent_node)
    if silent is None or suspect.situation.spec.num_nodes == 1:
        return None
    where = f"pod {silent.name}" + (f" on node {silent.node}" if silent.node else "")
    why = f"{record.message or 'it lost its gang.'} It was {where} that was not heard."
    failure = suspect.end(Cause.PARTITIONED, container, why)
    return replace(failure, node=silent.node)


def _was_asked_to_leave(suspect: Suspect) -> Failure | None:
    container, record = suspect.failed_container, suspect.record
    left = (records.Reason.TERMINATED, records.Reason.SAVED)
    if container is None or record is None or record.reason not in left:
        return None
    return suspect.end(Cause.TERMINATED, container, record.message or "it was asked to leave.")


def _left_no_message(suspect: Suspect) -> Failure | None:
    container = suspect.failed_container
    if container is None or suspect.record is not None:
        return None
    why = (
        "it left no message, so the launcher itself was ended: by the kernel for want of memory "
        f"on the node, or by hand; see kubectl logs {suspect.pod.name}."
    )
    return suspect.end(Cause.NO_MESSAGE, container, why)


def _failed(suspect: Suspect) -> Failure | None:
    container, record = suspect.failed_container, suspect.record
    if container is None or record is None:
        return None
    why = record.message or f"it left no message; see kubectl logs {suspect.pod.name}."
    return suspect.end(Cause.USER_ERROR, container, why)


def _ended_unexplained(suspect: Suspect) -> Failure | None:
    if suspect.pod.phase != "Failed":
        return None
    return suspect.failure(
        Cause.POD_LOST, f"The {suspect.where} ended, and its container's status does not say how."
    )


def _node_is_silent(suspect: Suspect) -> Failure | None:
    pod = suspect.pod
    until = None if has_ended(pod) else suspect.silent_until
    if until is None or until > suspect.situation.now:
        return None
    seconds = suspect.situation.view.defaults.node_not_ready_seconds
    silent = suspect.failure(
        Cause.NODE_NOT_READY,
        f"Node {pod.node} of pod {pod.name} has not been Ready for {seconds} s.",
    )
    return replace(silent, began=suspect.node.ready_changed if suspect.node else None)


RULES: tuple[Rule, ...] = (
    Rule(
        Cause.NO_RECORD,
        "exit code 0 of rank 0, `output` is set, and no readable record of a version",
        _left_no_record,
    ),
    Rule(
        Cause.SAVED,
        "the pod's message: its ranks saved at one step and left, since a pod of the gang was "
        "asked to leave (it is deleted, evicted or preempted, or its node shuts down)",
        _saved_and_left,
    ),
    Rule(
        Cause.PREEMPTED,
        "the pod's condition DisruptionTarget with the reason PreemptionByScheduler",
        _was_preempted,
    ),
    Rule(
        Cause.STORAGE_EXCEEDED,
        "the pod's reason Evicted, where the kubelet names a limit of the pod's own storage",
        _exceeded_its_storage,
    ),
    Rule(
        Cause.EVICTED,
        "the pod's reason Evicted, or its condition DisruptionTarget (drain, taint, node "
        "pressure, shutdown)",
        _was_evicted,
    ),
    Rule(Cause.POD_LOST, "the pod is gone or is being deleted, and not by the operator", _was_lost),
    Rule(
        Cause.POD_LOST,
        "the pod Failed with a reason of its node's (UnexpectedAdmissionError, NodeShutdown)",
        _was_given_up,
    ),
    Rule(
        Cause.INVALID_SPEC,
        "our init container: a `messagePattern` is no regular expression",
        _has_an_invalid_spec,
    ),
    Rule(Cause.NO_STORE, "our init container, exit code 3: no usable Secret", _found_no_store),
    Rule(
        Cause.STORE_UNAVAILABLE,
        "our init container, exit code 3: the object store does not answer",
        _got_no_answer_from_the_store,
    ),
    Rule(Cause.PREPARATION_FAILED, "our init container, any other exit code", _was_not_prepared),
    Rule(
        Cause.OUT_OF_MEMORY,
        "the pod's message: the kernel ended the rank for its memory; or the container's reason "
        "OOMKilled, if the message tells of no other end (on cgroup v2 the launcher goes with its "
        "ranks, and there is none)",
        _ran_out_of_memory,
    ),
    Rule(
        Cause.NO_MODEL, "rank 0's message, `output` is set: there is no model.onnx", _left_no_model
    ),
    Rule(
        Cause.INVALID_MODEL,
        "rank 0's message, `output` is set: its model cannot be loaded",
        _left_an_invalid_model,
    ),
    Rule(
        Cause.CANNOT_START,
        "the container's reason StartError or ContainerCannotRun: no python3 in the image",
        _could_not_start,
    ),
    Rule(
        Cause.NODE_UNHEALTHY,
        "the container failed, and since the pod is there its node was cordoned, got a taint "
        "that the pod does not tolerate, is not Ready, or has a condition that tells of a fault "
        "(an Xid error)",
        _was_on_an_unhealthy_node,
    ),
    Rule(
        Cause.GPU_ERROR,
        "the pod's log tells of a broken GPU: Xid, ECC, NVLink, a GPU that fell off the bus",
        _names_its_gpu,
    ),
    Rule(
        Cause.NETWORK_ERROR,
        "the pod's log tells of a broken network: NCCL's system errors, InfiniBand",
        _names_its_network,
    ),
    Rule(
        Cause.PEER_LOST,
        "the pod's last error line says that a peer's connection broke",
        _blames_a_peer,
    ),
    Rule(
        Cause.HANG,
        "the pod's message: its ranks made no progress within their limit, and were ended",
        _hung,
    ),
    Rule(
        Cause.PARTITIONED,
        "the pod's message: the launchers of the gang lost each other",
        _lost_its_gang,
    ),
    Rule(
        Cause.TERMINATED,
        "the pod's message: it was sent SIGTERM, and nobody deletes or evicts it",
        _was_asked_to_leave,
    ),
    Rule(
        Cause.NO_MESSAGE,
        "the container failed without a readable message (the launcher was killed too)",
        _left_no_message,
    ),
    Rule(Cause.USER_ERROR, "the container failed: any other exit code or signal", _failed),
    Rule(
        Cause.POD_LOST,
        "the pod Failed, and no container's status says how",
        _ended_unexplained,
    ),
    Rule(
        Cause.NODE_NOT_READY,
        "the node has not been Ready for 30 s (a chart value), the pod has not ended, and rank 0 "
        "does not tell that the ranks go on",
        _node_is_silent,
    ),
)
