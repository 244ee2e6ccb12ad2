"""What the launchers of a gang decide together, on a virtual clock."""

from __future__ import annotations

from typing import Any

import pytest

from lepton_launcher.coordinator import (
    END,
    FAILED,
    IDLE,
    LEAVE,
    LEAVING,
    PART,
    RUN,
    RUNNING,
    STOP,
    STUCK,
    SUCCEEDED,
    Coordinator,
    Order,
    Report,
    save_step,
)
from lepton_launcher.restarts import Restarts
from lepton_launcher.succession import is_last_word

BUG = {"reason": "UserError", "rank": 2, "exitCode": 1, "message": "ValueError: boom"}
VICTIM = {"reason": "UserError", "rank": 0, "exitCode": 1, "message": "Connection closed by peer"}
HANG = {"reason": "Hang", "rank": 1, "message": "Rank 1 hangs."}


class Nodes:
    """A gang of three whose nodes say every half second how they are."""

    def __init__(self, max_restarts: int = 1, nodes: int = 3) -> None:
        self.coordinator = Coordinator(3, Restarts(max_restarts))
        self.now = 0.0
        self.reports = {node: Report(node, 0, RUNNING) for node in range(nodes)}

    def say(self, node: int, state: str, **facts: Any) -> Nodes:
        before = self.reports[node]
        self.reports[node] = Report(node, before.generation, state, **facts)
        return self

    def all_say(self, state: str, generation: int) -> Nodes:
        for node in self.reports:
            self.reports[node] = Report(node, generation, state)
        return self

    def after(self, seconds: float, *, silent: int | None = None) -> Order:
        end = self.now + seconds
        order = self.coordinator.order(self.now)
        while self.now <= end:
            for node, report in self.reports.items():
                if node != silent:
                    self.coordinator.hear(report, self.now)
            order = self.coordinator.order(self.now)
            self.now += 0.5
        return order


def test_ranks_run_while_nothing_happens() -> None:
    assert Nodes().after(100) == Order(RUN, 0)


def test_a_failure_stops_all_and_all_start_once_all_have_stopped() -> None:
    nodes = Nodes()
    nodes.after(5)
    order = nodes.say(2, FAILED, record=BUG).after(1)
    assert order == Order(STOP, 0, "ValueError: boom")
    nodes.say(0, IDLE).say(2, IDLE)
    assert nodes.after(30).act == STOP
    assert nodes.say(1, IDLE).after(1) == Order(RUN, 1)
    assert nodes.all_say(RUNNING, 1).after(30) == Order(RUN, 1)


def test_the_cause_outranks_those_who_lost_a_peer() -> None:
    nodes = Nodes()
    nodes.after(5)
    assert nodes.say(0, FAILED, record=VICTIM).after(1) == Order(RUN, 0)
    nodes.say(2, FAILED, record=BUG).after(1)
    assert nodes.coordinator.restarts.told[0]["rank"] == 2


def test_a_lost_peer_that_never_says_why_is_not_waited_for() -> None:
    nodes = Nodes()
    assert nodes.say(0, FAILED, record=VICTIM).after(3).act == STOP


def test_without_a_budget_the_victims_of_a_lost_node_wait_until_it_is_missed() -> None:
    nodes = Nodes(max_restarts=0)
    nodes.after(5)
    nodes.say(0, FAILED, record=VICTIM).say(1, FAILED, record={**VICTIM, "rank": 1})
    assert nodes.after(9, silent=2) == Order(RUN, 0)
    order = nodes.after(2, silent=2)
    assert (order.act, order.silent_node) == (PART, 2)


def test_without_a_budget_victims_of_nobody_end_the_gang_in_time() -> None:
    order = Nodes(max_restarts=0).say(0, FAILED, record=VICTIM).after(13)
    assert (order.act, order.leaver) == (END, 0)


def test_a_budget_that_is_spent_ends_the_pod_of_the_cause() -> None:
    assert Nodes(max_restarts=0).say(2, FAILED, record=BUG).after(1).leaver == 2


def test_a_budget_that_is_spent_ends_the_gang() -> None:
    assert Nodes(max_restarts=0).say(2, FAILED, record=BUG).after(1).act == END


def test_restarts_that_moved_every_node_forward_are_free() -> None:
    nodes = Nodes(max_restarts=1)
    for generation in range(5):
        for node in range(3):
            nodes.say(node, RUNNING, furthest=10 * generation)
        nodes.after(1)
        for node in range(3):
            nodes.say(node, FAILED, record=BUG, furthest=10 * generation)
        assert nodes.after(1).act == STOP
        for node in range(3):
            nodes.say(node, IDLE, furthest=10 * generation)
        assert nodes.after(2) == Order(RUN, generation + 1)
        nodes.all_say(RUNNING, generation + 1)
    assert nodes.coordinator.restarts.spent == {"furthest": 40}


