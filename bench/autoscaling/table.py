"""What every law made of one case: a row a policy and setting."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from bench.autoscaling.bounds import MARGINS, clairvoyant, oracle
from bench.autoscaling.rivals import RIVALS, Rival, Tuning
from bench.autoscaling.run import Case, Outcome, run_rival, run_static

# Fixed numbers of replicas, as multiples of the offered load.
STATIC = (1.0, 1.3, 1.6, 2.0, 2.5, 3.0, 3.5, 4.0, 5.0, 6.0, 8.0, 10.0)


@dataclass(frozen=True)
class Row:
    """One policy under one setting; `default` where it is as its makers ship it."""

    policy: str
    setting: str
    default: bool
    requests: int
    violations_percent: float
    gpu_seconds: float
    scalings: int
    cost: float  # gpu_seconds / (duration x max(1, offered load))


def row(policy: str, setting: str, default: bool, outcome: Outcome) -> Row:  # noqa: FBT001
    return Row(
        policy,
        setting,
        default,
        outcome.requests,
        outcome.violations_percent,
        outcome.gpu_seconds,
        outcome.scalings,
        outcome.cost,
    )


def said(rival: Rival, tuning: Tuning) -> str:
    return f"target={tuning.target:g} {rival.unit}, down={tuning.down_window} s"


def rivals(case: Case) -> Iterator[Row]:
    """Run each of the others with its defaults and over its grid."""
    for rival in RIVALS.values():
        for tuning in rival.grid:
            outcome = run_rival(rival, tuning, case)
            yield row(rival.name, said(rival, tuning), tuning == rival.default, outcome)


def bounds(case: Case) -> Iterator[Row]:
    """Run fixed numbers of replicas, and those who know what comes."""
    for times in STATIC:
        replicas = max(1, round(times * case.offered))
        setting = f"N={times:g} x offered load"
        yield row("static-N", setting, False, run_static(replicas, case))
    peak = case.static_peak
    yield row("static-N", "N=static peak", True, run_static(peak, case))
    plans = {margin: clairvoyant(margin, case) for margin in MARGINS}
    for margin, outcome in plans.items():
        yield row("clairvoyant", f"margin={margin:g}", False, outcome)
    yield row("clairvoyant", "the least margin that holds", True, _holding(plans.values(), case))
    if case.trace.rate is not None:
        yield row("oracle", "knows the rate", True, oracle(case))


def _holding(plans: Iterable[Outcome], case: Case) -> Outcome:
    """Return the cheapest plan that holds the percentile; the safest where none does."""
    found = sorted(plans, key=lambda each: each.gpu_seconds)
    allowed = 100 - case.setting.percentile
    safest = min(found, key=lambda each: each.violations_percent)
    return next((each for each in found if each.violations_percent <= allowed), safest)


def mean(rows: Sequence[Row]) -> Row:
    """Return one policy's and setting's mean over cases; requests and scalings are sums."""
    count = len(rows)
    return dataclasses.replace(
        rows[0],
        requests=sum(each.requests for each in rows),
        violations_percent=sum(each.violations_percent for each in rows) / count,
        gpu_seconds=sum(each.gpu_seconds for each in rows),
        scalings=sum(each.scalings for each in rows),
        cost=sum(each.cost for each in rows) / count,
    )


def means(tables: Iterable[Sequence[Row]]) -> list[Row]:
    """Return a row for each policy and setting that every table has."""
    found: dict[tuple[str, str], list[Row]] = {}
    number = 0
    for table in tables:
        number += 1
        for each in table:
            found.setdefault((each.policy, each.setting), []).append(each)
    return [mean(rows) for rows in found.values() if len(rows) == number]


def lines(rows: Sequence[Row]) -> Iterator[str]:
    """Return a table for people."""
    yield (
        f"{'policy':<15}{'setting':<38}{'':<9}{'violations %':>12}{'GPU seconds':>13}"
        f"{'cost':>7}{'scalings':>10}"
    )
    for each in rows:
        yield (
            f"{each.policy:<15}{each.setting:<38}{'default' if each.default else '':<9}"
            f"{each.violations_percent:>12.2f}{each.gpu_seconds:>13.0f}{each.cost:>7.2f}"
            f"{each.scalings:>10}"
        )


def as_json(rows: Iterable[Row], only: Callable[[Row], bool] = lambda _: True) -> dict[str, Any]:
    return {"rows": [dataclasses.asdict(each) for each in rows if only(each)]}
