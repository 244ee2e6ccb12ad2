"""When a pod that gets no new requests has finished those that it had.

The mark is an annotation, which the doors read as DRAINING; a pod that has it is deleted once every
door told, after that time, that nothing is in flight to it, or when its time is over.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import NamedTuple

from lepton_operator import names
from lepton_operator.views import DoorTold, PodView

LOST_DOOR_SECONDS = 10
"""So long a door is asked whose node does not answer: it may be cut off from the operator only."""


class Door(NamedTuple):
    """A pod of the door; `is_lost`: its node does not answer."""

    pod: PodView
    is_lost: bool = False


@dataclass(frozen=True, slots=True)
class Drain:
    """How far a pod is. `open`: the requests that the doors told last, None if none told.

    `is_marked`: the mark is a time; somebody may have written something else.
    """

    pod: PodView
    is_marked: bool
    is_over: bool
    open: int | None
    deadline: datetime
    due: datetime

    @property
    def is_cut(self) -> bool:
        """Whether the pod goes although it may have requests."""
        return self.is_over and self.open != 0

    @property
    def sentence(self) -> str:
        if self.open is None:
            what = "the doors have not told yet whether it has requests"
        else:
            requests = "1 request is" if self.open == 1 else f"{self.open} requests are"
            what = f"{requests} in flight"
        return (
            f"The pod gets no new requests; {what}. What is left at {clock(self.deadline)} is cut."
        )


def is_draining(pod: PodView) -> bool:
    return names.DRAINING in pod.annotations


def draining_since(pod: PodView) -> datetime | None:
    """Return since when a pod is marked; None if its mark is no time."""
    try:
        since = datetime.fromisoformat(pod.annotations.get(names.DRAINING, ""))
    except ValueError:
        return None
    return since if since.tzinfo is not None else None


def mark(now: datetime) -> str:
    """Return the value of the annotation."""
    return now.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def takes_requests(door: PodView) -> bool:
    """Whether a door may have requests: also one that ends, or is not ready."""
    runs = any(each.state == "running" for each in door.containers)
    return door.phase == "Running" and runs and bool(door.ip) and not door.gone


def has_drained(pod: PodView, doors: Iterable[PodView], traffic: Mapping[str, DoorTold]) -> bool:
    """Whether every door told, since the mark, that it sends the pod nothing and awaits nothing."""
    since = draining_since(pod)
    told = [traffic.get(door.uid) for door in doors if takes_requests(door)]
    return since is not None and all(
        each is not None and each.asked >= since and each.in_flight.get(pod.ip or "") == 0
        for each in told
    )


def drain(
    pod: PodView,
    doors: Iterable[Door],
    traffic: Mapping[str, DoorTold],
    seconds: int,
    now: datetime,
) -> Drain:
    """Return how far this pod is; it has so many seconds."""
    since = draining_since(pod)
    deadline = (since or now) + timedelta(seconds=seconds)
    patience_ends = (since or now) + timedelta(seconds=LOST_DOOR_SECONDS)
    every = list(doors)
    silent = [each for each in every if each.is_lost and not _has_told(each.pod, since, traffic)]
    awaited = [each.pod for each in every if each not in silent or now < patience_ends]
    is_done = has_drained(pod, awaited, traffic)
    told = [each.in_flight.get(pod.ip or "") for each in traffic.values()]
    known = [count for count in told if count is not None]
    return Drain(
        pod=pod,
        is_marked=since is not None,
        is_over=is_done or (since is not None and now >= deadline),
        open=0 if is_done else sum(known) if known else None,
        deadline=deadline,
        due=min(deadline, patience_ends) if silent and now < patience_ends else deadline,
    )


def _has_told(door: PodView, since: datetime | None, traffic: Mapping[str, DoorTold]) -> bool:
    told = traffic.get(door.uid)
    return told is not None and since is not None and told.asked >= since


def clock(moment: datetime) -> str:
    return moment.strftime("%H:%M:%S UTC")
