"""What the status says of how the number of replicas is chosen."""

from __future__ import annotations

from lepton_operator.api.autoscaling import AutoscalingStatus
from lepton_operator.conditions import Extra, extras
from lepton_operator.views import InferenceView


def scaling(view: InferenceView) -> tuple[AutoscalingStatus | None, tuple[Extra, ...]]:
    """Return it with its conditions: what was told last, and after a start what stands there."""
    if view.service.spec.autoscaling is None:
        return None, ()
    if view.scaling is not None:
        return view.scaling.status, view.scaling.conditions
    before = view.service.status
    return before.autoscaling, tuple(extras(before.conditions))
