"""A pod in several attempts: what it is told, what it ends, and what it goes on with."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from e2e.cluster.ports import free_port
from lepton_launcher.attempts import Attempt, AttemptFile, NotThisAttempt, parse_attempt
from lepton_launcher.coordinator import (
    END,
    IDLE,
    LEAVE,
    LEAVING,
    PART,
    RUN,
    STOP,
    Coordinator,
    Order,
    Report,
)
from lepton_launcher.exchange import Exchange
from lepton_launcher.gang import Leader, Member
from lepton_launcher.options import parse_options
from lepton_launcher.processes import Children, Signals
from lepton_launcher.restarts import Restarts
from lepton_launcher.succession import GangSuccession, Loss

from .conftest import ATTEMPT, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from lepton_launcher.options import Options

    from .conftest import Pod

TOKEN = "a token of 32 hexadecimal digits"
SAYS_WHICH = """
import os, pathlib, time
print("attempt", os.environ["LEPTON_ATTEMPT"], os.getpid(), flush=True)
ends = pathlib.Path(os.environ["LEPTON_OUTPUT_DIR"], "ends-in").read_text()
time.sleep(0 if os.environ["LEPTON_ATTEMPT"] == ends else 3600)
"""
SLEEPS_FOR_EVER = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("begun", flush=True)
time.sleep(3600)
"""
REPORTS_TEN_STEPS = """
import time
from lepton_launcher import board
ours = board.of_this_process()
for step in range(1, 11):
    time.sleep(0.1)
    ours.finish_step(step)
"""


def tell(pod: Pod, **told: Any) -> None:
    """The kubelet renames the file into its place."""
    unfinished = pod.folder / ".attempt"
    unfinished.write_text(json.dumps(told))
    unfinished.replace(pod.attempt_file)


def begun(pod: Pod) -> list[bytes]:
    """The words of the rank's whole lines: unbuffered, it writes a line word by word."""
    return pod.stdout.rpartition(b"\n")[0].split()


def ends_in(pod: Pod, attempt: int) -> Pod:
    pod.output.mkdir()
    (pod.output / "ends-in").write_text(str(attempt))
    return pod


def test_a_pod_that_is_told_of_a_later_attempt_begins_it(pod: Pod) -> None:
    begun_at = time.monotonic()
    ends_in(pod, 3).run(pod.script(SAYS_WHICH)).begin()
    first = wait_until(lambda: begun(pod), "the first attempt")
    assert first[1] == b"1"
    tell(pod, **{**ATTEMPT, "attempt": 3, "port": 29403})
    record = pod.record()
    assert (record["outcome"], record["attempt"]) == ("Succeeded", 3)
    progress = json.loads((pod.exchange / "progress.json").read_bytes())
    (earlier,) = progress["earlier"]
    assert earlier["attempt"] == 1
    whole = sum(earlier["ledger"].values()) + sum(record["ledger"].values())
    assert 0 < whole <= time.monotonic() - begun_at
    pod.agree()
    assert pod.message()["attempt"] == 3
    assert [line.split()[1] for line in pod.stdout.splitlines()] == [b"1", b"3"]


MEASURES_ONCE = """
import os, pathlib, time
output = pathlib.Path(os.environ["LEPTON_OUTPUT_DIR"])
if os.environ["LEPTON_ATTEMPT"] == "1":
    (output / "metrics.json").write_text('{"accuracy": 0.5}')
    print("measured", flush=True)
    time.sleep(3600)
"""


def test_metrics_of_an_earlier_attempt_are_not_told_as_the_next_one_s(pod: Pod) -> None:
    pod.run(pod.script(MEASURES_ONCE)).begin()
    wait_until(lambda: pod.stdout, "the metrics")
    tell(pod, **{**ATTEMPT, "attempt": 2, "port": 29402})
    record = pod.record()
    assert (record["outcome"], record["attempt"]) == ("Succeeded", 2)
    assert "metrics" not in record
    pod.agree()


