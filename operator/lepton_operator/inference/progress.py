"""What is being done to a service's pods, for what it waits, and how far it is.

It is also what a rollout remembers: from which revision it began, that there was no room for one
more pod, which revision failed. What a pass decides here is acted on by a later one, whose view
holds it: no pod is taken in place before the status has said for how long nothing answers.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import datetime
from typing import Literal

from lepton_operator.api.inference import RolloutStatus
from lepton_operator.conditions import cut
from lepton_operator.inference.draining import clock
from lepton_operator.inference.fleet import serves
from lepton_operator.inference.rollout import Terms
from lepton_operator.inference.situation import Situation
from lepton_operator.views import PodView

DRAINED_GRACE_SECONDS = 2
"""What a pod gets to end that has no requests."""

# What the doors need to tell, a kubelet to end a pod, and the scheduler to place another.
_HANDOVER_SECONDS = 6
_SLOWER_START = 1.5

Phase = Literal["Surging", "Replacing", "Evacuating", "Draining", "RolledBack"]


def terms(situation: Situation) -> Terms:
    """Return what the pods may be moved by: in place only if the status has said so."""
    failed = situation.course.failed
    return Terms(
        starved=situation.shortage.starved,
        in_place=_recorded_phase(situation) == "Replacing",
        failed=failed.name if failed is not None else None,
    )


def progress(situation: Situation) -> RolloutStatus | None:
    """Return what is going on; None if nothing is."""
    phase, revision = _phase(situation), situation.course.wanted
    if phase is None or revision is None:
        return None
    recorded = _recorded(situation)
    is_same_phase = recorded is not None and recorded.phase == phase
    gap = _gap_seconds(situation)
    stamp = situation.now.replace(microsecond=0)
    return RolloutStatus(
        phase=phase,
        from_revision=_from(situation, phase),
        to=revision.name,
        updated=situation.updated,
        total=situation.replicas,
        waiting_for=cut(_waiting_for(situation, phase, gap)),
        since=recorded.since if recorded is not None and is_same_phase else stamp,
        started=recorded.started if recorded is not None else stamp,
        gap_seconds=_held(recorded, phase) if gap is None else gap,
        failed=situation.course.failed,
    )


def _recorded(situation: Situation) -> RolloutStatus | None:
    """Return what the status says of the rollout to this very revision."""
    found, revision = situation.view.service.status.rollout, situation.course.wanted
    same = found is not None and revision is not None and found.to == revision.name
    return found if same else None


def _held(recorded: RolloutStatus | None, phase: Phase) -> int | None:
    """Return the gap that was said: it holds until it is over, though its pod is gone."""
    return recorded.gap_seconds if recorded is not None and phase == "Replacing" else None


def _recorded_phase(situation: Situation) -> Phase | None:
    recorded = _recorded(situation)
    return recorded.phase if recorded is not None else None


def _phase(situation: Situation) -> Phase | None:
    fleet, was = situation.fleet, _recorded_phase(situation)
    under_way = situation.course.previous is not None and situation.updated < situation.replicas
    if fleet.old and (was == "Replacing" or _gives_up(situation)):
        return "Replacing"
    if situation.course.failed is not None:
        return "RolledBack"
    if fleet.old or under_way:
        return "Replacing" if was == "Replacing" else "Surging"
    if fleet.moving:
        return "Evacuating"
    return "Draining" if fleet.draining else None


def _gives_up(situation: Situation) -> bool:
    """Whether room for one more pod is waited for no longer."""
    lack = situation.shortage
    return lack.starved and lack.is_over and situation.rollout.strategy != "Surge"


def _from(situation: Situation, phase: Phase) -> str | None:
    if situation.course.failed is not None:
        return situation.course.failed.name
    return situation.course.previous if phase in ("Surging", "Replacing") else None


def _gap_seconds(situation: Situation) -> int | None:
    """Return how long nothing will answer if the only pod that does goes for a new one.

    As the pod that answers started, half as long again, so long will the new one take.
    """
    fleet, lack = situation.fleet, situation.shortage
    is_possible = fleet.old and lack.starved and situation.rollout.strategy != "Surge"
    if not is_possible or len(fleet.ready) != 1:
        return None
    start = _start_seconds(fleet.ready[0]) * _SLOWER_START
    return math.ceil(start) + DRAINED_GRACE_SECONDS + _HANDOVER_SECONDS


def _start_seconds(pod: PodView) -> float:
    began = pod.scheduled_since or pod.created
    return ((pod.ready_since or began) - began).total_seconds()


def _waiting_for(situation: Situation, phase: Phase, gap: int | None) -> str:
    found = (rule(situation, phase, gap) for rule in _WAITS)
    return next((each for each in found if each is not None), "the next pod to be made")


def _another_word(situation: Situation, phase: Phase, _: int | None) -> str | None:
    failed = situation.course.failed
    if phase != "RolledBack" or failed is None:
        return None
    return f"spec or model to change: version {failed.version} failed ({failed.reason})"


def _requests(situation: Situation, phase: Phase, gap: int | None) -> str | None:
    """In place, and at the end, nothing else goes on while a pod drains."""
    return _in_flight(situation, phase, gap) if phase in ("Replacing", "Draining") else None


def _in_flight(situation: Situation, _: Phase, __: int | None) -> str | None:
    under_way = [each for each in situation.drains if not each.is_over]
    if not under_way:
        return None
    first = min(under_way, key=lambda each: each.pod.name)
    return f"requests in flight to {first.pod.name}, until {clock(first.deadline)} at the latest"


def _room(situation: Situation, phase: Phase, gap: int | None) -> str | None:
    lack = situation.shortage
    if not lack.starved or lack.until is None:
        return None
    pod = lack.pods[0].name if lack.pods else "a new pod, which a quota refuses"
    if phase == "Evacuating":
        return _room_elsewhere(pod, lack.until, is_over=lack.is_over)
    if situation.rollout.strategy == "Surge":
        return f"room for {pod}, as long as it takes"
    if phase == "Replacing":
        return f"an old pod to make room for {pod}{_said(gap)}"
    return f"room for {pod}; without any, at {clock(lack.until)} an old pod goes for it{_said(gap)}"


def _room_elsewhere(pod: str, until: datetime, *, is_over: bool) -> str:
    then = "an eviction may take a pod before another answers in its place"
    since = "meanwhile" if is_over else f"from {clock(until)} on"
    return f"room for {pod} on another node; {since} {then}"


def _said(gap: int | None) -> str:
    return f", and nothing answers for up to about {gap} s" if gap is not None else ""


def _start(situation: Situation, _: Phase, __: int | None) -> str | None:
    pod = next((each for each in situation.fleet.wanted if not each.answers), None)
    if pod is None:
        return None
    return f"{pod.name} to {'answer without errors' if pod.ready else 'become ready'}"


def _route(situation: Situation, _: Phase, __: int | None) -> str | None:
    new = (each for each in situation.fleet.current if not serves(each, situation.now))
    pod = next(new, None)
    return f"the doors to send requests to {pod.name}" if pod is not None else None


_WAITS: tuple[Callable[[Situation, Phase, int | None], str | None], ...] = (
    _another_word,
    _requests,
    _room,
    _start,
    _route,
    _in_flight,
)
