"""How the bars are judged."""

from __future__ import annotations

import math

import pytest

from bench.autoscaling import bars
from bench.autoscaling.table import Row, means


def a_row(policy: str, loss: float, cost: float, setting: str = "", *, default: bool = True) -> Row:
    return Row(policy, setting, default, 100, loss, 1000 * cost, 3, cost)


def others(loss: float, cost: float) -> list[Row]:
    return [a_row(policy, loss, cost) for policy in bars.SHARE_OF_DEFAULT]


def test_ours_must_lose_half_of_kpas_at_no_more_cost() -> None:
    rows = [a_row("lepton", 5.0, 2.0), *others(10.0, 2.0)]
    held = {each.bar.split()[0]: each.holds for each in bars.against_defaults(rows, rows[:1])}
    assert held == dict.fromkeys(bars.SHARE_OF_DEFAULT, True)
    rows = [a_row("lepton", 6.0, 2.0), *others(10.0, 2.0)]
    held = {each.bar.split()[0]: each.holds for each in bars.against_defaults(rows, rows[:1])}
    assert (held["kpa"], held["ray"], held["apa"]) == (False, False, True)


def test_a_cheaper_rival_is_met_at_its_own_cost() -> None:
    curve = [a_row("lepton", 8.0, 1.5, "p50", default=False), a_row("lepton", 4.0, 2.5)]
    rows = [curve[1], *others(10.0, 2.0)]
    verdict = next(iter(bars.against_defaults(rows, curve)))
    assert "our curve at its cost: 6.00 %" in verdict.found
    assert not verdict.holds


def test_the_best_tuned_rival_is_the_one_that_loses_least_for_as_little() -> None:
    rows = [
        a_row("lepton", 4.0, 2.0),
        a_row("kpa", 5.0, 1.9, "a"),
        a_row("ray", 4.4, 2.0, "b", default=False),
        a_row("ray", 1.0, 2.1, "c", default=False),
        a_row("clairvoyant", 0.0, 1.5),
    ]
    best = bars.best_tuned(rows, 2.0)
    assert best is not None
    assert (best.policy, best.setting) == ("ray", "b")
    assert not bars.against_tuned(rows).holds
    assert bars.gap_closed(rows) == pytest.approx(0.4 / 4.4)


def test_nobody_as_cheap_is_no_defeat() -> None:
    rows = [a_row("lepton", 4.0, 1.0), *others(3.0, 2.0)]
    assert bars.against_tuned(rows).holds
    assert math.isnan(bars.gap_closed([*rows, a_row("clairvoyant", 0.0, 1.5)]))


def test_static_of_equal_cost_lies_between_two_numbers_of_replicas() -> None:
    static = [
        a_row("static-N", 20.0, 1.5, "1", default=False),
        a_row("static-N", 10.0, 2.5, "2", default=False),
        a_row("static-N", 0.0, 1.6, "each trace's peak"),
    ]
    assert bars.loss_at(static[:2], 2.0) == 15.0
    assert bars.against_static([a_row("lepton", 15.0, 2.0), *static]).holds
    assert not bars.against_static([a_row("lepton", 15.1, 2.0), *static]).holds


def test_a_rival_better_in_both_is_named() -> None:
    rows = [a_row("lepton", 10.0, 2.0), a_row("kpa", 9.0, 1.8), a_row("ray", 9.0, 1.95)]
    (verdict,) = bars.better_on("steps", rows)
    assert (verdict.holds, "kpa" in verdict.found) == (False, True)


def test_the_wave_asks_for_both() -> None:
    known = a_row("oracle", 0.1, 1.4)
    assert bars.on_the_wave(a_row("lepton", 0.9, 1.7), known).holds
    assert not bars.on_the_wave(a_row("lepton", 1.1, 1.7), known).holds
    assert not bars.on_the_wave(a_row("lepton", 0.9, 1.8), known).holds


def test_means_are_over_cases_and_only_of_what_each_case_has() -> None:
    tables = [[a_row("kpa", 2.0, 1.0), a_row("oracle", 0.0, 1.0)], [a_row("kpa", 4.0, 2.0)]]
    (row,) = means(tables)
    assert (row.violations_percent, row.cost, row.gpu_seconds, row.requests) == (
        3.0,
        1.5,
        3000,
        200,
    )
