"""Which pods to delete and how many to make, so that no request finds nobody.

The new revision is surged by one pod over `replicas`. A pod that serves is deleted only while at
least `replicas` others serve; one that does not is deleted when there are more pods than are needed
besides the new ones that still start. A new revision that does not become ready so leaves the old
one serving.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from lepton_operator.inference.fleet import Fleet, serves, serves_from
from lepton_operator.views import PodView

SURGE = 1


@dataclass(frozen=True, slots=True)
class Doomed:
    """A pod to delete, and why."""

    pod: PodView
    because: str


@dataclass(frozen=True, slots=True)
class Moves:
    """What to do with the pods now. `due` is when a new pod will serve."""

    delete: tuple[Doomed, ...] = ()
    create: int = 0
    due: datetime | None = None


def moves(fleet: Fleet, replicas: int, now: datetime, *, starved: bool) -> Moves:
    """Return what to do now; `starved`: a new pod finds no room on the nodes."""
    replaced = _replaced(fleet, replicas, now, starved=starved)
    left = _without(fleet, replaced)
    limit = replicas + (SURGE if left.old else 0)
    surplus = _surplus(left, len(left.alive) - limit, now)
    left = _without(left, surplus)
    missing = min(replicas - len(left.current), limit - len(left.alive))
    return Moves(
        delete=(*replaced, *surplus),
        create=max(missing, 0),
        due=_due(fleet, now) if left.old else None,
    )


def _replaced(fleet: Fleet, replicas: int, now: datetime, *, starved: bool) -> list[Doomed]:
    """Return pods of old revisions that the service can do without."""
    candidates = _first_to_go(fleet, fleet.old, now)
    starting = sum(not serves(pod, now) for pod in fleet.current)
    unneeded = max(len(fleet.alive) - replicas - starting, 0)
    # A pod that serves nothing may hold the room that a new one waits for.
    room = int(starved and not fleet.leaving)
    idle = [pod for pod in candidates if not pod.ready][: max(unneeded, room)]
    spare = max(sum(serves(pod, now) for pod in fleet.alive) - replicas, 0)
    serving = [pod for pod in candidates if serves(pod, now)][:spare]
    return [
        *(Doomed(pod, "it is of an old revision and not ready") for pod in idle),
        *(Doomed(pod, "it is of an old revision, and enough others serve") for pod in serving),
    ]


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


def _without(fleet: Fleet, doomed: Iterable[Doomed]) -> Fleet:
    gone = {each.pod.uid for each in doomed}
    return Fleet(
        current=tuple(pod for pod in fleet.current if pod.uid not in gone),
        old=tuple(pod for pod in fleet.old if pod.uid not in gone),
    )


def _due(fleet: Fleet, now: datetime) -> datetime | None:
    times = (serves_from(pod) for pod in fleet.alive)
    return min((at for at in times if at is not None and at > now), default=None)
