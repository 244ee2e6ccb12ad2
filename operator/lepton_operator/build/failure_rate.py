"""How often a gang is interrupted: the estimate by which ranks choose when to save.

Failures are taken for a Poisson process; what was seen of this job is added to what is known of
nodes elsewhere (a Gamma distribution of the rate). The SDK has the same estimate for a run without
an operator, and docs/checkpoints.md the sources.
"""

from __future__ import annotations

from collections.abc import Sequence

from lepton_operator.api.training import Attempt, Cause

PRIOR_FAILURES = 0.5
"""The prior is held as firmly as half a failure seen: the first own one outweighs it."""

PRIOR_NODE_SECONDS = 0.5 * 50 * 86_400.0
"""One failure in 50 days of a node."""


def mtbf_seconds(attempts: Sequence[Attempt], nodes: int) -> int:
    """Return the mean time between failures of a gang, in whole seconds, at least one."""
    failures = PRIOR_FAILURES + failures_seen(attempts)
    seconds = sum(_running_seconds(each) for each in attempts)
    node_seconds = PRIOR_NODE_SECONDS + seconds * nodes
    return max(1, round(node_seconds / (failures * nodes)))


def failures_seen(attempts: Sequence[Attempt]) -> int:
    """Return how often ranks that ran were interrupted, in their pods or with them.

    An attempt that saved before it left has lost nothing: saving more often would be of no use.
    """
    ran = [each for each in attempts if each.running_time and each.end_time]
    return sum(_has_lost(each) + (each.restarts or 0) for each in ran)


def _has_lost(attempt: Attempt) -> bool:
    return attempt.outcome == "Failed" and attempt.reason != Cause.SAVED


def _running_seconds(attempt: Attempt) -> float:
    if attempt.running_time is None or attempt.end_time is None:
        return 0.0
    return max(0.0, (attempt.end_time - attempt.running_time).total_seconds())
