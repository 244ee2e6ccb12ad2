"""`make test` and `make test-long`: groups of suites one after another, each within its budget.

The suites of a group run side by side, four at a time, in their order. One that fails or takes
longer than its budget fails the run; the others still run. What a failed one printed last is
printed again at the very end: often the end of a log is all that is kept of it.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Suite:
    """A command and the seconds that it may take, warm caches given."""

    name: str
    argv: tuple[str, ...]
    budget_seconds: int


LAST_LINES = 60
# Two cores are busy then: suites on clusters wait more than they work.
SIDE_BY_SIDE = 4
# The longest takes ten minutes alone, twice that beside three others, and four times on a machine
# that has more to do.
BESIDE_OTHERS_SECONDS = 2700
Groups = tuple[tuple[Suite, ...], ...]


def _pytest(name: str, budget_seconds: int, *arguments: str) -> Suite:
    return Suite(name, (sys.executable, "-m", "pytest", *arguments), budget_seconds)


# What is built once and kept in the user's cache: these budgets are for a new machine.
SETUP = (
    (Suite("go-tools", (sys.executable, "-m", "e2e.cluster", "tools"), 2400),),
    (Suite("images", (sys.executable, "-m", "images", "build"), 1500),),
)
SETUP_LONG = ((Suite("keda", (sys.executable, "-m", "images", "build", "keda"), 1800),),)
# What has a suite of its own; "unit" is the rest of tests/.
APART = ("launcher", "integration", "resilience", "door", "discovery", "signals")
LINT = (Suite("lint", ("make", "--no-print-directory", "lint"), 180),)
# It waits more than it works, like those on clusters.
INTEGRATION = _pytest("integration", BESIDE_OTHERS_SECONDS, "tests/integration")
QUICK = (
    _pytest("unit", BESIDE_OTHERS_SECONDS, "tests", *(f"--ignore=tests/{each}" for each in APART)),
    _pytest("launcher", BESIDE_OTHERS_SECONDS, "tests/launcher"),
    _pytest("door", BESIDE_OTHERS_SECONDS, "tests/door", "tests/discovery"),
    _pytest("signals", BESIDE_OTHERS_SECONDS, "tests/signals"),
)
# The groups of tests on real nodes; each has clusters of its own, and mostly waits for pods.
ON_CLUSTERS = {
    "e2e-faults": ("faults", "ledger", "rollout"),
    "e2e-models": ("examples", "models", "serving", "recipes"),
    "e2e-machine": ("cluster", "images", "checkpoints", "ranks"),
    "e2e-jobs": ("training", "kills", "recovery", "status", "attacks"),
    "e2e-scaling": ("autoscaling", "keda"),
}


def _on_cluster(name: str, budget_seconds: int, *arguments: str) -> Suite:
    files = (f"e2e/test_{each}.py" for each in ON_CLUSTERS[name])
    return _pytest(name, budget_seconds, *files, *arguments)


def _on_clusters(seconds: int, *arguments: str) -> tuple[Suite, ...]:
    return tuple(_on_cluster(name, seconds, *arguments) for name in ON_CLUSTERS)


def _resilience(seconds: int, *arguments: str) -> Suite:
    return _pytest("resilience", seconds, "tests/resilience", *arguments)


NOT_LONG = ("-m", "not long")
# Long ones first, so that none is left to run alone at the end.
BESIDE = (
    INTEGRATION,
    *_on_clusters(BESIDE_OTHERS_SECONDS, *NOT_LONG),
    _resilience(BESIDE_OTHERS_SECONDS, *NOT_LONG),
    *QUICK,
)
SUITES: dict[str, Groups] = {
    "test": (*SETUP, LINT, BESIDE),
    "test-long": (*SETUP, *SETUP_LONG, (_resilience(10800, "-s"), *_on_clusters(5400, "-s"))),
}


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a suite ended, and the last lines that it printed."""

    suite: Suite
    exit_code: int
    seconds: float
    last_lines: tuple[str, ...] = ()

    @property
    def failure(self) -> str:
        """Why the suite counts as failed; empty if it does not."""
        if self.exit_code != 0:
            return f"exit code {self.exit_code}"
        if self.seconds > self.suite.budget_seconds:
            return f"over its budget of {self.suite.budget_seconds} s"
        return ""


def run(suite: Suite) -> Outcome:
    """Run a suite; what it prints comes line by line, behind its name."""
    print(f"=== {suite.name} (budget {suite.budget_seconds} s)", flush=True)
    began = time.monotonic()
    last_lines: deque[str] = deque(maxlen=LAST_LINES)
    with subprocess.Popen(
        suite.argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    ) as process:
        for line in process.stdout or ():
            print(f"{suite.name}: {line}", end="", flush=True)
            last_lines.append(line)
    return Outcome(suite, process.returncode, time.monotonic() - began, tuple(last_lines))


def run_group(group: Sequence[Suite]) -> list[Outcome]:
    """Run suites side by side, each as soon as there is a place for it."""
    with ThreadPoolExecutor(SIDE_BY_SIDE) as threads:
        return list(threads.map(run, group))


def table(outcomes: Iterable[Outcome]) -> str:
    """Return a line a suite: its name, its time, its budget, and what went wrong."""
    return "\n".join(
        f"{each.suite.name:<14} {each.seconds:7.0f} s of {each.suite.budget_seconds:5} s  "
        f"{each.failure or 'ok'}"
        for each in outcomes
    )


def main(arguments: Sequence[str]) -> int:
    """Run the named list of suites; return 1 if any failed."""
    outcomes = [outcome for group in SUITES[arguments[0]] for outcome in run_group(group)]
    print(f"\n{table(outcomes)}")
    failed = [each for each in outcomes if each.failure]
    print(f"suites: {len(outcomes) - len(failed)} passed, {len(failed)} failed")
    for each in failed:
        print(f"\n=== {each.suite.name}: {each.failure}; it ended with\n{''.join(each.last_lines)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
