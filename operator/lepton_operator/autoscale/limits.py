"""`behavior`: autoscaling/v2's stabilisation windows and limits on a rate of change.

The semantics are those of Kubernetes' horizontal pod autoscaler: upwards the least advice of the
window holds, downwards the most; a policy looks at what was changed in its period; Max takes the
policy that lets the most through. Unlike there, no limit is set where none was asked for.
"""

from __future__ import annotations

import math

from lepton_operator.autoscale.values import Advice, Change, ScalingPolicy, ScalingRules


def stabilised(
    advice: tuple[Advice, ...], now: float, current: int, wanted: int, rules: ScalingRules
) -> int:
    """Return what the window of this direction lets through."""
    since = now - (rules.stabilization_window_seconds or 0)
    # Each advice held until the next one came.
    ends = (*(each.time for each in advice[1:]), now)
    seen = [each.replicas for each, end in zip(advice, ends, strict=False) if end > since]
    if wanted > current:
        return max(current, min((wanted, *seen)))
    return min(current, max((wanted, *seen)))


def remembered(
    advice: tuple[Advice, ...], now: float, wanted: int, up: ScalingRules, down: ScalingRules
) -> tuple[Advice, ...]:
    """Return the advice that a window can still look at: the times at which it changed."""
    longest = max(up.stabilization_window_seconds or 0, down.stabilization_window_seconds or 0)
    if longest == 0 or (advice and advice[-1].replicas == wanted):
        return advice
    ends = (*(each.time for each in advice[1:]), now)
    recent = (each for each, end in zip(advice, ends, strict=False) if end > now - longest)
    return (*recent, Advice(now, wanted))


def counted(
    changes: tuple[Change, ...], now: float, delta: int, up: ScalingRules, down: ScalingRules
) -> tuple[Change, ...]:
    """Return the changes that a policy can still look at, with the one that is seen now."""
    periods = [each.period_seconds for each in (*up.policies, *down.policies)]
    if not periods or not delta:
        return changes
    recent = (each for each in changes if each.time > now - max(periods))
    return (*recent, Change(now, delta))


def limited(
    changes: tuple[Change, ...], now: float, current: int, wanted: int, rules: ScalingRules
) -> int:
    """Return how far the policies of this direction let it go."""
    if wanted == current:
        return current
    if rules.select_policy == "Disabled":
        return current
    if not rules.policies:
        return wanted
    pick = max if rules.select_policy == "Max" else min
    if wanted > current:
        highest = pick(_most(changes, now, current, each) for each in rules.policies)
        return min(wanted, max(current, highest))
    furthest = pick(current - _least(changes, now, current, each) for each in rules.policies)
    return max(wanted, current - max(0, furthest))


def _most(changes: tuple[Change, ...], now: float, current: int, policy: ScalingPolicy) -> int:
    began = current - _changed(changes, now, policy, 1)
    if policy.type == "Pods":
        return began + policy.value
    return math.ceil(began * (1 + policy.value / 100))


def _least(changes: tuple[Change, ...], now: float, current: int, policy: ScalingPolicy) -> int:
    began = current - _changed(changes, now, policy, -1)
    if policy.type == "Pods":
        return began - policy.value
    return math.floor(began * (1 - policy.value / 100))


def _changed(changes: tuple[Change, ...], now: float, policy: ScalingPolicy, sign: int) -> int:
    """Return what was added (or removed, negative) within the policy's period."""
    return sum(
        each.delta
        for each in changes
        if each.time > now - policy.period_seconds and each.delta * sign > 0
    )
