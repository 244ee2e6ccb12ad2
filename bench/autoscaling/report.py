"""The tables and plots of docs/autoscaling-benchmark.md, between its markers; the prose is ours."""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib as mpl

from bench.autoscaling import bars
from bench.autoscaling.arrivals import TRACES
from bench.autoscaling.bars import Verdict
from bench.autoscaling.results import Suite
from bench.autoscaling.rivals import RIVALS
from bench.autoscaling.table import Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PAGE = Path("docs/autoscaling-benchmark.md")
PICTURES = Path("docs/images")

Judged = Sequence[tuple[Suite, Sequence[Verdict]]]


def write(judged: Judged) -> None:
    """Put the figures between the page's markers, and the plots beside it."""
    PICTURES.mkdir(parents=True, exist_ok=True)
    page = PAGE.read_text()
    for suite, verdicts in judged:
        name = _name(suite)
        pareto(suite, PICTURES / f"autoscaling-{name}.png")
        page = replaced(page, f"rows {name}", _summary(suite))
        page = replaced(page, f"bars {name}", _verdicts(verdicts))
        page = replaced(page, f"equal {name}", _at_equal_cost(suite))
        page = replaced(page, f"traces {name}", _by_trace(suite))
    page = replaced(page, "wins", _wins([suite for suite, _ in judged]))
    PAGE.write_text(page)


def replaced(page: str, marker: str, lines: Iterable[str]) -> str:
    """Return the page with other text between a marker's begin and end; unchanged without it."""
    begin, end = f"<!-- begin {marker} -->", f"<!-- end {marker} -->"
    text = "\n".join([begin, "", *lines, "", end])
    return re.sub(f"{re.escape(begin)}.*?{re.escape(end)}", lambda _: text, page, flags=re.DOTALL)


def _name(suite: Suite) -> str:
    setting = suite.setting
    return f"{setting.service_seconds * 1e3:g}ms-{setting.startup_seconds:g}s"


def _summary(suite: Suite) -> Iterator[str]:
    """Yield a row for each default, each rival's best setting at our cost, and the bounds."""
    rows = suite.rows
    mine = bars.ours(rows)
    yield "| policy | setting | over the target, % | cost | scalings an hour |"
    yield "|---|---|---|---|---|"
    yield _line(suite, mine, "**lepton**")
    for rival in RIVALS:
        own = bars.of_policy(rows, rival)
        yield _line(suite, next(each for each in own if each.default), rival)
        best = bars.best_tuned(own, mine.cost)
        if best is not None and not best.default:
            yield _line(suite, best, f"{rival}, tuned")
    for bound in bars.BOUNDS[:2]:
        yield _line(suite, next(e for e in bars.of_policy(rows, bound) if e.default), bound)


def _line(suite: Suite, row: Row, name: str) -> str:
    found = [
        each
        for seed in suite.by_seed
        for each in seed
        if (each.policy, each.setting) == (row.policy, row.setting)
    ]
    losses = _spread([each.violations_percent for each in found])
    costs = _spread([each.cost for each in found])
    hours = len(suite.tables) * len(TRACES)
    return f"| {name} | {row.setting} | {losses} | {costs} | {row.scalings / hours:.0f} |"


def _spread(values: Sequence[float]) -> str:
    """Return a mean and, of several, their standard deviation."""
    mean = statistics.mean(values)
    return f"{mean:.2f}" + (f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else "")


def _verdicts(verdicts: Iterable[Verdict]) -> Iterator[str]:
    yield "| bar | found | holds |"
    yield "|---|---|---|"
    for each in verdicts:
        yield f"| {each.bar} | {each.found} | {'yes' if each.holds else '**no**'} |"


def _at_equal_cost(suite: Suite) -> Iterator[str]:
    """Yield what our law loses for the money of each rival at its defaults, on the first seed."""
    yield "| rival at its defaults | cost | over the target, % | ours for as much, % | share |"
    yield "|---|---|---|---|---|"
    rows, curve = suite.by_seed[0], suite.curve
    for rival in RIVALS:
        (theirs,) = (each for each in bars.of_policy(rows, rival) if each.default)
        loss, own = bars.loss_at(curve, theirs.cost), theirs.violations_percent
        found = f"{loss:.2f} | {loss / own:.2f}" if math.isfinite(loss) else "never as cheap | "
        yield f"| {rival} | {theirs.cost:.2f} | {own:.2f} | {found} |"


