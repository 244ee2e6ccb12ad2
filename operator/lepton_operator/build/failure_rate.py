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
    seen = [_seen(each) for each in attempts]
    failures = PRIOR_FAILURES + sum(each[0] for each in seen)
    node_seconds = PRIOR_NODE_SECONDS + sum(each[1] for each in seen) * nodes
    return max(1, round(node_seconds / (failures * nodes)))


def _seen(attempt: Attempt) -> tuple[int, float]:
    """Return the failures of an attempt whose ranks ran, and for how long they did."""
    if attempt.running_time is None or attempt.end_time is None:
        return 0, 0.0
    # One that saved before it left has lost nothing: saving more often would be of no use.
    lost = attempt.outcome == "Failed" and attempt.reason != Cause.SAVED
    failures = int(lost) + (attempt.restarts or 0)
    return failures, max(0.0, (attempt.end_time - attempt.running_time).total_seconds())
