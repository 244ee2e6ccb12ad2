"""The pods of a service, sorted into what the rules of a rollout look at."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from lepton_operator.build import serving
from lepton_operator.diagnosis import lost_nodes
from lepton_operator.inference.revisions import revision_of
from lepton_operator.views import InferenceView, PodView

# A ready pod gets requests once every kube-proxy has it; times of conditions are cut to seconds.
ENDPOINTS_SECONDS = 3


@dataclass(frozen=True, slots=True)
class Fleet:
    """`current` and `old` (another revision) are alive; the rest neither counts nor serves."""

    current: tuple[PodView, ...] = ()
    old: tuple[PodView, ...] = ()
    leaving: tuple[PodView, ...] = ()  # being deleted
    ended: tuple[PodView, ...] = ()  # finished, and nobody has deleted them
    lost: tuple[PodView, ...] = ()  # on a node that stopped answering
    released: tuple[PodView, ...] = ()  # by a person, who changed the labels that bring requests
    due: datetime | None = None  # when a node that is silent now counts as lost

    @property
    def alive(self) -> tuple[PodView, ...]:
        return (*self.current, *self.old)

    @property
    def ready(self) -> tuple[PodView, ...]:
        return tuple(pod for pod in self.alive if pod.ready)


def fleet(view: InferenceView, revision: str | None, now: datetime) -> Fleet:
    """Sort the pods. Without a wanted revision none of them is old: nothing is to replace them."""
    present = sorted((pod for pod in view.pods if not pod.gone), key=lambda pod: pod.name)
    leaving = [pod for pod in present if pod.deleting]
    ended = [pod for pod in present if pod.finished and not pod.deleting]
    there = [pod for pod in present if not (pod.deleting or pod.finished)]
    silent = lost_nodes(view.nodes, view.defaults.node_not_ready_seconds)
    lost_from = {pod.uid: silent[pod.node] for pod in there if pod.node and pod.node in silent}
    lost = {uid for uid, at in lost_from.items() if at <= now}
    selector = serving.selector(view.service).items()
    found = [pod for pod in there if pod.uid not in lost]
    alive = [pod for pod in found if selector <= pod.labels.items()]
    return Fleet(
        current=tuple(pod for pod in alive if revision in (None, revision_of(pod))),
        old=tuple(pod for pod in alive if revision not in (None, revision_of(pod))),
        leaving=tuple(leaving),
        ended=tuple(ended),
        lost=tuple(pod for pod in there if pod.uid in lost),
        released=tuple(pod for pod in found if pod not in alive),
        due=min((at for uid, at in lost_from.items() if uid not in lost), default=None),
    )


def serves_from(pod: PodView) -> datetime | None:
    """Return when this pod gets requests from every node; None if it is not ready."""
    if not pod.ready:
        return None
    return (pod.ready_since or pod.created) + timedelta(seconds=ENDPOINTS_SECONDS)


def serves(pod: PodView, now: datetime) -> bool:
    at = serves_from(pod)
    return at is not None and at <= now