def _by_trace(suite: Suite) -> Iterator[str]:
    """Yield loss at cost of every default on every trace."""
    names = ["lepton", *RIVALS, "static-N", "clairvoyant"]
    yield "| trace | " + " | ".join(names) + " |"
    yield "|---" * (len(names) + 1) + "|"
    for trace in TRACES:
        defaults = {each.policy: each for each in suite.of_trace(trace) if each.default}
        cells = (f"{defaults[n].violations_percent:.1f} at {defaults[n].cost:.2f}" for n in names)
        yield f"| {trace} | " + " | ".join(cells) + " |"


def _wins(suites: Sequence[Suite]) -> Iterator[str]:
    """Yield where each rival at its defaults loses less than ours, costs less, or both."""
    yield "| rival at its defaults | runs | loses less | costs less | both, and where |"
    yield "|---|---|---|---|---|"
    for rival in RIVALS:
        less, cheaper, both = 0, 0, []
        for suite in suites:
            for trace in TRACES:
                rows = suite.of_trace(trace)
                mine = bars.ours(rows)
                theirs = next(e for e in bars.of_policy(rows, rival) if e.default)
                safer = theirs.violations_percent < mine.violations_percent
                less += safer
                cheaper += theirs.cost < mine.cost
                if safer and theirs.cost < mine.cost:
                    both.append(f"{trace} ({_name(suite)})")
        runs = len(suites) * len(TRACES)
        where = f"{len(both)}: {', '.join(both)}" if both else "0"
        yield f"| {rival} | {runs} | {less} | {cheaper} | {where} |"


_COLOURS = ("tab:blue", "tab:cyan", "tab:purple", "tab:orange", "tab:green", "tab:brown",
            "tab:pink", "tab:olive")  # fmt: skip


def pareto(suite: Suite, file: Path) -> None:
    """Plot loss over cost: settings as dots, defaults as crosses, ours as a star with its curve."""
    mpl.use("agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415  (after the backend is chosen)

    figure, axes = plt.subplots(figsize=(8, 5.5))
    rows = suite.rows
    for rival, colour in zip(RIVALS, _COLOURS, strict=True):
        own = bars.of_policy(rows, rival)
        axes.scatter(*_points(own), s=8, color=colour, alpha=0.35)
        default = [each for each in own if each.default]
        axes.scatter(*_points(default), s=70, color=colour, marker="X", label=rival)
    _bound(axes, rows, "static-N", "black", ":")
    _bound(axes, rows, "clairvoyant", "grey", "--")
    curve = sorted(suite.curve, key=lambda each: each.cost)
    axes.plot(*_points(curve), color="tab:red", linewidth=1, label="lepton, other percentiles")
    axes.scatter(*_points([bars.ours(rows)]), s=220, color="tab:red", marker="*", label="lepton")
    for seed in suite.by_seed:
        axes.scatter(*_points([bars.ours(seed)]), s=20, color="tab:red", marker="*")
    mine = bars.ours(rows)
    axes.set(
        xlim=(0.9, max(6.0, 2 * mine.cost)),
        ylim=(0, 60),
        xlabel="cost: GPU seconds / (duration x max(1, offered load)), mean over traces",
        ylabel="requests over the target, %, mean over traces",
        title=f"start-up {suite.setting.startup_seconds:g} s, "
        f"service {suite.setting.service_seconds * 1e3:g} ms, "
        f"target {suite.setting.target_seconds * 1e3:g} ms",
    )
    axes.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(file, dpi=90)
    plt.close(figure)


def _bound(axes: Axes, rows: Sequence[Row], policy: str, colour: str, style: str) -> None:
    one = [
        each for each in bars.of_policy(rows, policy) if policy != "static-N" or not each.default
    ]
    own = sorted(one, key=lambda each: each.cost)
    axes.plot(*_points(own), color=colour, linestyle=style, linewidth=1, label=policy)


def _points(rows: Sequence[Row]) -> tuple[list[float], list[float]]:
    return [each.cost for each in rows], [each.violations_percent for each in rows]
