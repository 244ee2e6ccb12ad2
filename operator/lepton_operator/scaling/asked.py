"""From an InferenceService to what the law is asked for."""

from __future__ import annotations

from lepton_operator.api import autoscaling as api
from lepton_operator.api.autoscaling import Autoscaling
from lepton_operator.api.inference import Batching, InferenceService
from lepton_operator.autoscale.queueing import Door
from lepton_operator.autoscale.values import ScalingPolicy, ScalingRules, Schedule, Spec
from lepton_operator.settings import Settings


def asked(service: InferenceService, wanted: Autoscaling, settings: Settings) -> Spec:
    """Return what the law is to keep for a service."""
    return spec(
        wanted,
        doors=settings.door.replicas,
        max_batch=max_batch(service.spec.batching, settings.defaults.triton.max_batch_size),
        max_age_seconds=settings.prometheus.max_age_seconds,
    )


def spec(wanted: Autoscaling, *, doors: int, max_batch: int, max_age_seconds: float) -> Spec:
    """Return the same of a service of which only this is known."""
    behavior = wanted.behavior or api.Behavior()
    return Spec(
        target_seconds=wanted.target.latency_milliseconds / 1e3,
        percentile=wanted.target.percentile,
        min_replicas=wanted.min_replicas,
        max_replicas=wanted.max_replicas,
        up=_rules(behavior.scale_up),
        down=_rules(behavior.scale_down),
        schedules=tuple(_schedule(each) for each in wanted.schedules),
        door=Door(doors=doors),
        max_batch=max_batch,
        stale_after_seconds=max_age_seconds,
    )


def max_batch(batching: Batching | None, most: int) -> int:
    """Return the largest batch that may be put together, `most` where nothing is said of it.

    A model that cannot be batched shows it: the law learns from the batches that it sees.
    """
    return most if batching is None else batching.max_batch_size or most


def _rules(rules: api.ScalingRules | None) -> ScalingRules:
    if rules is None:
        return ScalingRules()
    return ScalingRules(
        stabilization_window_seconds=rules.stabilization_window_seconds,
        select_policy=rules.select_policy,
        policies=tuple(
            ScalingPolicy(each.type, each.value, each.period_seconds) for each in rules.policies
        ),
    )


def _schedule(schedule: api.Schedule) -> Schedule:
    return Schedule(
        schedule.start,
        schedule.end,
        schedule.time_zone,
        schedule.min_replicas,
        schedule.max_replicas,
    )
