from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lepton_launcher.records import LIMIT_BYTES, exit_code, read_metrics, succeeded, to_line

if TYPE_CHECKING:
    from pathlib import Path

ANY_TEXT = st.text(st.characters(), max_size=3000)
ANY_VALUE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | ANY_TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(ANY_TEXT, inner, max_size=4),
    max_leaves=8,
)
RECORDS = st.builds(
    lambda extra, outcome, reason, message: {
        **extra, "outcome": outcome, "reason": reason, "message": message
    },
    st.dictionaries(ANY_TEXT | st.sampled_from(["model", "metrics", "versions"]), ANY_VALUE),
    st.sampled_from(["Succeeded", "Failed"]),
    ANY_TEXT,
    ANY_TEXT,
)  # fmt: skip


@given(RECORDS)
def test_any_record_becomes_one_line_of_json_within_the_limit(record: dict[str, Any]) -> None:
    line = to_line(record)
    assert len(line) <= LIMIT_BYTES
    assert b"\n" not in line
    assert json.loads(line)["outcome"] == record["outcome"]


def test_a_record_that_fits_is_kept_whole() -> None:
    record = {"outcome": "Failed", "reason": "UserError", "message": "naïve 学", "rank": 3}
    assert json.loads(to_line(record)) == record


def test_a_text_is_cut_between_characters_and_before_anything_else_is_lost() -> None:
    record = {"outcome": "Failed", "reason": "UserError", "message": "学" * 5000, "exitCode": 1}
    told = json.loads(to_line({**record, "metrics": {"loss": 0.5}}))
    assert set(told["message"]) == {"学"}
    assert (told["exitCode"], told["metrics"]) == (1, {"loss": 0.5})
    assert len(to_line(record)) > LIMIT_BYTES - 4


def test_metrics_of_long_names_never_cost_the_error_line() -> None:
    error = "ValueError: the learning rate is negative"
    metrics = {f"{'学' * 46}{number:02}": 0.123456789 for number in range(16)}
    record = {"outcome": "Failed", "reason": "UserError", "message": error, "metrics": metrics}
    told = json.loads(to_line({**record, "step": 7}))
    assert (told["message"], told["step"]) == (error, 7)


@pytest.mark.parametrize(
    ("record", "code"),
    [
        (succeeded({}), 0),
        ({**succeeded({}), "exitCode": 1}, 0),
        ({"outcome": "Failed", "exitCode": 0}, 1),
        ({"outcome": "Failed", "exitCode": 256}, 1),
        ({"outcome": "Failed", "exitCode": "1"}, 1),
        ({"outcome": "Failed", "exitCode": 3, "signal": 9}, 3),
        ({"outcome": "Failed", "signal": 9}, 137),
        ({"outcome": "Failed", "signal": -9}, 1),
    ],
)
def test_only_a_success_exits_with_0(record: dict[str, Any], code: int) -> None:
    assert exit_code(record) == code


@pytest.mark.parametrize(
    ("content", "metrics"),
    [
        (b'{"accuracy": 0.5, "epochs": 3}', {"accuracy": 0.5, "epochs": 3}),
        (b'{"accuracy": NaN}', {}),
        (b'{"accuracy": Infinity}', {}),
        (b'{"accuracy": true}', {}),
        (b'{"accuracy": "0.5"}', {}),
        (b'{"accuracy": {"top1": 0.5}}', {}),
        (b'{"accuracy": 1' + b"0" * 400 + b"}", {}),
        (b"[0.5]", {}),
        (b"{", {}),
        (b"\xff", {}),
        (b"[" * 60000, {}),
    ],
)
def test_metrics_are_a_flat_object_of_finite_numbers(
    tmp_path: Path, content: bytes, metrics: dict[str, float]
) -> None:
    (tmp_path / "metrics.json").write_bytes(content)
    assert read_metrics(tmp_path / "metrics.json") == metrics


def test_no_metrics_without_a_file(tmp_path: Path) -> None:
    assert read_metrics(tmp_path / "metrics.json") == {}
    assert read_metrics(tmp_path) == {}


@pytest.mark.parametrize("writes", [False, True], ids=["that nobody writes to", "that stays empty"])
def test_no_metrics_from_a_pipe(tmp_path: Path, *, writes: bool) -> None:
    os.mkfifo(tmp_path / "metrics.json")
    writer = os.open(tmp_path / "metrics.json", os.O_RDWR) if writes else None
    assert read_metrics(tmp_path / "metrics.json") == {}
    if writer is not None:
        os.close(writer)
