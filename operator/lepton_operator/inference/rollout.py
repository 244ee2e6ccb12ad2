"""Which pods go, which come back, and how many to make, so that no request finds nobody.

The new revision is surged by one pod over `replicas`. A pod that serves goes only while at least
`replicas` others serve, or, in place, one at a time for a new pod that waits for its room; one that
does not is deleted when there are more pods than are needed besides the new ones that still start.
A new revision that does not become ready so leaves the old one serving. A pod on a node that is
being emptied is replaced elsewhere in the same way, but never in place: it answers until somebody
evicts it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from lepton_operator.inference.fleet import Fleet, serves, serves_from
from lepton_operator.inference.revisions import revision_of
from lepton_operator.views import PodView

SURGE = 1


@dataclass(frozen=True, slots=True)
class Doomed:
    """A pod that goes, and why."""

    pod: PodView
    because: str


@dataclass(frozen=True, slots=True)
class Terms:
    """What a rollout may do. `starved`: a new pod finds no room; `in_place`: an old one may go for
    it, which the status has said; `failed`: the revision that was given up.
    """

    starved: bool = False
    in_place: bool = False
    failed: str | None = None


@dataclass(frozen=True, slots=True)
class Moves:
    """What to do with the pods now. `due` is when a new pod will serve.

    Those to `drain` are marked, and deleted when they have finished what they had.
    """

    delete: tuple[Doomed, ...] = ()
    drain: tuple[Doomed, ...] = ()
    restore: tuple[PodView, ...] = ()
    create: int = 0
    due: datetime | None = None


def moves(
    fleet: Fleet,
    replicas: int,
    now: datetime,
    terms: Terms = Terms(),
    restorable: Sequence[PodView] = (),
) -> Moves:
    """Return what to do now; `restorable` are draining pods that could as well stay."""
    replaced = _replaced(fleet, replicas, now, terms)
    left = fleet.without(each.pod for each in replaced)
    limit = replicas + (SURGE if left.outgoing else 0)
    doomed = [*replaced, *_surplus(left, len(left.alive) - limit, now)]
    left = fleet.without(each.pod for each in doomed)
    drain = tuple(each for each in doomed if each.pod.ready)
    restore = tuple(restorable[: max(replicas - len(left.alive), 0)])
    there = len(left.alive) + len(restore)
    # Pods that drain keep their room, so that a rollout never takes more than one GPU more.
    room = limit - there - len(drain) - (len(fleet.draining) - len(restore))
    missing = min(replicas - len(left.current) - len(restore), room)
    return Moves(
        delete=tuple(each for each in doomed if not each.pod.ready),
        drain=drain,
        restore=restore,
        create=max(missing, replicas - there, 0),
        due=_due(fleet, now) if left.outgoing else None,
    )


def _replaced(fleet: Fleet, replicas: int, now: datetime, terms: Terms) -> list[Doomed]:
    """Return pods of old revisions, and of nodes being emptied, that the service can spare."""
    candidates = _first_to_go(fleet, fleet.outgoing, now)
    starting = sum(not serves(pod, now) for pod in fleet.current)
    unneeded = max(len(fleet.alive) - replicas - starting, 0)
    # A pod that serves nothing may hold the room that a new one waits for.
    room = int(terms.starved and not (fleet.leaving or fleet.draining))
    unanswering = [pod for pod in candidates if not pod.answers]
    failed = [pod for pod in unanswering if revision_of(pod) == terms.failed]
    others = [pod for pod in unanswering if revision_of(pod) != terms.failed]
    idle = others[: max(unneeded - len(failed), room)]
    spare = max(sum(serves(pod, now) for pod in fleet.alive) - replicas, 0)
    serving = [pod for pod in candidates if serves(pod, now)][:spare]
    what = {
        **{pod.uid: "on a node that is being emptied" for pod in fleet.moving},
        **{pod.uid: "of an old revision" for pod in fleet.old},
    }
    return [
        *(Doomed(pod, "its revision was given up") for pod in failed),
        *(Doomed(pod, f"it is {what[pod.uid]} and does not answer") for pod in idle),
        *(Doomed(pod, f"it is {what[pod.uid]}, and enough others serve") for pod in serving),
        *([] if idle or failed or serving else _in_place(fleet, now, terms)),
    ]


def _in_place(fleet: Fleet, now: datetime, terms: Terms) -> list[Doomed]:
    """Return one old pod that goes for a new one that waits.

    Not while room is on its way already, or while a new pod that has some does not serve yet.
    """
    unproven = any(pod.scheduled and not serves(pod, now) for pod in fleet.current)
    if not (terms.starved and terms.in_place) or fleet.draining or fleet.leaving or unproven:
        return []
    chosen = _first_to_go(fleet, fleet.old, now)[:1]
    return [Doomed(pod, "a new pod waits for its room") for pod in chosen]


def _surplus(fleet: Fleet, count: int, now: datetime) -> list[Doomed]:
    """Return the pods that are too many."""
    chosen = _first_to_go(fleet, fleet.alive, now)[: max(count, 0)]
    return [Doomed(pod, "there are more pods than replicas") for pod in chosen]


def _first_to_go(fleet: Fleet, pods: Iterable[PodView], now: datetime) -> list[PodView]:
    """Return the pods: first those that serve nothing, then the old revision, then the youngest."""
    current = {pod.uid for pod in fleet.current}

    def worth(pod: PodView) -> tuple[bool, bool, bool, float]:
        return serves(pod, now), pod.ready, pod.uid in current, -pod.created.timestamp()

    by_index = sorted(pods, key=lambda pod: (len(pod.name), pod.name), reverse=True)
    return sorted(by_index, key=worth)


def _due(fleet: Fleet, now: datetime) -> datetime | None:
    times = (serves_from(pod) for pod in fleet.alive)
    return min((at for at in times if at is not None and at > now), default=None)
