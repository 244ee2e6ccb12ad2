"""What tests read from a Plan of any kind."""

from __future__ import annotations

from lepton_operator.api.common import Status
from lepton_operator.conditions import find
from lepton_operator.plan import Plan


def deleted(found: Plan) -> list[str]:
    return [each.target.name for each in found.delete]


def told(found: Plan) -> tuple[str, str, str]:
    """Ready, its reason, and Reconciling, Stalled or neither."""
    assert found.status is not None
    conditions = Status.model_validate(found.status).conditions
    ready = find(conditions, "Ready")
    assert ready is not None
    kinds = [each.type for each in conditions if each.type in ("Reconciling", "Stalled")]
    return ready.status, ready.reason, "".join(kinds)
