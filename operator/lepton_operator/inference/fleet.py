"""The pods of a service, sorted into what the rules of a rollout look at."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from lepton_operator.build import serving
from lepton_operator.diagnosis import lost_nodes
from lepton_operator.inference.draining import is_draining
from lepton_operator.inference.revisions import revision_of
from lepton_operator.views import InferenceView, NodeView, PodView

# A ready pod gets requests once the doors have it; times of conditions are cut to seconds.
ROUTED_SECONDS = 2


@dataclass(frozen=True, slots=True)
class Fleet:
    """`current`, `moving` and `old` are alive; the rest neither counts nor gets new requests."""

    current: tuple[PodView, ...] = ()
    moving: tuple[PodView, ...] = ()  # like `current`, on a node that is being emptied
    old: tuple[PodView, ...] = ()  # of another revision
    draining: tuple[PodView, ...] = ()  # marked: they finish what they have, and then are deleted
    leaving: tuple[PodView, ...] = ()  # being deleted
    ended: tuple[PodView, ...] = ()  # finished, and nobody has deleted them
    lost: tuple[PodView, ...] = ()  # on a node that stopped answering
    released: tuple[PodView, ...] = ()  # by a person, who changed the labels that bring requests
    due: datetime | None = None  # when a node that is silent now counts as lost

    @property
    def alive(self) -> tuple[PodView, ...]:
        return (*self.current, *self.moving, *self.old)

    @property
    def outgoing(self) -> tuple[PodView, ...]:
        """Return those that another pod is to take the place of."""
        return (*self.moving, *self.old)

    @property
    def wanted(self) -> tuple[PodView, ...]:
        """Return those of the wanted revision, wherever they are."""
        return (*self.current, *self.moving)

    @property
    def ready(self) -> tuple[PodView, ...]:
        return tuple(pod for pod in self.alive if pod.answers)

    def without(self, gone: Iterable[PodView]) -> Fleet:
        """Return the pods that are alive but for these."""
        uids = {pod.uid for pod in gone}
        current, moving, old = (
            tuple(pod for pod in pods if pod.uid not in uids)
            for pods in (self.current, self.moving, self.old)
        )
        return Fleet(current=current, moving=moving, old=old)


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
    ours, released = _parted(found, lambda pod: selector <= pod.labels.items())
    draining, alive = _parted(ours, is_draining)
    wanted, old = _parted(alive, lambda pod: revision in (None, revision_of(pod)))
    emptied = emptied_nodes(view.nodes)
    return Fleet(
        current=tuple(pod for pod in wanted if pod.node not in emptied),
        moving=tuple(pod for pod in wanted if pod.node in emptied),
        old=tuple(old),
        draining=tuple(draining),
        leaving=tuple(leaving),
        ended=tuple(ended),
        lost=tuple(pod for pod in there if pod.uid in lost),
        released=tuple(released),
        due=min((at for uid, at in lost_from.items() if uid not in lost), default=None),
    )


def _parted(
    pods: Iterable[PodView], holds: Callable[[PodView], bool]
) -> tuple[list[PodView], list[PodView]]:
    """Return those of which something holds, and the others."""
    found: tuple[list[PodView], list[PodView]] = ([], [])
    for pod in pods:
        found[not holds(pod)].append(pod)
    return found


def emptied_nodes(nodes: Iterable[NodeView] | None) -> frozenset[str]:
    """Return the names of the nodes that somebody has cordoned, or is about to remove."""
    return frozenset(node.name for node in nodes or () if node.is_being_emptied)


def serves_from(pod: PodView) -> datetime | None:
    """Return when every door sends this pod requests; None if it is not ready, or fails them."""
    if not pod.answers:
        return None
    return (pod.ready_since or pod.created) + timedelta(seconds=ROUTED_SECONDS)


def serves(pod: PodView, now: datetime) -> bool:
    at = serves_from(pod)
    return at is not None and at <= now
