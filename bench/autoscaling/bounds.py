"""What frames every law beside a fixed number of replicas: plans that know what will come.

The clairvoyant and the oracle order ahead and begin with what they need at once; their start-ups
take the mean, since who knows the future knows how long each will take. Both are plans: how many
replicas at each second.
"""

from __future__ import annotations

import math

import numpy as np

from bench.autoscaling.queueing import replicas_for
from bench.autoscaling.run import Case, Outcome, run_plan
from bench.autoscaling.world import Floats, Integers

# Windows in seconds over which the clairvoyant looks at what will arrive: from below any target to
# well above any start that is worth a new replica.
_WINDOWS = (1, 2, 4, 8, 15, 30, 60)
# The clairvoyant's family: its least plan, and what more or fewer replicas than that give.
MARGINS = (0.6, 0.7, 0.8, 0.9, 1.0, 1.15, 1.3, 1.5, 2.0)


def clairvoyant(margin: float, case: Case) -> Outcome:
    """Run the plan of one who knows each arrival, times a margin."""
    return _run(np.maximum(1, np.ceil(margin * _work(case))).astype(np.int64), case)


def oracle(case: Case) -> Outcome:
    """Run the plan of one who knows the rate, not the arrivals; ValueError where none is known.

    The formulas take both doors for one: where that is too few, the rate is taken for more, in
    steps of a twentieth, until the percentile holds or twice the rate does not do.
    """
    if case.trace.rate is None:
        raise ValueError(f"{case.trace.name}: nobody knows the rate of a trace that was recorded")
    rates, where = np.unique(case.trace.rate, return_inverse=True)
    for margin in 1 + np.arange(0, 1.05, 0.05):
        needs = np.array([replicas_for(float(margin * rate), case.goal) for rate in rates])
        need = needs[where]
        outcome = _run(np.append(need, need[-1])[: _seconds(case)], case)
        if outcome.violations_percent <= 100 - case.setting.percentile:
            break
    return outcome


def _seconds(case: Case) -> int:
    return math.floor(case.trace.duration_seconds) + 1


def _work(case: Case) -> Floats:
    """Return for each second the busy replicas that the worst window about it needs.

    What arrives within a window must be done by its end and the target's slack: less than that
    and some request in it is late, whatever the door does.
    """
    setting, seconds = case.setting, _seconds(case)
    slack = max(0.0, setting.target_seconds - setting.service_seconds)
    each = np.bincount(case.trace.arrivals.astype(np.int64), minlength=seconds)[:seconds]
    done = np.concatenate([[0.0], np.cumsum(each * setting.service_seconds)])
    need = np.zeros(seconds)
    for window in _WINDOWS:
        if window > seconds:
            break
        busy = (done[window:] - done[:-window]) / (window + slack)
        # Each second is in `window` windows: the worst of them counts.
        padded = np.concatenate([np.zeros(window - 1), busy, np.zeros(window - 1)])
        views = np.lib.stride_tricks.sliding_window_view(padded, window)
        need = np.maximum(need, views.max(axis=1))
    return need


def _run(need: Integers, case: Case) -> Outcome:
    lead = case.setting.startup_seconds
    return run_plan(ordered_ahead(need, lead), case, startup=np.full(1, lead))


def ordered_ahead(need: Integers, lead_seconds: float) -> Integers:
    """Return the cheapest plan whose ready replicas cover the need at each second.

    Level by level: the n-th replica is ordered a start-up before it is needed, and kept where it
    would come back sooner than a new one pays for itself.
    """
    lead = math.ceil(lead_seconds)
    plan = np.zeros(len(need), np.int64)
    for level in range(1, int(need.max()) + 1):
        present = np.zeros(len(need), np.bool_)
        seconds = np.flatnonzero(need >= level)
        breaks = np.flatnonzero(np.diff(seconds) > lead + 1)
        for first, last in zip(
            seconds[np.concatenate([[0], breaks + 1])],
            seconds[np.concatenate([breaks, [len(seconds) - 1]])],
            strict=True,
        ):
            present[max(0, first - lead) : last + 1] = True
        plan += present
    return plan