def test_all_who_wait_hang_and_leave_their_stacks() -> None:
    nodes = Nodes()
    nodes.say(0, STUCK, record=HANG, collectives=9).say(1, STUCK, record=HANG, collectives=8)
    assert nodes.after(60) == Order(RUN, 0)
    order = nodes.say(2, STUCK, record=HANG, collectives=9).after(1)
    assert order == Order(STOP, 0, "Rank 1 hangs.", stacks=True)


def test_a_node_that_falls_silent_parts_the_gang() -> None:
    nodes = Nodes()
    nodes.after(20)
    assert nodes.after(9, silent=1) == Order(RUN, 0)
    order = nodes.after(2, silent=1)
    assert (order.act, order.why) == (PART, "Node 1's launcher was not heard for 10 s.")
    assert order.silent_node == 1
    assert nodes.after(60).act == PART


def test_a_pod_that_leaves_ends_the_gang_and_is_not_missed() -> None:
    nodes = Nodes()
    nodes.after(5)
    order = nodes.say(1, LEAVING).after(1)
    assert (order.act, order.leaver) == (END, 1)
    assert nodes.after(60, silent=1).act == END


def test_a_pod_that_leaves_while_the_others_have_stopped_ends_the_gang() -> None:
    nodes = Nodes()
    nodes.say(2, FAILED, record=BUG).after(1)
    assert nodes.say(0, LEAVING).after(1).act == END


def test_nobody_is_done_before_all_are() -> None:
    nodes = Nodes()
    nodes.say(0, SUCCEEDED).say(1, SUCCEEDED)
    assert nodes.after(60) == Order(RUN, 0)
    assert nodes.say(2, SUCCEEDED).after(1).act == END


def test_a_rank_that_fails_at_the_very_end_restarts_those_who_were_done() -> None:
    nodes = Nodes()
    nodes.say(0, SUCCEEDED).say(1, SUCCEEDED).after(5)
    assert nodes.say(2, FAILED, record=BUG).after(1).act == STOP


@pytest.mark.parametrize("state", [FAILED, SUCCEEDED])
def test_pods_that_were_never_reached_are_not_waited_for(state: str) -> None:
    nodes = Nodes(nodes=1)
    record = BUG if state == FAILED else {}
    assert nodes.say(0, state, record=record).after(12).act == END


@pytest.mark.parametrize(
    ("fastest", "step_seconds", "reach_seconds", "expected"),
    [
        pytest.param(10, 60.0, 1.0, 13, id="a long step: the one under way, and two to agree"),
        pytest.param(10, 0.25, 1.0, 16, id="short steps go on while the order travels"),
        pytest.param(10, 0.0, 1.0, 12, id="the pace is not known yet"),
        pytest.param(-1, 0.25, 1.0, 0, id="ranks that cannot save get a signal"),
    ],
)
def test_the_step_to_save_at_is_ahead_of_every_rank(
    fastest: int, step_seconds: float, reach_seconds: float, expected: int
) -> None:
    assert save_step(fastest, step_seconds, reach_seconds) == expected


def asked(nodes: Nodes, *fastest: int) -> Nodes:
    """The second of three nodes is asked to leave."""
    for node, step in enumerate(fastest):
        nodes.say(node, RUNNING, fastest=step, step_seconds=0.5, is_asked=node == 1)
    return nodes


def test_a_pod_that_is_asked_to_leave_takes_all_with_it_at_one_step() -> None:
    order = asked(Nodes(), 20, 19, 22).after(1)
    assert order == Order(LEAVE, 0, "A pod of the gang was asked to leave.", save_at=24)


def test_the_agreed_step_stays_whoever_leaves_or_falls_silent_then() -> None:
    nodes = asked(Nodes(), 20, 19, 22)
    order = nodes.after(1)
    nodes.say(1, LEAVING).say(2, FAILED, record=BUG)
    assert nodes.after(60, silent=0) == order


def test_one_node_whose_ranks_do_not_save_leaves_all_with_a_signal() -> None:
    order = asked(Nodes(), 20, 19, -1).after(1)
    assert (order.act, order.save_at) == (LEAVE, 0)


def test_a_gang_that_restarts_is_not_asked_to_save() -> None:
    nodes = Nodes()
    nodes.say(2, FAILED, record=BUG).after(1)
    nodes.say(1, IDLE, is_asked=True)
    assert nodes.after(1).act == STOP


@pytest.mark.parametrize(
    ("order", "is_final"),
    [
        pytest.param(Order(RUN, 0), False, id="its own generation, which has ended"),
        pytest.param(Order(STOP, 0), False, id="others have not stopped yet"),
        pytest.param(Order(RUN, 1), True, id="the next generation"),
        pytest.param(Order(LEAVE, 1), True, id="all leave, before it has begun the next one"),
        pytest.param(Order(END, 0), True, id="the end"),
        pytest.param(Order(PART, 0), True, id="a partition"),
    ],
)
def test_a_pod_whose_ranks_have_ended_waits_for_an_order_that_is_for_it(
    order: Order, *, is_final: bool
) -> None:
    assert is_last_word(order, 0) is is_final
