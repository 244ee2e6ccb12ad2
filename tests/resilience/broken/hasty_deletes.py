"""An operator with a bug: the pods of a failed attempt go in the pass that closes it.

Deletes come before the status, so whoever is killed in between has destroyed what it had not
recorded: the attempt then looks like one whose pods were lost.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

import lepton_operator.__main__ as operator
from lepton_operator import plans
from lepton_operator.plan import Delete, Plan
from lepton_operator.training.plan import plan as plan_well
from lepton_operator.views import TrainingView


def main(arguments: Sequence[str]) -> int:
    plans.PLANS = {**plans.PLANS, "TrainingJob": _plan}
    return operator.main(arguments)


def _plan(view: TrainingView, now: datetime) -> Plan:
    plan = plan_well(view, now)
    attempts = (plan.status or {}).get("attempts", ())
    failed = {each["number"] for each in attempts if each["outcome"] == "Failed"}
    open_before = {each.number for each in view.job.status.attempts if each.outcome == "Running"}
    if not failed & open_before:
        return plan
    return replace(plan, delete=tuple(Delete(pod.reference) for pod in view.pods if not pod.gone))