def test_what_an_attempt_went_into_is_told_after_another_that_never_began(pod: Pod) -> None:
    """A second loss comes before there is anything to tell of the ranks."""
    ends_in(pod, 3).run(pod.script(SAYS_WHICH)).begin()
    wait_until(lambda: begun(pod), "the first attempt")
    pod.process.send_signal(signal.SIGSTOP)
    tell(pod, **{**ATTEMPT, "attempt": 2, "port": 29402})
    pod.process.send_signal(signal.SIGCONT)
    wait_until(lambda: b"attempt 2, node" in pod.stderr, "the second attempt")
    tell(pod, **{**ATTEMPT, "attempt": 3, "port": 29403})
    pod.record()
    told = json.loads((pod.exchange / "progress.json").read_bytes())["earlier"]
    assert [each["attempt"] for each in told] == [1, 2]
    assert sum(told[0]["ledger"].values()) > 0
    pod.agree()


def test_a_later_attempt_that_only_comes_ends_the_ranks_and_nothing_else(pod: Pod) -> None:
    ends_in(pod, 2).run(pod.script(SAYS_WHICH)).begin()
    pid = int(wait_until(lambda: begun(pod), "the first attempt")[2])
    comes = {"attempt": 2, "nodeRank": 0, "numNodes": 1}
    tell(pod, **comes)
    wait_until(lambda: not _lives(pid), "the end of its rank")
    wait_until(lambda: b"Waiting for the next one" in pod.stderr, "what it waits for")
    assert pod.process.poll() is None
    assert not (pod.exchange / "record.json").exists()
    tell(pod, **{**ATTEMPT, "attempt": 2})
    assert pod.record()["attempt"] == 2
    pod.agree()
    assert pod.wait() == 0


def test_an_earlier_attempt_is_not_gone_back_to(pod: Pod) -> None:
    ends_in(pod, 4).run(pod.script(SAYS_WHICH), options=("--attempt", "4")).begin()
    wait_until(lambda: b"it is attempt 1, not 4 or later" in pod.stderr, "what it waits for")
    tell(pod, **{**ATTEMPT, "attempt": 4})
    assert "attempt" not in pod.record()  # the one that it was made for
    pod.agree()


def test_asked_to_leave_between_two_attempts_it_tells_the_sidecar_nothing(pod: Pod) -> None:
    pod.run(pod.script(SLEEPS_FOR_EVER)).begin()
    wait_until(lambda: pod.stdout, "the rank")
    tell(pod, attempt=2, nodeRank=0, numNodes=1)
    wait_until(lambda: b"Waiting for the next one" in pod.stderr, "what it waits for")
    pod.ask_to_leave()
    assert pod.message()["reason"] == "Terminated"
    assert pod.wait() == 143
    assert not (pod.exchange / "record.json").exists()


ONE_FAILS = """
import os, pathlib, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("begun", flush=True)
fails = pathlib.Path(os.environ["LEPTON_OUTPUT_DIR"], "fails")
while not fails.exists():
    time.sleep(0.05)
sys.exit("boom")
"""


def test_asked_to_leave_as_its_gang_stops_a_pod_leaves_at_once(
    gang: Callable[..., list[Pod]],
) -> None:
    """Its peers' ranks have ended, so nothing that its own could do would be of any use."""
    first, second, third = gang(ONE_FAILS, "--max-restarts", "3", "--grace-seconds", "60")
    wait_until(lambda: first.stdout and second.stdout and third.stdout, "the ranks")
    third.process.send_signal(signal.SIGSTOP)
    (second.output / "fails").touch()
    wait_until(lambda: b"generation 0 end: boom" in first.stderr, "the order to stop")
    asked = time.monotonic()
    third.ask_to_leave()
    third.process.send_signal(signal.SIGCONT)
    third.agree()
    assert third.message()["reason"] == "Terminated"
    assert time.monotonic() - asked < 30  # half of its grace
    wait_until(lambda: b"Waiting for the next one" in first.stderr, "what its peers do")
    assert b"generation 1" not in first.stderr + second.stderr + third.stderr


