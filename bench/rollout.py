"""Requests that fail while something happens to a service: four clients, each at a constant rate.

Each client begins its requests whatever becomes of those before, from 10 s before an event to 20 s
after it. `make bench-rollout EVENTS=new_version,pod_killed COUNT=1`: by default all events, once.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence

from bench.installed import Bench, installed, last_line
from e2e.load import RATE
from e2e.rollout.events import EVENTS
from e2e.rollout.measure import Measured, measured

NODES = 2
BEFORE_SECONDS = 10.0
AFTER_SECONDS = 20.0
_COLUMNS = ("requests", "failed", "worst_ms", "p99_ms", "in_flight_at_event", "gap_s", "gap_said_s")


def runs_of(bench: Bench, name: str, count: int) -> list[Measured]:
    """Have one event happen so many times, and print what was not as it should be."""
    runs = []
    for number in range(1, count + 1):
        found = measured(
            *(bench.target, bench.kubectl, name, EVENTS[name]),
            before_seconds=BEFORE_SECONDS,
            after_seconds=AFTER_SECONDS,
        )
        print(f"  {name} {number} of {count}: {found.told()}", flush=True)
        for sentence in (*found.missed, *found.too_slow):
            print(f"    MISSED: {sentence}", flush=True)
        for failure in found.failures[:5]:
            print(f"    {failure}", flush=True)
        runs.append(found)
    return runs


def worst(runs: Sequence[Measured]) -> Measured:
    """Return the run that missed most; of equal ones the slowest."""
    return max(
        runs, key=lambda each: (len(each.missed), each.figures.failed, each.figures.worst_ms)
    )


def table(figures: Mapping[str, Mapping[str, object]]) -> str:
    heads = "".join(f"{name:>20}" for name in _COLUMNS)
    lines = [f"{'':<26}{heads}"]
    for name, each in figures.items():
        cells = "".join(f"{_cell(each[column]):>20}" for column in _COLUMNS)
        lines.append(f"{name:<26}{cells}")
    return "\n".join(lines)


def _cell(value: object) -> str:
    return "-" if value is None else str(value)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", default=",".join(EVENTS))
    parser.add_argument("--count", type=int, default=1)
    options = parser.parse_args()
    names = options.events.split(",")
    if unknown := set(names) - set(EVENTS):
        parser.error(f"there is no {', '.join(sorted(unknown))}, but {', '.join(EVENTS)}")
    with installed(nodes=NODES) as bench:
        found = {name: worst(runs_of(bench, name, options.count)) for name in names}
    figures = {name: each.told() for name, each in found.items()}
    print(f"\nThe worst of {options.count}; four clients, each {RATE} requests a second\n")
    print(table(figures))
    for name, each in found.items():
        for sentence in (*each.missed, *each.too_slow):
            print(f"MISSED by {name}: {sentence}")
    last_line(figures)
    return 0


if __name__ == "__main__":
    sys.exit(main())
