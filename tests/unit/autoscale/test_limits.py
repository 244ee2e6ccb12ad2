from __future__ import annotations

import pytest

from lepton_operator.autoscale.limits import counted, limited, remembered, stabilised
from lepton_operator.autoscale.values import Advice, Change, ScalingPolicy, ScalingRules

PODS = ScalingPolicy("Pods", 4, 60)
PERCENT = ScalingPolicy("Percent", 10, 60)
NO_RULES = ScalingRules()


def test_without_rules_everything_goes() -> None:
    assert stabilised((), 0, 3, 9, NO_RULES) == 9
    assert limited((), 0, 3, 9, NO_RULES) == 9
    assert limited((), 0, 9, 1, NO_RULES) == 1


def test_down_goes_only_what_the_whole_window_advised() -> None:
    rules = ScalingRules(stabilization_window_seconds=300)
    advice = (Advice(0, 8), Advice(100, 4))
    assert stabilised(advice, 200, 8, 4, rules) == 8
    # The advice of 8 held until 100: at 399 the window still sees it, at 401 no longer.
    assert stabilised(advice, 399, 8, 4, rules) == 8
    assert stabilised(advice, 401, 8, 4, rules) == 4


def test_up_goes_only_what_the_whole_window_advised() -> None:
    rules = ScalingRules(stabilization_window_seconds=60)
    assert stabilised((Advice(0, 3), Advice(30, 9)), 60, 3, 9, rules) == 3
    assert stabilised((Advice(0, 3), Advice(30, 9)), 91, 3, 9, rules) == 9


def test_advice_is_kept_for_as_long_as_a_window_sees_it() -> None:
    rules = ScalingRules(stabilization_window_seconds=60)
    advice = remembered((Advice(0, 8),), 30, 4, NO_RULES, rules)
    advice = remembered(advice, 60, 4, NO_RULES, rules)
    assert advice == (Advice(0, 8), Advice(30, 4))
    assert remembered(advice, 91, 5, NO_RULES, rules) == (Advice(30, 4), Advice(91, 5))
    assert remembered((), 0, 8, NO_RULES, NO_RULES) == ()


# The examples of Kubernetes' documentation: 80 pods, 4 pods or 10 percent a minute.
@pytest.mark.parametrize(
    ("select", "current", "allowed"),
    [("Max", 80, 72), ("Max", 72, 64), ("Max", 10, 6), ("Min", 80, 76), ("Disabled", 80, 80)],
)
def test_policies_limit_the_way_down(select: str, current: int, allowed: int) -> None:
    rules = ScalingRules(select_policy=select, policies=(PODS, PERCENT))  # type: ignore[arg-type]
    assert limited((), 100, current, 1, rules) == allowed


def test_what_was_changed_in_the_period_counts() -> None:
    rules = ScalingRules(policies=(PODS,))
    assert limited((Change(50, 3),), 100, 13, 30, rules) == 14
    assert limited((Change(30, 3),), 100, 13, 30, rules) == 17
    assert limited((Change(50, -4),), 100, 6, 1, rules) == 6


def test_percent_up_is_rounded_up() -> None:
    rules = ScalingRules(policies=(PERCENT,))
    assert limited((), 0, 1, 9, rules) == 2


def test_changes_are_kept_for_as_long_as_a_policy_sees_them() -> None:
    rules = ScalingRules(policies=(PODS,))
    changes = counted((Change(0, 2), Change(50, 1)), 70, -1, rules, NO_RULES)
    assert changes == (Change(50, 1), Change(70, -1))
    assert counted((), 70, 5, NO_RULES, NO_RULES) == ()