def test_asked_to_leave_as_another_attempt_comes_it_starts_no_ranks(pod: Pod) -> None:
    ends_in(pod, 9).run(pod.script(SAYS_WHICH)).begin()
    wait_until(lambda: begun(pod), "the first attempt")
    pod.process.send_signal(signal.SIGSTOP)  # so that it finds both at one look
    tell(pod, **{**ATTEMPT, "attempt": 2, "port": 29402})
    pod.ask_to_leave()
    pod.process.send_signal(signal.SIGCONT)
    assert pod.message()["reason"] == "Terminated"
    assert b"attempt 2," not in pod.stderr


def test_a_later_attempt_that_cannot_begin_is_the_one_that_its_record_is_about(pod: Pod) -> None:
    spoils = f"import os; os.rmdir({str(pod.output)!r}); open({str(pod.output)!r}, 'w').close()\n"
    pod.run(pod.script(spoils + SLEEPS_FOR_EVER)).begin()
    wait_until(lambda: pod.stdout, "the rank")
    tell(pod, **{**ATTEMPT, "attempt": 2})
    record = pod.record()
    assert "The ranks cannot be started" in record["message"]
    assert record["attempt"] == 2
    pod.agree()


def test_a_pod_whose_first_attempt_is_a_later_one_takes_its_furthest_step(pod: Pod) -> None:
    script = pod.script(REPORTS_TEN_STEPS)
    pod.run(script).begin(attempt=2, furthestStep=10)
    record = pod.record()
    assert record["outcome"] == "Succeeded"
    assert record["ledger"]["repeated"] > 0.5
    pod.agree()


