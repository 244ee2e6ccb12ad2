"""What follows a generation of ranks: the next one, or the end of the pod."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from lepton_launcher import records
from lepton_launcher.coordinator import (
    END,
    FAILED,
    IDLE,
    LEAVE,
    LEAVING,
    PART,
    RUN,
    STOP,
    SUCCEEDED,
)
from lepton_launcher.gang import Leader
from lepton_launcher.restarts import is_of_ranks

if TYPE_CHECKING:
    from collections.abc import Callable

    from lepton_launcher.coordinator import Order
    from lepton_launcher.gang import Member
    from lepton_launcher.generation import Generation
    from lepton_launcher.processes import Children, Signals
    from lepton_launcher.records import Record
    from lepton_launcher.restarts import Restarts

# A gang that was not reached by then does not decide what follows.
_REACH_SECONDS = 2.0


class OwnSuccession:
    """A pod that decides for itself: it is the only one, or cannot reach the others."""

    def __init__(self, restarts: Restarts, children: Children, signals: Signals) -> None:
        self._restarts = restarts
        self._children = children
        self._signals = signals

    @property
    def told(self) -> list[dict[str, Any]]:
        """The restarts so far."""
        return self._restarts.told

    @property
    def spent(self) -> dict[str, Any]:
        """What the record says of them."""
        return self._restarts.spent

    def end_of(self, generation: Generation, record: Record) -> Record | None:
        """The record to end with; None if another generation follows now."""
        delay = self._restarts.delay_seconds(generation.number, record, generation.furthest)
        if delay is None:
            return record
        latest = time.monotonic() + delay
        self._children.wait_for(lambda: self._signals.asked_to_leave_at, lambda: latest)
        return None if self._signals.asked_to_leave_at is None else record


class GangSuccession:
    """A pod whose gang decides for all: nobody is done before all are."""

    def __init__(self, gang: Leader | Member, children: Children, signals: Signals) -> None:
        self._gang = gang
        self._children = children
        self._signals = signals

    @property
    def told(self) -> list[dict[str, Any]]:
        """The restarts so far, where they are decided."""
        return self._gang.coordinator.restarts.told if isinstance(self._gang, Leader) else []

    @property
    def spent(self) -> dict[str, Any]:
        """What the record says of them, in each pod: any of them may be lost."""
        return self._gang.spent

    def end_of(self, generation: Generation, record: Record) -> Record | None:
        """The record to end with; None if all pods begin another generation now."""
        ended = self._end_of(generation, record)
        if ended is not None:
            # Whoever asks a pod that is gone takes it for a partition.
            latest = time.monotonic() + _REACH_SECONDS
            self._children.wait_for(lambda: self._gang.is_understood() or None, lambda: latest)
        return ended

    def _end_of(self, generation: Generation, record: Record) -> Record | None:
        state = _state_of(generation, record)
        self._gang.tell(generation.report(state, record))
        if state == LEAVING:
            return record
        reached_by = time.monotonic() + _REACH_SECONDS

        def settled() -> Order | None:
            order = self._gang.order()
            if order and order.act == STOP and order.generation == generation.number:
                self._gang.tell(generation.report(IDLE, record))
            return order if order and is_last_word(order, generation.number) else None

        order = self._children.wait_for(settled, self._until(reached_by))
        if order is None:
            self._gang.tell(generation.report(LEAVING, record))
            return record
        if order.act == PART and record["outcome"] != "Succeeded":
            return records.partitioned(order.why, order.silent_node)
        return None if order.act == RUN else record

    def _until(self, reached_by: float) -> Callable[[], float]:
        def latest() -> float:
            if self._signals.asked_to_leave_at is not None:
                return 0.0
            return reached_by if self._gang.order() is None else float("inf")

        return latest


def _state_of(generation: Generation, record: Record) -> str:
    if record["outcome"] == "Succeeded":
        return SUCCEEDED
    if generation.is_stopped:
        return IDLE
    return FAILED if is_of_ranks(record) else LEAVING


def is_last_word(order: Order, number: int) -> bool:
    """Whether a pod whose generation of this number has ended need not wait any more."""
    return order.act in (END, PART, LEAVE) or (order.act == RUN and order.generation > number)
