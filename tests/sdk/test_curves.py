from __future__ import annotations

import json
import math
import os
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lepton_ai.curves import DATA_FILE, MOST_METRICS, MOST_POINTS, Curves
from lepton_launcher import board


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / DATA_FILE).read_text().splitlines()]


def test_each_step_is_a_line_with_what_was_told_at_it(tmp_path: Path) -> None:
    curves = Curves()
    curves.add(1, {"loss": 0.5, "rate": 0.1})
    curves.add(2, {"loss": 0.25})

    curves.write(tmp_path / "output")

    assert lines(tmp_path / "output") == [
        {"step": 1, "loss": 0.5, "rate": 0.1},
        {"step": 2, "loss": 0.25},
    ]


@given(told=st.integers(1, 20_000))
def test_a_curve_is_bounded_spans_the_training_and_ends_with_the_last_value(told: int) -> None:
    curves = Curves()
    for step in range(1, told + 1):
        curves.add(step, {"loss": step / 2})

    points = curves.points("loss")

    assert len(points) <= MOST_POINTS + 1
    assert points[0] == (1, 0.5)
    assert points[-1] == (told, told / 2)
    assert all(value == step / 2 for step, value in points)
    gaps = {after[0] - before[0] for before, after in pairwise(points[:-1])}
    assert len(gaps) <= 1


def test_one_that_goes_on_from_a_saved_state_is_as_if_it_had_never_stopped() -> None:
    whole, first, second = Curves(), Curves(), Curves()
    for step in range(5_000):
        whole.add(step, {"loss": step})
        (first if step < 3_000 else second).add(step, {"loss": step})
        if step == 2_999:
            second.load_state_dict(json.loads(json.dumps(first.state_dict())))

    assert second.state_dict()["loss"]["told"] == 5_000
    assert [list(each) for each in second.points("loss")] == [
        list(each) for each in whole.points("loss")
    ]


def test_what_is_no_finite_number_and_a_flood_of_metrics_are_left_out() -> None:
    curves = Curves()
    curves.add(1, {"loss": math.nan, "rate": math.inf, **{f"m{n}": n for n in range(50)}})

    assert curves.points("loss") == curves.points("rate") == []
    assert len(curves.state_dict()) == MOST_METRICS


def test_other_ranks_and_empty_curves_write_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Curves().write(tmp_path)
    monkeypatch.setenv("RANK", "1")
    curves = Curves()
    curves.add(1, {"loss": 1.0})
    curves.write(tmp_path)

    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_takes_nothing_costs_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    curves = Curves()
    curves.add(1, {"loss": 1.0})

    curves.write(tmp_path / "file")

    assert "cannot be written" in caplog.text


def test_what_is_reported_is_on_the_board_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    board.create(tmp_path / "board", os.getpid())
    monkeypatch.setenv(board.BOARD_VARIABLE, str(tmp_path / "board"))
    board.of_this_process.cache_clear()
    try:
        Curves().report(3, {"loss": 0.5}, total_steps=10)
    finally:
        board.of_this_process.cache_clear()

    found = board.read(tmp_path / "board")
    assert found is not None
    assert (found.standing.step, found.standing.total_steps) == (3, 10)
    assert found.standing.metrics == {"loss": 0.5}
