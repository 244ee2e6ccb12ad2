"""`make test` and `make test-long`: the suites one after another, each within its budget.

A suite that fails or takes longer than its budget fails the run; the others still run.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Suite:
    """A command and the seconds that it may take on two cores, warm caches given."""

    name: str
    argv: tuple[str, ...]
    budget_seconds: int


def _pytest(name: str, budget_seconds: int, *arguments: str) -> Suite:
    return Suite(name, (sys.executable, "-m", "pytest", *arguments), budget_seconds)


# What is built once and kept in the user's cache: no budget holds a first run on a new machine.
SETUP = (
    Suite("Go tools", (sys.executable, "-m", "e2e.cluster", "tools"), 2400),
    Suite("images", (sys.executable, "-m", "images", "build"), 2400),
)
QUICK = (
    Suite("lint", ("make", "--no-print-directory", "lint"), 180),
    _pytest("unit", 300, "tests", "--ignore=tests/integration", "--ignore=tests/resilience"),
    _pytest("integration", 300, "tests/integration"),
)
SUITES = {
    "test": (
        *QUICK,
        *SETUP,
        _pytest("resilience", 600, "tests/resilience", "-m", "not long"),
        _pytest("e2e", 1200, "e2e", "-m", "not long"),
    ),
    "test-long": (
        *SETUP,
        _pytest("resilience", 7200, "tests/resilience", "-s"),
        _pytest("e2e", 5400, "e2e", "-s"),
    ),
}


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a suite ended."""

    suite: Suite
    exit_code: int
    seconds: float

    @property
    def failure(self) -> str:
        """Why the suite counts as failed; empty if it does not."""
        if self.exit_code != 0:
            return f"exit code {self.exit_code}"
        if self.seconds > self.suite.budget_seconds:
            return f"over its budget of {self.suite.budget_seconds} s"
        return ""


def run(suite: Suite) -> Outcome:
    print(f"\n=== {suite.name} (budget {suite.budget_seconds} s)", flush=True)
    began = time.monotonic()
    done = subprocess.run(suite.argv, check=False)
    return Outcome(suite, done.returncode, time.monotonic() - began)


def table(outcomes: Iterable[Outcome]) -> str:
    """Return a line a suite: its name, its time, its budget, and what went wrong."""
    return "\n".join(
        f"{each.suite.name:<14} {each.seconds:7.0f} s of {each.suite.budget_seconds:5} s  "
        f"{each.failure or 'ok'}"
        for each in outcomes
    )


def main(arguments: Sequence[str]) -> int:
    """Run the named list of suites; return 1 if any failed."""
    outcomes = [run(suite) for suite in SUITES[arguments[0]]]
    print(f"\n{table(outcomes)}")
    failed = sum(bool(each.failure) for each in outcomes)
    print(f"suites: {len(outcomes) - failed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
