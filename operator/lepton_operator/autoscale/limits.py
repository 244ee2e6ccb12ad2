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
    window = rules.stabilization_window_seconds or 0
    seen = [each.replicas for each in advice if each.time > now - window]
    if wanted > current:
        return max(current, min((wanted, *seen)))
    return min(current, max((wanted, *seen)))


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
        return min(wanted, max(current, pick(_most(changes, now, current, each) for each in rules.policies)))
    reach = [current - _least(changes, now, current, each) for each in rules.policies]
    return max(wanted, current - max(0, pick(reach)))


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
