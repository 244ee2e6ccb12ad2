"""Every law over a trace: `make bench-autoscaling TRACE=file.csv STARTUP=60`.

A trace is one arrival time in seconds a line, or the name of one of the suite's. Without one all of
these are run: violations are then the mean over traces, GPU seconds the sum. The last line is
`{"rows": [{"policy", "setting", "default", "requests", "violations_percent", "gpu_seconds",
"scalings", "cost"}]}`.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from pathlib import Path

from bench.autoscaling import arrivals
from bench.autoscaling.arrivals import TRACES, Trace
from bench.autoscaling.ours import lepton
from bench.autoscaling.prometheus import Scraping
from bench.autoscaling.run import Case
from bench.autoscaling.table import Row, as_json, bounds, lines, means, rivals
from bench.autoscaling.world import BALANCINGS, Setting


def main() -> int:
    arguments = _arguments()
    setting = Setting(
        service_seconds=arguments.service_ms / 1e3,
        target_seconds=arguments.target_ms / 1e3,
        percentile=arguments.percentile,
        startup_seconds=arguments.startup,
        startup_cv=arguments.startup_cv,
        service_cv=arguments.service_cv,
        max_batch=arguments.max_batch,
        balancing=arguments.balancing,
    )
    scraping = Scraping(arguments.scrape_interval, arguments.scrape_delay, arguments.scrape_loss)
    try:
        traces = _traces(arguments.trace, arguments.seed)
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    tables = []
    for trace in traces:
        case = Case(trace, setting, scraping, arguments.seed)
        tables.append(table(case))
        print(f"\n{_introduced(case)}", *lines(_ordered(tables[-1])), sep="\n", flush=True)
    rows = tables[0] if len(tables) == 1 else means(tables)
    if len(tables) > 1:
        print("\nThe mean over these traces", *lines(_ordered(rows)), sep="\n")
    print(json.dumps(as_json(rows)))
    return 0


def table(case: Case) -> list[Row]:
    """Return our law's row, the rivals' and the bounds'."""
    return [lepton(case), *rivals(case), *bounds(case)]


def _traces(name: str | None, seed: int) -> list[Trace]:
    if name is None:
        return [draw(seed) for draw in TRACES.values()]
    return [TRACES[name](seed)] if name in TRACES else [arrivals.load(Path(name))]


def _ordered(rows: list[Row]) -> list[Row]:
    """Return defaults first, then by loss."""
    return sorted(rows, key=lambda each: (not each.default, each.violations_percent))


def _introduced(case: Case) -> str:
    setting = case.setting
    return (
        f"{case.trace.name}: {len(case.trace.arrivals):,} requests in "
        f"{case.trace.duration_seconds:,.0f} s, offered load {case.offered:.2f}, first "
        f"{case.initial}, at most {case.most} replicas; start-up {setting.startup_seconds:g} s, "
        f"service {setting.service_seconds * 1e3:g} ms, target {setting.target_seconds * 1e3:g} ms "
        f"at p{setting.percentile:g}, {setting.balancing}"
    )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench.autoscaling", description=__doc__)
    default = {field.name: field.default for field in dataclasses.fields(Setting)}
    parser.add_argument("--trace", help=f"a file, or one of {', '.join(TRACES)}; default: all")
    parser.add_argument("--startup", type=_positive, default=default["startup_seconds"])
    parser.add_argument("--target-ms", type=_positive, default=500.0)
    parser.add_argument("--service-ms", type=_positive, default=100.0)
    parser.add_argument("--percentile", type=_percentile, default=default["percentile"])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--balancing", choices=list(BALANCINGS)[:2], default="least-loaded")
    beyond = parser.add_argument_group("beyond make's variables")
    beyond.add_argument("--startup-cv", type=_positive, default=default["startup_cv"])
    beyond.add_argument("--service-cv", type=float, default=default["service_cv"])
    beyond.add_argument("--max-batch", type=int, default=default["max_batch"])
    scraping = Scraping()
    beyond.add_argument("--scrape-interval", type=int, default=scraping.interval_seconds)
    beyond.add_argument("--scrape-delay", type=float, default=scraping.delay_seconds)
    beyond.add_argument("--scrape-loss", type=float, default=scraping.lost_share)
    return parser.parse_args()


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} must be above 0")
    return value


def _percentile(text: str) -> float:
    value = float(text)
    if not 0 < value < 100:
        raise argparse.ArgumentTypeError(f"{text} must be between 0 and 100")
    return value


if __name__ == "__main__":
    sys.exit(main())
