"""An operator with a bug: the pod that failed goes in the pass that closes its attempt.

Deletes come before the status, so whoever is killed in between has destroyed what it had not
recorded: the attempt then looks like one whose pod was lost.
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
    doomed = [pod for pod in view.pods if pod.phase == "Failed" and not pod.gone]
    return replace(plan, delete=tuple(Delete(pod.reference) for pod in doomed))
