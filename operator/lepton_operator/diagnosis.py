"""Why a pod is not ready, in one reason and a sentence that tells a person what to do.

The first rule that finds something wins; the last one always does. Messages hold nothing that
changes while the cause stays the same (no counts, no times), so that a status is not written again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from lepton_operator.api.common import Resources
from lepton_operator.views import ContainerView, NodeView, PodView


class PodReason(StrEnum):
    """What keeps a pod from being ready."""

    NO_CAPACITY = "NoCapacity"
    VOLUME_NOT_READY = "VolumeNotReady"
    IMAGE_ERROR = "ImageError"
    CONTAINER_ERROR = "ContainerError"
    OUT_OF_MEMORY = "OutOfMemory"
    CRASH_LOOP = "CrashLoop"
    EVICTED = "Evicted"
    DRAINING = "Draining"
    STARTING = "Starting"


# On its way: nobody has to do anything but wait.
TRANSIENT = frozenset({PodReason.DRAINING, PodReason.STARTING})

_IMAGE_REASONS = frozenset(
    {
        "ErrImagePull",
        "ImagePullBackOff",
        "InvalidImageName",
        "ErrImageNeverPull",
        "ImageInspectError",
        "RegistryUnavailable",
        "SignatureValidationFailed",
    }
)
_CONTAINER_REASONS = frozenset(
    {"CreateContainerConfigError", "CreateContainerError", "RunContainerError"}
)
_OUT_OF_MEMORY = "OOMKilled"
# The scheduler's words of a node that a pod may not go to, and of one that has no room for it.
_RULED_OUT = ("didn't match Pod's node affinity/selector", "untolerated taint")
_FULL = ("Insufficient", "Too many pods")
# In whatever the scheduler says of a claim that is missing, unbound or being deleted.
_CLAIM = "persistentvolumeclaim"


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """One reason, and a sentence."""

    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Asked:
    """What a pod asks for, and the nodes there are (None where they are not watched)."""

    gpus: int
    gpu_resource: str
    nodes: Sequence[NodeView] | None = None

    @property
    def largest_node_gpus(self) -> int | None:
        """Return the most GPUs that one node has, or None where nodes are not watched."""
        if self.nodes is None:
            return None
        return max((node.gpus for node in self.nodes), default=0)

    @property
    def free(self) -> str:
        """Return how many GPUs are free on nodes that take pods, in words; empty if not known."""
        nodes = [node for node in self.nodes or () if node.ready and not node.is_being_emptied]
        free = [node.free_gpus for node in nodes if node.free_gpus is not None]
        if not free:
            return ""
        total, most = sum(node.gpus for node in nodes), max(free)
        spread = f", at most {most} on one node" if most < sum(free) else ""
        return f"{sum(free)} of {total} are free{spread}, "


def lost_nodes(nodes: Iterable[NodeView] | None, patience_seconds: int) -> dict[str, datetime]:
    """Return when each node that does not answer counts as lost, with all that is on it.

    It may come back, and its pods with it.
    """
    patience = timedelta(seconds=patience_seconds)
    return {
        node.name: node.ready_changed + patience
        for node in nodes or ()
        if not node.ready and node.ready_changed is not None
    }


def gpus_asked(resources: Resources, gpu_resource: str) -> int:
    """Return the GPUs of a container; the API server holds requests and limits equal."""
    asked = str(resources.limits.get(gpu_resource, resources.requests.get(gpu_resource, 0)))
    # The API server refuses a pod that asks for parts of a GPU, in a sentence of its own.
    return int(asked) if asked.isdecimal() else 0


def diagnose(pod: PodView, asked: Asked) -> Diagnosis:
    """Return why this pod is not ready."""
    found = (rule(pod, asked) for rule in RULES)
    return next((each for each in found if each is not None), _starting(pod))


def no_capacity(asked: Asked, scheduler_message: str) -> str:
    """Return the sentence about a pod that no node has room for."""
    gpus, name, largest = asked.gpus, asked.gpu_resource, asked.largest_node_gpus
    said = f" The scheduler says: {scheduler_message}" if scheduler_message else ""
    if _is_placement(scheduler_message):
        return (
            "No node may take this pod: change nodeSelector or tolerations, or add a node that "
            f"they allow.{said}"
        )
    if not gpus:
        return f"No node has room for this pod: add a node, or ask for less.{said}"
    if largest is None:
        advice = f"free some, add a node that has {gpus}, or ask for less"
    elif not largest:
        advice = f"and no node has any: add one that has {gpus}, or ask for none"
    elif largest < gpus:
        advice = f"the largest node has {largest}; ask for at most {largest}, or add a larger node"
    else:
        advice = f"{asked.free}the largest node has {largest}; wait for a free one, or add a node"
    return f"No node has room for this pod: it asks for {gpus} {name}, {advice}.{said}"


def _is_placement(scheduler_message: str) -> bool:
    """Tell whether no node is full: all are ruled out by their labels or taints."""
    ruled_out = any(words in scheduler_message for words in _RULED_OUT)
    return ruled_out and not any(words in scheduler_message for words in _FULL)


def _draining(pod: PodView, _: Asked) -> Diagnosis | None:
    if not pod.deleting:
        return None
    return Diagnosis(PodReason.DRAINING, "The pod is being deleted and finishes what it has begun.")


def _evicted(pod: PodView, _: Asked) -> Diagnosis | None:
    if pod.phase != "Failed" or not (pod.deleted_by_eviction or pod.reason):
        return None
    why = pod.message or pod.reason or "its node needed the room"
    return Diagnosis(PodReason.EVICTED, f"The pod was taken off its node: {why}")


def _unschedulable(pod: PodView, asked: Asked) -> Diagnosis | None:
    if pod.scheduled or not pod.unschedulable_message:
        return None
    return Diagnosis(PodReason.NO_CAPACITY, no_capacity(asked, pod.unschedulable_message))


def _volume_not_ready(pod: PodView, _: Asked) -> Diagnosis | None:
    """A pod whose claim is not there fits on no node, and no further node would help."""
    said = pod.unschedulable_message
    if pod.scheduled or _CLAIM not in said.lower():
        return None
    return Diagnosis(
        PodReason.VOLUME_NOT_READY,
        "A PersistentVolumeClaim of this pod does not exist or has no volume yet: create it, or "
        f"correct its name. The scheduler says: {said}",
    )


def _image_error(pod: PodView, _: Asked) -> Diagnosis | None:
    container = _waiting_for(pod, _IMAGE_REASONS)
    if container is None:
        return None
    # The kubelet alternates between the error and "Back-off ...: ErrImagePull: the error".
    said = container.message.rsplit("ErrImagePull: ", 1)[-1] or container.reason
    return Diagnosis(
        PodReason.IMAGE_ERROR,
        f"The image of container {container.name} cannot be pulled: {said}. Mend its name, the "
        "registry, or imagePullSecrets; it is tried again.",
    )


def _container_error(pod: PodView, _: Asked) -> Diagnosis | None:
    container = _waiting_for(pod, _CONTAINER_REASONS)
    if container is None:
        return None
    return Diagnosis(
        PodReason.CONTAINER_ERROR,
        f"Container {container.name} cannot be started: {container.message or container.reason}. "
        "It is tried again.",
    )


def _out_of_memory(pod: PodView, _: Asked) -> Diagnosis | None:
    container = next((each for each in failing(pod) if _ended_for(each) == _OUT_OF_MEMORY), None)
    if container is None:
        return None
    return Diagnosis(
        PodReason.OUT_OF_MEMORY,
        f"Container {container.name} was killed because it used more memory than its limit; raise "
        "the memory in resources.",
    )


def _crash_loop(pod: PodView, _: Asked) -> Diagnosis | None:
    container = next(iter(failing(pod)), None)
    if container is None:
        return None
    return Diagnosis(
        PodReason.CRASH_LOOP,
        f"Container {container.name} ended {ending(container)} and is started again; its last "
        f"words: {last_line(last_message(container)) or '(none)'}",
    )


def _starting(pod: PodView) -> Diagnosis:
    return Diagnosis(PodReason.STARTING, _stage(pod))


def _stage(pod: PodView) -> str:
    if not pod.scheduled and pod.node is None:
        return "The pod waits for the scheduler."
    running = next((each for each in pod.init_containers if _at_work(each)), None)
    if running is not None:
        return f"The pod runs its init container {running.name}."
    if any(each.state == "running" for each in pod.containers):
        return "The pod runs and is not ready yet."
    return "The containers of the pod are being made."


def _at_work(init_container: ContainerView) -> bool:
    # A sidecar that is ready goes on running beside the containers; it holds up nothing.
    return init_container.state == "running" and not init_container.ready


Rule = Callable[[PodView, Asked], Diagnosis | None]

RULES: tuple[Rule, ...] = (
    _draining,
    _evicted,
    _volume_not_ready,
    _unschedulable,
    _image_error,
    _container_error,
    _out_of_memory,
    _crash_loop,
)


def failing(pod: PodView) -> Iterable[ContainerView]:
    """Return the containers that ended badly and have not been ready since."""
    every = (*pod.init_containers, *pod.containers)
    return [each for each in every if not each.ready and _ended_badly(each)]


def ending(container: ContainerView) -> str:
    """Return how a container ended, e.g. `with exit code 1`."""
    code = container.exit_code if container.state == "terminated" else container.last_exit_code
    if container.state == "terminated" and container.signal:
        return f"by signal {container.signal}"
    return f"with exit code {code}" if code is not None else "unexpectedly"


def last_message(container: ContainerView) -> str:
    """Return the termination message of the container's last run that ended."""
    return container.message if container.state == "terminated" else container.last_message


def last_line(text: str) -> str:
    """Return the last line that says something."""
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")


def _ended_badly(container: ContainerView) -> bool:
    if container.state == "terminated":
        return bool(container.exit_code)
    return container.restarts > 0 and container.last_exit_code != 0


def _ended_for(container: ContainerView) -> str:
    return container.reason if container.state == "terminated" else container.last_reason


def _waiting_for(pod: PodView, reasons: frozenset[str]) -> ContainerView | None:
    every = (*pod.init_containers, *pod.containers)
    return next(
        (each for each in every if each.state == "waiting" and each.reason in reasons), None
    )
