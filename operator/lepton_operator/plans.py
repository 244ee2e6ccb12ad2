"""The pure decisions, by kind."""

from __future__ import annotations

from collections.abc import Mapping

from lepton_operator import names
from lepton_operator.gateway.plan import plan as plan_gateway
from lepton_operator.inference.plan import plan as plan_inference
from lepton_operator.models.plan import plan as plan_model
from lepton_operator.reconcile import Planner
from lepton_operator.training.plan import plan as plan_training

PLANS: Mapping[str, Planner] = {
    "TrainingJob": plan_training,
    "LeptonModel": plan_model,
    "InferenceService": plan_inference,
    names.DOOR_KIND: plan_gateway,
}