def _lives(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


# What the file says


@pytest.fixture
def options(tmp_path: Path) -> Options:
    return parse_options(
        ["--num-nodes=2", "--node-rank=1", f"--attempt-file={tmp_path / 'attempt'}", "--", "x.py"]
    )


PLACED = {"attempt": 2, "nodeRank": 1, "numNodes": 2, "address": "10.0.0.1", "port": 29402}


def test_an_attempt_without_an_address_is_closed_by_and_not_begun(options: Options) -> None:
    file = AttemptFile(options)
    assert not file.is_closed(1)
    told = {name: PLACED[name] for name in ("attempt", "nodeRank", "numNodes")}
    options.attempt_file.write_text(json.dumps(told))
    assert file.is_closed(1)
    assert not file.is_closed(2)
    assert file.after(1) is None
    options.attempt_file.write_text(json.dumps(PLACED))
    found = file.after(1)
    assert found is not None
    assert (found.number, found.address, found.max_restarts) == (2, "10.0.0.1", None)
    assert file.after(2) is None


def test_the_budget_is_the_one_that_is_told_last(options: Options) -> None:
    told = {**PLACED, "maxRestarts": 2, "furthestStep": 40}
    found = parse_attempt(json.dumps(told), options)
    assert (found.max_restarts, found.furthest_step) == (2, 40)


@pytest.mark.parametrize("wrong", [{"maxRestarts": "2"}, {"furthestStep": True}, {"address": None}])
def test_what_is_wrong_in_it_is_not_followed(options: Options, wrong: dict[str, Any]) -> None:
    with pytest.raises(NotThisAttempt):
        parse_attempt(json.dumps({**PLACED, **wrong}), options)


# Whose pod ends, and who waits


class Node:
    """One node's succession over real sockets; its ranks have ended in a way that a test says."""

    def __init__(self, attempt: Attempt) -> None:
        signals = Signals()
        self.gang = Member(attempt) if attempt.node_rank else Leader(attempt, Restarts(0))
        self.pod: Any = SimpleNamespace(
            attempt=attempt,
            gang=self.gang,
            signals=signals,
            children=Children(signals),
            is_superseded=False,
        )

    def ended(self, record: dict[str, Any], order: Order | None = None) -> Any:
        node = self.pod.attempt.node_rank
        generation: Any = SimpleNamespace(
            number=0,
            order=order,
            report=lambda state, said: Report(node, 0, state, said),
        )
        return GangSuccession(self.gang, self.pod).end_of(generation, record)


@pytest.fixture
def nodes() -> Iterator[tuple[Node, Node]]:
    port = free_port()
    leader = Node(Attempt(1, 0, 2, "127.0.0.1", 29401, port, TOKEN))
    member = Node(Attempt(1, 1, 2, "127.0.0.1", 29401, port, TOKEN))
    wait_until(member.gang.order, "the first answer")
    yield leader, member
    member.gang.leave()
    leader.gang.leave()


BUG = {"outcome": "Failed", "reason": "UserError", "rank": 1, "exitCode": 1, "message": "boom"}
VICTIM = {**BUG, "rank": 0, "message": "Connection closed by peer"}
WELL = {"outcome": "Succeeded", "reason": "Succeeded"}


def test_whose_rank_failed_for_good_ends_and_its_peers_wait(nodes: tuple[Node, Node]) -> None:
    leader, member = nodes
    member.gang.tell(Report(1, 0, "failed", BUG))
    wait_until(lambda: leader.gang.order().act == END, "the end")  # type: ignore[union-attr]
    assert member.ended(BUG) == (BUG, False, None)
    assert leader.ended(VICTIM) == (VICTIM, True, Loss(1, "boom"))


def test_the_peers_of_a_pod_that_leaves_wait(nodes: tuple[Node, Node]) -> None:
    leader, member = nodes
    member.gang.tell(Report(1, 0, LEAVING))
    wait_until(lambda: leader.gang.order().act == END, "the end")  # type: ignore[union-attr]
    assert leader.ended(VICTIM) == (VICTIM, True, Loss(1, "Node 1 leaves the gang."))


def test_a_pod_whose_ranks_ended_well_ends_whoever_leaves(nodes: tuple[Node, Node]) -> None:
    leader, member = nodes
    member.gang.tell(Report(1, 0, LEAVING))
    assert leader.ended(WELL) == (WELL, False, None)


def test_who_lost_a_peer_waits_and_says_whom(nodes: tuple[Node, Node]) -> None:
    leader, _ = nodes
    order = Order(PART, 0, "Node 1's launcher was not heard for 10 s.", silent_node=1)
    ended = leader.ended({**BUG, "reason": "Partitioned"}, order)
    assert ended.waits
    assert ended.loss == Loss(1, order.why, 10.0)


def test_ranks_that_failed_in_a_closed_attempt_wait_for_no_verdict(
    nodes: tuple[Node, Node],
) -> None:
    _, member = nodes
    member.pod.is_superseded = True
    assert member.ended(VICTIM) == (VICTIM, True, None)


LEFT = {"outcome": "Failed", "reason": "Saved", "step": 7}


def test_a_pod_whose_ranks_left_for_another_s_sake_stays(nodes: tuple[Node, Node]) -> None:
    _, member = nodes
    member.pod.signals.ask_to_leave(for_others=True)
    assert member.ended(LEFT) == (LEFT, True, None)
    member.pod.signals.stay()
    assert member.pod.signals.asked_to_leave_at is None


STOPPED = {"outcome": "Failed", "reason": "Terminated", "message": "stopped to start again"}


@pytest.mark.parametrize("record", [STOPPED, VICTIM], ids=["stopped", "victim"])
def test_a_pod_whose_ranks_had_ended_when_all_were_asked_to_leave_stays(
    nodes: tuple[Node, Node], record: dict[str, Any]
) -> None:
    """The order overtakes it between two generations, or its ranks miss those that left first."""
    leader, member = nodes
    leader.gang.tell(Report(0, 0, "running", is_asked=True))
    wait_until(lambda: member.gang.order().act == LEAVE, "the order to leave")  # type: ignore[union-attr]
    order = Order(STOP, 0, "boom") if record is STOPPED else None
    assert member.ended(record, order) == (record, True, None)


def test_a_pod_whose_ranks_left_before_it_heard_why_stays(nodes: tuple[Node, Node]) -> None:
    """Ranks agree among themselves on the step, and one launcher may be late."""
    leader, member = nodes
    leader.gang.tell(Report(0, 0, "running", is_asked=True))
    assert member.ended(LEFT) == (LEFT, True, None)


def test_a_pod_whose_ranks_left_though_nobody_asked_ends(nodes: tuple[Node, Node]) -> None:
    _, member = nodes
    assert member.ended(LEFT) == (LEFT, False, None)


def test_a_pod_whose_own_rank_failed_before_all_were_asked_to_leave_ends(
    nodes: tuple[Node, Node],
) -> None:
    leader, member = nodes
    leader.gang.tell(Report(0, 0, "running", is_asked=True))
    wait_until(lambda: member.gang.order().act == LEAVE, "the order to leave")  # type: ignore[union-attr]
    assert member.ended(BUG) == (BUG, False, None)


def test_a_pod_that_was_asked_itself_starts_no_other_generation(nodes: tuple[Node, Node]) -> None:
    leader, member = nodes
    leader.gang.coordinator = Coordinator(2, Restarts(1))  # type: ignore[union-attr]
    member.gang.tell(Report(1, 0, "failed", BUG))
    wait_until(lambda: leader.gang.order().act == STOP, "the order to stop")  # type: ignore[union-attr]
    member.gang.tell(Report(1, 0, IDLE))
    wait_until(lambda: _is_idle(leader.gang), "that the other has stopped")
    leader.pod.signals.ask_to_leave()
    assert leader.ended(STOPPED, Order(STOP, 0, "boom")) == (STOPPED, False, None)
    assert leader.gang.order().act == END  # type: ignore[union-attr]


def _is_idle(leader: Any) -> bool:
    reports: dict[int, Report] = leader.coordinator._reports
    return reports[1].state == IDLE


@pytest.mark.parametrize("first_for_others", [True, False])
def test_a_pod_that_was_asked_itself_ends(
    nodes: tuple[Node, Node], *, first_for_others: bool
) -> None:
    _, member = nodes
    member.pod.signals.ask_to_leave(for_others=first_for_others)
    member.pod.signals.ask_to_leave(for_others=not first_for_others)
    assert member.ended(LEFT) == (LEFT, False, None)
    member.pod.signals.stay()
    assert member.pod.signals.asked_to_leave_at is not None


def test_a_request_of_its_own_is_heeded_while_the_ranks_leave_for_others() -> None:
    signals = Signals()
    signals.also_heed(lambda: True)
    signals.ask_to_leave(for_others=True)
    assert signals.asked_to_leave_at is not None
    assert not signals.is_asked_for_others
    signals.stay()
    assert signals.asked_to_leave_at is not None


def test_the_next_attempt_is_not_asked_what_the_last_one_was(tmp_path: Path) -> None:
    exchange = Exchange(tmp_path)
    exchange.begin_anew()
    exchange.ask_to_save(12)
    exchange.begin_anew()
    assert not (tmp_path / "save").exists()


def test_a_gang_that_was_left_answers_and_asks_nobody(nodes: tuple[Node, Node]) -> None:
    leader, member = nodes
    assert member.gang.order() == Order(RUN, 0)
    leader.gang.leave()
    member.gang.leave()
    port = leader.pod.attempt.gang_port
    later = wait_until(lambda: _leader_on(port), "a leader of the next attempt on its port")
    assert not later.coordinator.heard_since(0)


def _leader_on(port: int) -> Leader | None:
    try:
        return Leader(Attempt(2, 0, 2, "127.0.0.1", 29402, port, TOKEN), Restarts(0))
    except OSError:
        return None


def test_a_loss_is_told_beside_how_far_the_ranks_came(tmp_path: Path) -> None:
    exchange = Exchange(tmp_path)
    exchange.tell_progress({"attempt": 2, "generation": 1, "phase": "training", "step": 7})
    exchange.tell_loss(2, Loss(1, "Node 1 leaves the gang."))
    told = json.loads((tmp_path / "progress.json").read_text())
    assert (told["step"], told["lost"]["node"], told["lost"]["seconds"]) == (7, 1, 0.0)
    exchange.tell_loss(3, Loss(1, "Node 1 leaves the gang."))
    told = json.loads((tmp_path / "progress.json").read_text())
    assert (told["attempt"], told["generation"], told["phase"]) == (3, 0, "starting")
    assert "step" not in told
