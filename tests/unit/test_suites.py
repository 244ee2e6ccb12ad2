from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests import suites
from tests.suites import Suite

ROOT = Path(__file__).parents[2]


def test_every_test_on_a_cluster_is_in_a_suite() -> None:
    named = {f"test_{each}.py" for files in suites.ON_CLUSTERS.values() for each in files}
    assert {path.name for path in (ROOT / "e2e").glob("test_*.py")} == named


@pytest.mark.parametrize(
    ("code", "budget_seconds", "failure"),
    [("pass", 60, ""), ("raise SystemExit(3)", 60, "exit code 3"), ("pass", 0, "over its budget")],
    ids=["a suite that passes", "one that fails", "one that takes too long"],
)
def test_how_a_suite_ends(code: str, budget_seconds: int, failure: str) -> None:
    (outcome,) = suites.run_group([Suite("one", (sys.executable, "-c", code), budget_seconds)])
    assert outcome.failure.startswith(failure)
    assert bool(outcome.failure) == bool(failure)


def test_the_end_of_the_output_says_what_failed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fails = Suite("one", (sys.executable, "-c", "print('the reason'); raise SystemExit(3)"), 60)
    passes = Suite("two", (sys.executable, "-c", "print('no matter')"), 60)
    monkeypatch.setitem(suites.SUITES, "these", ((fails,), (passes,)))
    assert suites.main(["these"]) == 1
    _, end = capsys.readouterr().out.split("suites: 1 passed, 1 failed")
    assert "one: exit code 3" in end
    assert "the reason" in end
    assert "no matter" not in end
