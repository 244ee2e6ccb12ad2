"""What each fault costs a training of three pods on two nodes, from timestamps: medians of COUNT.

`make bench-recovery COUNT=3 FAULTS=pod,node`: by default all of them, three times each.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Mapping, Sequence

from bench.installed import installed, last_line
from e2e.recovery.faults import FAULTS
from e2e.recovery.measure import Measured, measured
from e2e.recovery.timeline import rounded
from e2e.recovery.volume import Shared, shared_volume

NODES = 2
OVERHEAD_SECONDS = 2.0
_COLUMNS = ("detect_s", "lost_steps", "pod_start_s", "import_s", "rendezvous_s", "restore_s")
_SUMS = ("overhead_s", "wall_s")


def medians(runs: Sequence[Measured]) -> dict[str, object]:
    """Return the median of each figure that is known; the class is the one of the last run."""
    told = [rounded(each.recovery) for each in runs]
    return {
        name: value if name == "class" else _median([each[name] for each in told])
        for name, value in told[-1].items()
    }


def _median(values: Sequence[object]) -> float | None:
    known = [value for value in values if isinstance(value, int | float)]
    return round(statistics.median(known), 2) if known else None


def runs_of(shared: Shared, name: str, count: int) -> list[Measured]:
    """Hurt so many jobs, one after another, and print what was beyond its bound."""
    runs = []
    for number in range(1, count + 1):
        found = measured(shared, f"{name.replace('_', '-')}-{number}", FAULTS[name])
        print(f"  {name} {number} of {count}: {rounded(found.recovery)}", flush=True)
        for sentence in (*found.beyond_bounds, *found.wrong):
            print(f"    NOT AS IT SHOULD BE: {sentence}", flush=True)
        runs.append(found)
    return runs


def table(figures: Mapping[str, Mapping[str, object]], runs: Mapping[str, list[Measured]]) -> str:
    """Return a line a fault, with the bounds beside what is bounded."""
    heads = "".join(f"{name:>14}" for name in (*_COLUMNS, *_SUMS))
    lines = [f"{'':<19}{'class':<18}{heads}"]
    for name, each in figures.items():
        bounds = {
            "detect_s": f"<={runs[name][-1].detect_bound_s:.0f}",
            "lost_steps": f"<={max(run.lost_steps_bound for run in runs[name])}",
            "overhead_s": f"<={OVERHEAD_SECONDS:.0f}",
        }
        cells = "".join(
            f"{_cell(each[column], bounds.get(column, '')):>14}" for column in (*_COLUMNS, *_SUMS)
        )
        lines.append(f"{name:<19}{each['class']!s:<18}{cells}")
    return "\n".join(lines)


def _cell(value: object, bound: str) -> str:
    return "-" if value is None else f"{value} {bound}".rstrip()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=3)
    parser.add_argument("--faults", default=",".join(FAULTS))
    options = parser.parse_args()
    runs = {}
    with installed(nodes=NODES) as bench:
        assert bench.target.embedded is not None
        with shared_volume(bench.target.embedded, bench.kubectl) as shared:
            for name in options.faults.split(","):
                runs[name] = runs_of(shared, name, options.count)
    figures = {name: medians(each) for name, each in runs.items()}
    print(f"\nMedians of {options.count}; a step takes 0.2 s, a checkpoint comes each 2 s\n")
    print(table(figures, runs))
    last_line(figures)
    return 0


if __name__ == "__main__":
    sys.exit(main())
