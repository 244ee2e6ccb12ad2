"""What of a service's pods the law looks at: which serve, and how long the others have started."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from lepton_operator.autoscale.values import Samples
from lepton_operator.inference.draining import is_draining
from lepton_operator.signals.meter import Totals
from lepton_operator.views import PodView


@dataclass(frozen=True, slots=True)
class Replicas:
    """`startups_seconds` are of the ready pods that were not known."""

    ready: int
    starting_ages: tuple[float, ...]
    startups_seconds: tuple[float, ...]
    ready_uids: frozenset[str]


def replicas(pods: Iterable[PodView], known: frozenset[str], now: datetime) -> Replicas:
    """Return the replicas as they stand; `known` are UIDs of ready pods."""
    serving = [pod for pod in pods if not (pod.deleting or pod.gone or pod.finished)]
    serving = [pod for pod in serving if not is_draining(pod)]
    ready = [pod for pod in serving if pod.ready]
    ages = ((now - pod.created).total_seconds() for pod in serving if not pod.ready)
    new = (pod for pod in ready if pod.uid not in known)
    return Replicas(
        ready=len(ready),
        starting_ages=tuple(max(0.0, age) for age in ages),
        startups_seconds=tuple(seconds for pod in new if (seconds := _startup_seconds(pod))),
        ready_uids=frozenset(pod.uid for pod in ready),
    )


def _startup_seconds(pod: PodView) -> float | None:
    """Return how long a pod took from its creation; of one that was started again it is not known.

    The kubelet's times have no fractions: a start within a second is taken for one of a second.
    """
    if pod.ready_since is None or any(each.restarts for each in pod.containers):
        return None
    return max(1.0, (pod.ready_since - pod.created).total_seconds())


def samples_of(totals: Totals, found: Replicas, desired: int) -> Samples:
    """Return what the law is told, of what was counted and of the replicas."""
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
        compute_seconds=totals.compute_seconds,
        batches=totals.batches,
        desired=desired,
    )
