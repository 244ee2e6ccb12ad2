"""The gate: whether a version may be served, computed anew from what its evaluation recorded.

So a changed threshold needs no pod. Metrics and bounds are decimal texts, compared as decimals.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal

from lepton_operator.api.model import Evaluation, Gate, Threshold, Version, VersionEvaluation
from lepton_operator.conditions import MAX_MESSAGE, cut

MAX_DATASET = 256  # characters of a data set in a message

PASSING = frozenset({"Passed", "NotAsked"})


def judge(version: Version, asked: Evaluation | None, *, failure: str | None, newest: bool) -> Gate:
    """Return a version's gate. `failure` is the sentence of an evaluation that failed for good."""
    if asked is None or not asked.thresholds:
        return Gate(
            outcome="NotAsked",
            message="spec.evaluation.thresholds is empty, so every version may be served.",
        )
    found = version.evaluation
    if found is None or found.dataset != asked.dataset:
        return _not_evaluated(found, asked, failure=failure, newest=newest)
    complaints = [text for each in asked.thresholds for text in _complaints(each, found.metrics)]
    if complaints:
        return Gate(outcome="Failed", message=_said("; ".join(complaints), found))
    kept = ", ".join(_kept(each, found.metrics[each.metric]) for each in asked.thresholds)
    return Gate(outcome="Passed", message=_said(kept, found))


def passes(version: Version) -> bool:
    return version.gate is not None and version.gate.outcome in PASSING


def failed(version: Version) -> bool:
    return version.gate is not None and version.gate.outcome == "Failed"


def score(version: Version, asked: Evaluation | None) -> str | None:
    """Return the metric of the first threshold, e.g. `accuracy=0.9645`."""
    if asked is None or not asked.thresholds or version.evaluation is None:
        return None
    metric = asked.thresholds[0].metric
    value = version.evaluation.metrics.get(metric)
    return None if value is None else f"{metric}={value}"


def _not_evaluated(
    found: VersionEvaluation | None, asked: Evaluation, *, failure: str | None, newest: bool
) -> Gate:
    if failure is not None:
        return Gate(outcome="Failed", message=failure)
    wanted = cut(asked.dataset, MAX_DATASET)
    if newest:
        return Gate(outcome="Pending", message=f"It waits for its evaluation on {wanted}.")
    other = cut(found.dataset, MAX_DATASET) if found else None
    been = f"It was evaluated on {other}, not on" if other else "It was not evaluated on"
    return Gate(
        outcome="Pending",
        message=f"{been} {wanted}: only the newest version and those that a service names are.",
    )


def _complaints(threshold: Threshold, metrics: Mapping[str, str]) -> list[str]:
    value = metrics.get(threshold.metric)
    if value is None:
        there = ", ".join(sorted(metrics)) or "none"
        missing = f"The evaluation reports no metric {threshold.metric!r} (it reports: {there})"
        return [f"{missing}; name one of these in spec.evaluation.thresholds"]
    found: list[str] = []
    if threshold.minimum is not None and Decimal(value) < Decimal(threshold.minimum):
        found.append(f"{threshold.metric} {value} is below its minimum {threshold.minimum}")
    if threshold.maximum is not None and Decimal(value) > Decimal(threshold.maximum):
        found.append(f"{threshold.metric} {value} is above its maximum {threshold.maximum}")
    return found


def _kept(threshold: Threshold, value: str) -> str:
    bounds = [("minimum", threshold.minimum), ("maximum", threshold.maximum)]
    said = " and ".join(f"{word} {bound}" for word, bound in bounds if bound is not None)
    return f"{threshold.metric} {value} keeps its {said}"


def _said(verdict: str, found: VersionEvaluation) -> str:
    """Return the sentence in as many characters as a gate may say; many thresholds say more."""
    judged_on = f", on {found.samples} samples of {cut(found.dataset, MAX_DATASET)}."
    return cut(verdict, MAX_MESSAGE - len(judged_on)) + judged_on
