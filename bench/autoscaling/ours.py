"""The operator's own law in the simulator: the very function that the operator runs."""

from __future__ import annotations

from bench.autoscaling.run import Case
from bench.autoscaling.table import Row


def lepton(case: Case, percentile: float | None = None) -> Row:
    raise NotImplementedError(case, percentile)
