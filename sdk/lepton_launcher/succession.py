"""What follows a generation of ranks: the next one, another attempt, or the end of the pod."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, NamedTuple

from lepton_launcher import records
from lepton_launcher.coordinator import (
    END,
    FAILED,
    IDLE,
    LEAVE,
    LEAVING,
    PART,
    RUN,
    SILENCE_SECONDS,
    STOP,
    SUCCEEDED,
)
from lepton_launcher.gang import Leader
from lepton_launcher.restarts import is_of_ranks
from lepton_launcher.stderr import blames_a_peer

if TYPE_CHECKING:
    from collections.abc import Callable

    from lepton_launcher.coordinator import Order
    from lepton_launcher.gang import Member
    from lepton_launcher.generation import Generation, Pod
    from lepton_launcher.processes import Children, Signals
    from lepton_launcher.records import Record
    from lepton_launcher.restarts import Restarts

# A gang that was not reached by then does not decide what follows.
_REACH_SECONDS = 2.0


class Loss(NamedTuple):
    """A node that the gang lost, why, and for how long it had not been heard."""

    node: int
    why: str
    seconds: float = 0.0


class Ended(NamedTuple):
    """The end of an attempt for this pod, by this record."""

    record: Record
    waits: bool = False
    """Whether the pod goes on in the attempt that the operator tells of next."""
    loss: Loss | None = None


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

    def end_of(self, generation: Generation, record: Record) -> Ended | None:
        """How the attempt ends; None if another generation follows now."""
        delay = self._restarts.delay_seconds(generation.number, record, generation.furthest)
        if delay is None:
            return Ended(record)
        latest = time.monotonic() + delay
        self._children.wait_for(lambda: self._signals.asked_to_leave_at, lambda: latest)
        return None if self._signals.asked_to_leave_at is None else Ended(record)


class GangSuccession:
    """A pod whose gang decides for all: nobody is done before all are."""

    def __init__(self, gang: Leader | Member, pod: Pod) -> None:
        self._gang = gang
        self._pod = pod

    @property
    def told(self) -> list[dict[str, Any]]:
        """The restarts so far, where they are decided."""
        return self._gang.coordinator.restarts.told if isinstance(self._gang, Leader) else []

    @property
    def spent(self) -> dict[str, Any]:
        """What the record says of them, in each pod: any of them may be lost."""
        return self._gang.spent

    def end_of(self, generation: Generation, record: Record) -> Ended | None:
        """How the attempt ends; None if all pods begin another generation now."""
        ended = self._end_of(generation, record)
        if ended is not None and not ended.waits:
            # Whoever asks a pod that is gone takes it for a partition.
            latest = time.monotonic() + _REACH_SECONDS
            understood = lambda: self._gang.is_understood() or None  # noqa: E731
            self._pod.children.wait_for(understood, lambda: latest)
        return ended

    def _end_of(self, generation: Generation, record: Record) -> Ended | None:
        if generation.order is not None and generation.order.act == PART:
            self._gang.tell(generation.report(LEAVING, record))
            return Ended(record, waits=True, loss=_unheard(generation.order))
        state = _state_of(generation, record)
        if state == IDLE and self._is_asked():
            state = LEAVING  # so that no pod starts ranks of another generation for nothing
        self._gang.tell(generation.report(state, record))
        if state == LEAVING:
            return Ended(record, waits=self._left_for_others(record))
        order = self._settled_order(generation, record)
        if order is not None and not (order.act == RUN and self._is_asked()):
            return self._obey(order, generation, record)
        if self._pod.is_superseded:
            return Ended(record, waits=True)
        self._gang.tell(generation.report(LEAVING, record))
        return Ended(record)

    def _settled_order(self, generation: Generation, record: Record) -> Order | None:
        """What the gang decides about these ranks; None if that cannot be waited for."""
        reached_by = time.monotonic() + _REACH_SECONDS

        def settled() -> Order | None:
            order = self._gang.order()
            if order and order.act == STOP and order.generation == generation.number:
                self._gang.tell(generation.report(IDLE, record))
            return order if order and is_last_word(order, generation.number) else None

        return self._pod.children.wait_for(settled, self._until(reached_by))

    def _obey(self, order: Order, generation: Generation, record: Record) -> Ended | None:
        if order.act == RUN:
            return None
        if record["outcome"] == "Succeeded":
            return Ended(record)
        if order.act == PART:
            self._gang.tell(generation.report(LEAVING, record))
            ended = records.partitioned(order.why, order.silent_node)
            return Ended(ended, waits=True, loss=_unheard(order))
        if order.act == LEAVE:
            # Between two generations, or as ranks of another pod left before these were asked.
            return Ended(record, waits=self._is_bystander(record))
        if order.leaver in (-1, self._pod.attempt.node_rank):
            return Ended(record)
        return Ended(record, waits=True, loss=Loss(order.leaver, order.why))

    def _left_for_others(self, record: Record) -> bool:
        """Whether this pod need not leave; its ranks may have learnt it from others before it."""
        signals, latest = self._pod.signals, time.monotonic() + _REACH_SECONDS
        if signals.asked_to_leave_at is not None or record["reason"] != "Saved":
            return signals.is_asked_for_others

        def all_leave() -> bool | None:
            order = self._gang.order()
            return (order is not None and order.act == LEAVE) or None

        all_do = self._pod.children.wait_for(all_leave, lambda: latest)
        return bool(all_do) and signals.asked_to_leave_at is None

    def _is_asked(self) -> bool:
        """Whether this very pod is to leave."""
        signals = self._pod.signals
        return signals.asked_to_leave_at is not None and not signals.is_asked_for_others

    def _is_bystander(self, record: Record) -> bool:
        """Whether neither this pod was asked to leave nor its own ranks are to blame."""
        if self._is_asked():
            return False
        return not is_of_ranks(record) or blames_a_peer(str(record.get("message", "")))

    def _until(self, reached_by: float) -> Callable[[], float]:
        def latest() -> float:
            if self._pod.signals.asked_to_leave_at is not None or self._pod.is_superseded:
                return 0.0
            return reached_by if self._gang.order() is None else float("inf")

        return latest


def _unheard(order: Order) -> Loss:
    return Loss(order.silent_node, order.why, SILENCE_SECONDS)


def _state_of(generation: Generation, record: Record) -> str:
    if record["outcome"] == "Succeeded":
        return SUCCEEDED
    if generation.order is not None:
        return IDLE
    return FAILED if is_of_ranks(record) else LEAVING


def is_last_word(order: Order, number: int) -> bool:
    """Whether a pod whose generation of this number has ended need not wait any more."""
    return order.act in (END, PART, LEAVE) or (order.act == RUN and order.generation > number)
