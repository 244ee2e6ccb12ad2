"""Every trace, start-up time and seed: the bars, and the figures of docs/autoscaling-benchmark.md.

`make bench-autoscaling-suite SEEDS=3`. The last line is `{"bars": [{"startup_seconds", "bar",
"found", "holds"}]}`. Rivals and bounds are simulated once for each state of the simulator's code.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Iterator

from bench.autoscaling import bars
from bench.autoscaling.arrivals import TRACES
from bench.autoscaling.bars import Verdict
from bench.autoscaling.bounds import oracle
from bench.autoscaling.reference import ours, reference
from bench.autoscaling.report import write
from bench.autoscaling.results import Suite
from bench.autoscaling.run import Case
from bench.autoscaling.table import Row, row
from bench.autoscaling.world import Setting

STARTUPS_SECONDS = (30.0, 60.0, 120.0, 300.0)
# The same law asked for other percentiles: its curve of loss over cost, on the first seed.
PERCENTILES = (10.0, 50.0, 75.0, 90.0, 98.0, 99.0, 99.7)
FAST = Setting()
SLOW = Setting(service_seconds=0.8, target_seconds=2.0)


def measured(setting: Setting, seeds: int) -> Suite:
    """Run our law and look up or run the others, over each trace and seed."""
    tables = []
    for seed in range(seeds):
        table = {}
        for name, draw in TRACES.items():
            case = Case(draw(seed), setting, seed=seed)
            table[name] = [ours(case), *reference(case)]
            if seed == 0:
                table[name] += curve(case)
            print(f"{setting.startup_seconds:g} s, seed {seed}: {name}", file=sys.stderr)
        tables.append(table)
    return Suite(setting, tables)


def curve(case: Case) -> Iterator[Row]:
    """Run our law for other percentiles; what is over the target is counted as ever."""
    for percentile in PERCENTILES:
        asked = ours(case, percentile)
        yield dataclasses.replace(asked, default=False)


def verdicts(suite: Suite) -> Iterator[Verdict]:
    """Judge every bar for one start-up time."""
    rows = suite.rows
    yield from bars.against_defaults(rows, suite.curve)
    yield bars.against_tuned(rows)
    yield bars.against_static(rows)
    yield wave(suite.setting, len(suite.tables))
    for trace in TRACES:
        yield from bars.better_on(trace, suite.of_trace(trace))
    yield Verdict(
        "share of the gap to the clairvoyant closed", f"{bars.gap_closed(rows):.0%}", True
    )


def wave(setting: Setting, seeds: int) -> Verdict:
    """Run the wave at the 99th percentile beside the oracle; the worst of the seeds counts."""
    asked = dataclasses.replace(setting, percentile=99.0)
    found = []
    for seed in range(seeds):
        case = Case(TRACES["wave"](seed), asked, seed=seed)
        found.append((ours(case), row("oracle", "", True, oracle(case))))
    judged = [bars.on_the_wave(mine, known) for mine, known in found]
    return next((each for each in judged if not each.holds), judged[0])


def main() -> int:
    arguments = _arguments()
    judged: list[tuple[Suite, list[Verdict]]] = []
    for base, seeds in ((FAST, arguments.seeds), (SLOW, arguments.slow_seeds)):
        for startup in STARTUPS_SECONDS if seeds else ():
            suite = measured(dataclasses.replace(base, startup_seconds=startup), seeds)
            judged.append((suite, list(verdicts(suite))))
            write(judged)
    found = [
        {
            "startup_seconds": suite.setting.startup_seconds,
            "service_seconds": suite.setting.service_seconds,
            **dataclasses.asdict(verdict),
        }
        for suite, each in judged
        for verdict in each
    ]
    for each in found:
        print("holds" if each["holds"] else "FAILS", *list(each.values())[:4], sep="  ")
    print(json.dumps({"bars": found}))
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench.autoscaling.suite", description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--slow-seeds", type=int, default=1, help="of the service of 800 ms")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
