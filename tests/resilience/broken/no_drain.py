"""An operator with a bug: a pod is deleted in the pass that takes it out of the doors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

import lepton_operator.__main__ as operator
from lepton_operator import names, plans
from lepton_operator.inference.plan import plan as plan_well
from lepton_operator.plan import Delete, Patch, Plan
from lepton_operator.views import InferenceView


def main(arguments: Sequence[str]) -> int:
    plans.PLANS = {**plans.PLANS, "InferenceService": _plan}
    return operator.main(arguments)


def _plan(view: InferenceView, now: datetime) -> Plan:
    plan = plan_well(view, now)
    marks = [each for each in plan.patch if _is_mark(each)]
    others = tuple(each for each in plan.patch if each not in marks)
    doomed = tuple(Delete(each.target) for each in marks)
    return replace(plan, patch=others, delete=(*plan.delete, *doomed))


def _is_mark(patch: Patch) -> bool:
    return names.DRAINING in patch.body.get("metadata", {}).get("annotations", {})
