"""The gate: whether a version may be served, computed anew from what its evaluation recorded.

So a changed threshold needs no pod. Metrics and bounds are decimal texts, compared as decimals.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal

from lepton_operator.api.model import Evaluation, Gate, Threshold, Version, VersionEvaluation

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
        return Gate(outcome="Failed", message="; ".join(complaints) + _on(found))
    kept = ", ".join(_kept(each, found.metrics[each.metric]) for each in asked.thresholds)
    return Gate(outcome="Passed", message=kept + _on(found))


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
    if newest:
        return Gate(outcome="Pending", message=f"waits for its evaluation on {asked.dataset}.")
    been = f"it was evaluated on {found.dataset}, not on" if found else "it was not evaluated on"
    return Gate(
        outcome="Pending",
        message=f"{been} {asked.dataset}: only the newest version and those that a service names "
        "are.",
    )


def _complaints(threshold: Threshold, metrics: Mapping[str, str]) -> list[str]:
    value = metrics.get(threshold.metric)
    if value is None:
        there = ", ".join(sorted(metrics)) or "none"
        missing = f"the evaluation reports no metric {threshold.metric!r} (it reports: {there})"
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


def _on(found: VersionEvaluation) -> str:
    return f", on {found.samples} samples of {found.dataset}."
