"""The board: what a rank writes is read whole or not at all."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lepton_launcher import board
from lepton_launcher.board import Board, Standing

from .conftest import wait_until

WRITES_WITHOUT_END = """
import os, sys
from pathlib import Path
from lepton_launcher import board
path = Path(sys.argv[1])
board.create(path, os.getpid())
writer = board.Board(path)
step = 0
while True:
    step += 1
    writer.finish_step(step, samples=2 * step, metrics={"loss": step, "long" * 9: step})
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    made = tmp_path / "board-0"
    board.create(made, os.getpid())
    return made


def standing(path: Path) -> Standing:
    found = board.read(path)
    assert found is not None
    assert found.pid == os.getpid()
    return found.standing


def test_a_board_that_nobody_wrote_to_says_starting(path: Path) -> None:
    assert standing(path) == Standing()


def test_what_is_written_is_read(path: Path) -> None:
    writer = Board(path)
    writer.enter("rendezvous")
    writer.enter("restoring")
    writer.resume(4)
    before = time.monotonic_ns()
    writer.finish_step(7, total_steps=100, samples=224, metrics={"loss": 0.5})
    writer.finish_collective(0.25)
    writer.finish_collective(0.5, collectives=3)
    writer.finish_checkpoint(5, 1.5)
    writer.offer_to_save()
    writer.beat(is_waiting=True)
    found = standing(path)
    assert (found.phase, found.step, found.total_steps, found.samples) == ("training", 7, 100, 224)
    assert (found.collective_seconds, found.collectives) == (0.75, 4)
    assert (found.resumed_step, found.checkpoint_step, found.checkpoint_seconds) == (4, 5, 1.5)
    assert (found.is_reported, found.is_waiting, found.metrics) == (True, True, {"loss": 0.5})
    assert (found.saves_on_request, found.has_left) == (True, False)
    times = [found.phase_at, found.step_at, found.collective_at, found.checkpoint_at]
    assert times == sorted(times)
    assert before <= times[0] <= found.alive_at <= time.monotonic_ns()


def test_a_rank_that_leaves_is_done_and_says_why(path: Path) -> None:
    writer = Board(path)
    writer.finish_step(7)
    writer.leave()
    found = standing(path)
    assert (found.phase, found.has_left, found.saves_on_request) == ("done", True, False)


def test_a_step_that_the_script_reports_outranks_counted_ones(path: Path) -> None:
    writer = Board(path)
    writer.finish_step(1, reported=False)
    writer.finish_step(501)
    writer.finish_step(2, reported=False)
    assert standing(path).step == 501


def test_an_unknown_phase_is_refused_with_the_known_ones(path: Path) -> None:
    with pytest.raises(ValueError, match="'resting' is no phase: use one of starting"):
        Board(path).enter("resting")


def test_metrics_are_bounded_and_finite(path: Path) -> None:
    many = {f"{'name' * 40}-{number}": float(number) for number in range(40)}
    Board(path).finish_step(1, metrics={"nan": float("nan"), "loss": 2, "word": "x", **many})  # type: ignore[dict-item]
    found = standing(path).metrics
    assert found["loss"] == 2
    assert len(found) <= board.MOST_METRICS
    assert not {"nan", "word"} & set(found)


@pytest.mark.parametrize("step", [-1, 2**70, 3.7])
def test_a_step_out_of_bounds_is_bounded(path: Path, step: float) -> None:
    Board(path).finish_step(step)  # type: ignore[arg-type]
    assert 0 <= standing(path).step < 2**63


@pytest.mark.parametrize(
    "content",
    [b"", b"x", b"\0" * 4096, b"\xff" * 4096, b"LEPTON\x00\x01" + b"\0" * 4088, b"x" * 10_000],
    ids=["empty", "short", "zeros", "ones", "another version", "too long"],
)
def test_a_foreign_file_is_no_board(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "board-0"
    path.write_bytes(content)
    assert board.read(path) is None
    with pytest.raises((ValueError, OSError)):
        Board(path)


def test_a_missing_file_is_no_board(tmp_path: Path) -> None:
    assert board.read(tmp_path / "board-0") is None


def test_a_slot_that_was_not_written_to_its_end_is_left_for_the_one_before(path: Path) -> None:
    writer = Board(path)
    writer.finish_step(1, metrics={"loss": 1})
    writer.finish_step(2, metrics={"loss": 2})
    whole = path.read_bytes()
    changed_by_the_last_write = range(64, 64 + 200)
    for position in changed_by_the_last_write:
        torn = bytearray(whole)
        torn[position] ^= 0xFF
        path.write_bytes(torn)
        assert standing(path).step in (1, 2)


def test_a_fork_writes_nothing(path: Path) -> None:
    writer = Board(path)
    writer.finish_step(1)
    child = os.fork()
    if child == 0:
        writer.finish_step(99)
        os._exit(0)
    os.waitpid(child, 0)
    assert standing(path).step == 1


def test_a_rank_that_is_killed_while_it_writes_leaves_a_whole_board(tmp_path: Path) -> None:
    path = tmp_path / "board-0"
    for _ in range(5):
        path.unlink(missing_ok=True)
        rank = subprocess.Popen([sys.executable, "-c", WRITES_WITHOUT_END, str(path)])
        try:
            wait_until(lambda: (found := board.read(path)) and found.sequence > 100, "steps")
            seen = [board.read(path) for _ in range(500)]
        finally:
            rank.kill()
            rank.wait()
        steps = []
        for found in [*seen, board.read(path)]:
            assert found is not None
            assert found.pid == rank.pid
            assert found.standing.metrics["loss"] == found.standing.step
            assert found.standing.samples == 2 * found.standing.step
            steps.append(found.standing.step)
        assert steps == sorted(steps)


def test_a_write_costs_microseconds(path: Path) -> None:
    writer = Board(path)
    costs = []
    for step in range(2000):
        begun = time.perf_counter()
        writer.finish_step(step, metrics={"loss": 0.1, "learning_rate": 1e-3})
        costs.append(time.perf_counter() - begun)
    assert sorted(costs)[len(costs) // 2] < 200e-6


def test_only_the_rank_itself_finds_its_board(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(board.BOARD_VARIABLE, str(path))
    look = "from lepton_launcher import board; print(board.of_this_process())"
    other = subprocess.run([sys.executable, "-c", look], capture_output=True, check=True)
    assert other.stdout == b"None\n"
    board.of_this_process.cache_clear()
    try:
        assert board.of_this_process() is not None
    finally:
        board.of_this_process.cache_clear()
