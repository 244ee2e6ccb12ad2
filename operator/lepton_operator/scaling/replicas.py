"""What of a service's pods the law looks at: which serve, and how long the others have started."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from lepton_operator.autoscale.values import Samples
from lepton_operator.inference.draining import is_draining
from lepton_operator.signals.meter import Totals
from lepton_operator.views import PodView

# A start that took longer waited for something else, for a GPU most likely: it foretells nothing.
_LONGEST_STARTUP_SECONDS = 3600.0
# Pods of one service start alike.
_ALIKE = 2.0


@dataclass(frozen=True, slots=True)
class Replicas:
    """`startups_seconds` are of the ready pods that were not known; `known` are those that are now.

    `without_room` has the scheduler's sentence about each pod that no node has room for.
    """

    ready: int
    starting_ages: tuple[float, ...]
    startups_seconds: tuple[float, ...]
    known: frozenset[str]  # by UID
    without_room: tuple[str, ...] = ()


def replicas(pods: Iterable[PodView], known: frozenset[str] | None, now: datetime) -> Replicas:
    """Return the replicas as they stand.

    `known` are UIDs of pods whose start was told; None: nobody has looked before. When a pod was
    ready first is nowhere to be read then: of those that were, only starts that are alike count.
    """
    present = [pod for pod in pods if not (pod.deleting or pod.gone or pod.finished)]
    serving = [pod for pod in present if not is_draining(pod)]
    ready = [pod for pod in serving if pod.ready]
    starting = [pod for pod in serving if not pod.ready]
    new = (_startup_seconds(pod) for pod in ready if pod.uid not in (known or ()))
    startups = [each for each in new if each is not None]
    if known is None:
        longest = _ALIKE * min(startups, default=0.0)
        startups = [each for each in startups if each <= longest]
    there = {pod.uid for pod in present}
    return Replicas(
        ready=len(ready),
        starting_ages=tuple(max(0.0, (now - pod.created).total_seconds()) for pod in starting),
        startups_seconds=tuple(startups),
        known=frozenset({*((known or frozenset()) & there), *(pod.uid for pod in ready)}),
        without_room=tuple(filter(None, (pod.unschedulable_message for pod in starting))),
    )


def _startup_seconds(pod: PodView) -> float | None:
    """Return how long a pod took from its creation; of one that was started again it is not known.

    The kubelet's times have no fractions: a start within a second is taken for one of a second.
    """
    if pod.ready_since is None or any(each.restarts for each in pod.containers):
        return None
    seconds = max(1.0, (pod.ready_since - pod.created).total_seconds())
    return seconds if seconds <= _LONGEST_STARTUP_SECONDS else None


def samples_of(totals: Totals, found: Replicas, desired: int, *, whole: bool = True) -> Samples:
    """Return what the law is told, of what was counted and of the replicas.

    `whole`: every door that may have requests has told what it counted.
    """
    return Samples(
        time=totals.at,
        arrivals=totals.arrivals,
        in_flight=totals.in_flight,
        completions=totals.completions,
        latency_seconds=totals.latency_seconds,
        ready=found.ready,
        starting_ages=found.starting_ages,
        startups_seconds=found.startups_seconds,
        computed=totals.computed if totals.tells_compute else None,
        desired=desired,
        whole=whole,
    )
