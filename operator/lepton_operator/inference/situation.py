"""What the rules about a service look at: its pods, and what is known about where they stand."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from lepton_operator.api.inference import Revision, Rollout
from lepton_operator.build import serving
from lepton_operator.diagnosis import TRANSIENT, Asked, Diagnosis, PodReason, lost_nodes
from lepton_operator.inference.course import Course
from lepton_operator.inference.draining import Door, Drain, drain
from lepton_operator.inference.fleet import Fleet
from lepton_operator.inference.waiting import explain
from lepton_operator.views import InferenceView, PodView


@dataclass(frozen=True, slots=True)
class Shortage:
    """New pods that find no room, and until when room is waited for.

    `refused`: a quota keeps them from being made at all.
    """

    pods: tuple[PodView, ...] = ()
    refused: bool = False
    until: datetime | None = None
    is_over: bool = False

    @property
    def starved(self) -> bool:
        return bool(self.pods) or self.refused


@dataclass(frozen=True, slots=True)
class Situation:
    """A service at a moment. `trouble`: what is wrong with the wanted revision's pods, if it is
    more than that they still start.
    """

    view: InferenceView
    now: datetime
    course: Course
    fleet: Fleet
    asked: Asked
    revisions: tuple[Revision, ...]
    shortage: Shortage
    drains: tuple[Drain, ...]
    trouble: Diagnosis | None

    @property
    def replicas(self) -> int:
        return self.view.service.spec.replicas

    @property
    def rollout(self) -> Rollout:
        return self.view.service.spec.rollout or Rollout()

    @property
    def updated(self) -> int:
        """Return how many pods of the wanted revision answer."""
        return sum(pod.answers for pod in self.fleet.wanted)

    @property
    def served_version(self) -> int | None:
        """Return the version that ready pods serve: the wanted one as soon as it is among them."""
        return next((each.version for each in self.revisions if each.ready), None)

    @property
    def has_door(self) -> bool:
        """Whether requests can come in by a door."""
        return bool(self._open_doors)

    def is_listened_on(self, port: int) -> bool:
        """Whether there are doors, and every one that gets connections takes them on this port."""
        told = self.view.listening
        return self.has_door and all(port in told.get(pod.uid, ()) for pod in self._open_doors)

    @property
    def _open_doors(self) -> list[PodView]:
        return [pod for pod in self.view.doors if pod.stays_ready]

    @property
    def is_past_doors(self) -> bool:
        """Whether requests reach the pods without a door, as before there were doors."""
        found = self.view.kubernetes_service
        own = serving.selector(self.view.service)
        return found is not None and found.leads_past_doors and found.selector == own

    @property
    def surge_deadline(self) -> datetime | None:
        """Return until when new pods that are not ready, and do not just start, are waited for."""
        patience = timedelta(seconds=self.rollout.surge_timeout_seconds)
        troubled = [pod.created + patience for pod in self._troubled()]
        lacking = [self.shortage.until] if self.shortage.until is not None else []
        return min((*troubled, *lacking), default=None)

    def _troubled(self) -> Iterator[PodView]:
        for pod in self.fleet.current:
            reason = "" if pod.answers else explain(pod, self.asked).reason
            if reason and reason not in TRANSIENT and reason != PodReason.NO_CAPACITY:
                yield pod


def drains(view: InferenceView, pods: Fleet, now: datetime) -> tuple[Drain, ...]:
    """Return how far the draining pods are, by what the doors told."""
    if not pods.draining:
        return ()
    silent = lost_nodes(view.nodes, view.defaults.node_not_ready_seconds)
    lost = {node for node, at in silent.items() if at <= now}
    doors = [Door(pod, pod.node in lost) for pod in view.doors]
    timeout = (view.service.spec.rollout or Rollout()).drain_timeout_seconds
    return tuple(drain(pod, doors, view.traffic, timeout, now) for pod in pods.draining)


def shortage(view: InferenceView, pods: Fleet, asked: Asked, now: datetime) -> Shortage:
    """Return which new pods find no room, and whether that has been waited for long enough."""
    spec, recorded = view.service.spec.rollout or Rollout(), view.service.status.rollout
    waiting = tuple(
        pod
        for pod in pods.current
        if not pod.ready and explain(pod, asked).reason == PodReason.NO_CAPACITY
    )
    refused = any(each.reason == "QuotaExceeded" for each in view.refusals)
    since = min((pod.created for pod in waiting), default=None)
    if since is None and refused:
        since = recorded.since if recorded is not None else now
    if since is None:
        return Shortage()
    patience = 0 if spec.strategy == "Replace" else spec.surge_timeout_seconds
    until = since + timedelta(seconds=patience)
    return Shortage(waiting, refused, until, is_over=now >= until)
