"""What the launchers of a gang do together: decided in one place, from what each of them reports.

Node 0's launcher decides for all: no I/O here, and no clock. A restart has two steps, so that no
rank of the new generation can meet one of the old: first every node stops its ranks and says so,
then all start.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from lepton_launcher.records import Record
from lepton_launcher.slow import OwnTime
from lepton_launcher.stderr import blames_a_peer

if TYPE_CHECKING:
    from lepton_launcher.restarts import Restarts

SILENCE_SECONDS = 10.0
# How long the failure of ranks whose peer is gone waits for the failure of that peer.
_CAUSE_SECONDS = 2.0

_NOTHING: Record = {}

RUNNING = "running"
STUCK = "stuck"  # its ranks wait in collectives beyond their limit
FAILED = "failed"
SUCCEEDED = "succeeded"
IDLE = "idle"  # its ranks have been stopped
LEAVING = "leaving"  # its pod ends, whatever the others do
STATES = (RUNNING, STUCK, FAILED, SUCCEEDED, IDLE, LEAVING)

RUN = "run"
STOP = "stop"
END = "end"  # each ends with what it has
PART = "part"  # somebody cannot be reached: all end their ranks
LEAVE = "leave"  # a pod was asked to leave: all do, with a save if they can
ACTS = (RUN, STOP, END, PART, LEAVE)

# Ranks agree one step ahead: one that reads the request at the end of a step leaves after the next.
_STEPS_TO_AGREE = 2


class Report(NamedTuple):
    """What one node says of its ranks."""

    node: int
    generation: int
    state: str
    record: Record = _NOTHING
    """How they failed, or in what they are stuck."""
    furthest: int = -1
    collectives: int = 0
    own: OwnTime | None = None
    """The own time of its slowest rank."""
    is_asked: bool = False
    """Whether its pod was asked to leave."""
    fastest: int = -1
    """The step of its fastest rank, if all of them save on request."""
    step_seconds: float = 0.0


class Order(NamedTuple):
    """What all nodes are to do with the generation."""

    act: str
    generation: int
    why: str = ""
    stacks: bool = False
    """Whether ranks leave their stacks before they are stopped."""
    silent_node: int = 0
    """Whose launcher cannot be reached, where the act is PART."""
    save_at: int = 0
    """The step to save at, where the act is LEAVE; 0: ranks are asked by a signal."""
    leaver: int = -1
    """Whose pod ends, where the act is END: the others may go on in another attempt. -1: all."""


def save_step(fastest: int, step_seconds: float, reach_seconds: float) -> int:
    """The step to save at, which no rank has ended before all were told; 0 if they cannot save.

    `reach_seconds` is from the moment at which the fastest was seen to that at which all know.
    """
    if fastest < 0:
        return 0
    meanwhile = math.ceil(reach_seconds / step_seconds) if step_seconds > 0 else 0
    return fastest + _STEPS_TO_AGREE + meanwhile


class Coordinator:
    """The decisions for one attempt."""

    def __init__(self, num_nodes: int, restarts: Restarts, reach_seconds: float = 0.0) -> None:
        self.restarts = restarts
        self._reach_seconds = reach_seconds
        self._num_nodes = num_nodes
        self._order = Order(RUN, 0)
        self._reports: dict[int, Report] = {}
        self._heard: dict[int, float] = {}
        self._failed: list[Report] = []
        self._failed_at = 0.0
        self._succeeded_at: float | None = None
        self._start_at = 0.0

    def hear(self, report: Report, now: float) -> None:
        """Take in what a node says; a node that leaves is not missed."""
        before = self._reports.get(report.node)
        self._reports[report.node] = report
        self._heard[report.node] = now
        is_new = before is None or before.state != FAILED or before.generation != report.generation
        if report.state == FAILED and report.generation == self._order.generation and is_new:
            self._failed_at = now if not self._failed else self._failed_at
            self._failed.append(report)

    def heard_since(self, moment: float) -> set[int]:
        """The nodes that said something then or later."""
        return {node for node, at in self._heard.items() if at >= moment}

    def own_times(self, generation: int) -> list[OwnTime]:
        """The own time of each node's slowest rank in this generation, where it is known."""
        reports = (each for each in self._reports.values() if each.generation == generation)
        return [each.own for each in reports if each.own is not None]

    def order(self, now: float) -> Order:
        """The order that holds now."""
        if self._order.act in (RUN, STOP):
            self._decide(now)
        return self._order

    def _decide(self, now: float) -> None:
        silent = [
            node
            for node, at in self._heard.items()
            if now - at > SILENCE_SECONDS and self._reports[node].state != LEAVING
        ]
        if silent:
            why = f"Node {silent[0]}'s launcher was not heard for {SILENCE_SECONDS:.0f} s."
            self._order = Order(PART, self._order.generation, why, silent_node=silent[0])
        elif leaving := [each.node for each in self._reports.values() if each.state == LEAVING]:
            self._change(END, f"Node {leaving[0]} leaves the gang.", leaver=leaving[0])
        elif self._order.act == RUN and any(each.is_asked for each in self._reports.values()):
            self._let_leave()
        elif self._order.act == STOP:
            self._start_when_stopped(now)
        elif self._failed:
            self._judge_failure(now)
        else:
            self._judge_all(now)

    def _let_leave(self) -> None:
        """For good: whoever leaves early has told the others, and is not missed."""
        reports = [each for each in self._reports.values() if self._is_current(each)]
        fastest = [each.fastest for each in reports]
        known = [each.step_seconds for each in reports if each.step_seconds > 0]
        save_at = 0
        if len(reports) == len(self._reports) and min(fastest) >= 0:
            save_at = save_step(max(fastest), min(known, default=0.0), self._reach_seconds)
        why = "A pod of the gang was asked to leave."
        self._order = Order(LEAVE, self._order.generation, why, save_at=save_at)

    def _judge_failure(self, now: float) -> None:
        cause = min(self._failed, key=_is_victim)
        is_early = now - self._failed_at < _CAUSE_SECONDS
        if self.restarts.may_come and is_early and _is_victim(cause):
            return
        self._restart(cause, now)

    def _judge_all(self, now: float) -> None:
        current = [each for each in self._reports.values() if self._is_current(each)]
        if not current or len(current) < len(self._reports):
            return
        if all(each.state == SUCCEEDED for each in current):
            self._end_well(now)
        elif len(current) == self._num_nodes and all(each.state == STUCK for each in current):
            behind = min(current, key=lambda each: (each.collectives, each.node))
            self._restart(behind, now)

    def _end_well(self, now: float) -> None:
        """At once if all have said so; those that were never heard are not waited for."""
        self._succeeded_at = now if self._succeeded_at is None else self._succeeded_at
        is_late = now - self._succeeded_at > SILENCE_SECONDS
        if len(self._reports) == self._num_nodes or is_late:
            self._change(END, "All ranks ended well.")

    def _restart(self, report: Report, now: float) -> None:
        """Start all again, unless that is given up: then the pod of the cause ends."""
        cause = report.record
        if len(self._reports) < self._num_nodes:
            self._change(END, "Not all pods of the gang can be reached.", leaver=report.node)
            return
        # A script may report from rank 0 only.
        known = [each.furthest for each in self._reports.values() if each.furthest >= 0]
        furthest = min(known, default=-1)
        delay = self.restarts.delay_seconds(self._order.generation, cause, furthest)
        why = str(cause.get("message", ""))
        stacks = cause.get("reason") == "Hang"
        if delay is None:
            self._change(END, why, stacks=stacks, leaver=report.node)
            return
        self._start_at = now + delay
        self._change(STOP, why, stacks=stacks)

    def _start_when_stopped(self, now: float) -> None:
        stopped = [
            each for each in self._reports.values() if each.state == IDLE and self._is_current(each)
        ]
        if len(stopped) == self._num_nodes and now >= self._start_at:
            self._failed = []
            self._order = Order(RUN, self._order.generation + 1)

    def _is_current(self, report: Report) -> bool:
        return report.generation == self._order.generation

    def _change(self, act: str, why: str, *, stacks: bool = False, leaver: int = -1) -> None:
        self._order = Order(act, self._order.generation, why, stacks, leaver=leaver)


def _is_victim(report: Report) -> bool:
    return blames_a_peer(str(report.record.get("message", "")))
