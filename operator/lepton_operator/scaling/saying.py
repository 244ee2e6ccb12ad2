"""What an InferenceService's conditions say of its scaling, under the names that an HPA's have."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from enum import StrEnum

from lepton_operator.autoscale import schedules
from lepton_operator.autoscale.values import Decision, Spec
from lepton_operator.conditions import Extra

ACTIVE, LIMITED = "ScalingActive", "ScalingLimited"


class ScalingReason(StrEnum):
    """The closed list of reasons of both conditions."""

    PROMETHEUS_ASKED = "PrometheusAsked"
    DOORS_ASKED = "DoorsAsked"
    NO_REQUESTS_YET = "NoRequestsYet"
    NO_SAMPLES = "NoSamples"
    SCALE_REFUSED = "ScaleRefused"
    SCALED_BY_ANOTHER = "ScaledByAnother"
    SCALED_TO_ZERO = "ScaledToZero"

    TOO_MANY_REPLICAS = "TooManyReplicas"
    NO_CAPACITY = "NoCapacity"
    TARGET_BELOW_SERVICE_TIME = "TargetBelowServiceTime"
    SCHEDULE_NEVER_HOLDS = "ScheduleNeverHolds"


FLEETING = frozenset(
    {
        ScalingReason.DOORS_ASKED,
        ScalingReason.NO_SAMPLES,
        ScalingReason.SCALE_REFUSED,
        ScalingReason.TOO_MANY_REPLICAS,
        ScalingReason.NO_CAPACITY,
        ScalingReason.TARGET_BELOW_SERVICE_TIME,
    }
)
"""What may pass without anybody's doing anything about it."""

ASKED = frozenset({ScalingReason.PROMETHEUS_ASKED, ScalingReason.DOORS_ASKED})
"""Decisions are made, by somebody's counts."""

BY_HAND = frozenset(
    {
        ScalingReason.SCALED_BY_ANOTHER,
        ScalingReason.SCALED_TO_ZERO,
        ScalingReason.SCHEDULE_NEVER_HOLDS,
    }
)
"""What a person has just done, and looks for."""


def by_another(scalers: Iterable[str]) -> Extra:
    """Return that an HPA does it: two that set one number would undo each other's work."""
    names = ", ".join(scalers)
    return Extra(
        ACTIVE,
        "False",
        ScalingReason.SCALED_BY_ANOTHER,
        f"HorizontalPodAutoscaler {names} scales this service, so spec.autoscaling is not acted on."
        " Delete the one or the other.",
    )


def at_zero() -> Extra:
    return Extra(
        ACTIVE,
        "False",
        ScalingReason.SCALED_TO_ZERO,
        "spec.replicas is 0, which switches autoscaling off. Set it to 1 to switch it on.",
    )


def active(decision: Decision, source: str | None, why_not_prometheus: str) -> Extra:
    """Return whether decisions are made, and by whose counts."""
    if decision.held or source is None:
        message = f"{decision.reason} {why_not_prometheus}".strip()
        return Extra(ACTIVE, "False", ScalingReason.NO_SAMPLES, message)
    if source == "Prometheus":
        message = "The replicas follow the latency target, by what Prometheus tells."
        return Extra(ACTIVE, "True", ScalingReason.PROMETHEUS_ASKED, message)
    message = "The replicas follow the latency target, by what the doors tell themselves:"
    return Extra(ACTIVE, "True", ScalingReason.DOORS_ASKED, f"{message} {why_not_prometheus}")


def refused(sentence: str) -> Extra:
    message = f"The API server refuses to set spec.replicas, and is asked again: {sentence}"
    return Extra(ACTIVE, "False", ScalingReason.SCALE_REFUSED, message)


def never_asked() -> Extra:
    return Extra(
        ACTIVE,
        "True",
        ScalingReason.NO_REQUESTS_YET,
        "How long a request takes is learned from the first ones; until then the number stays.",
    )


def limits(spec: Spec, decision: Decision, without_room: Sequence[str] = ()) -> Iterator[Extra]:
    """Yield what keeps the target from being met, the first of them: a condition stands once."""
    for reason, message in _limits(spec, decision, without_room):
        yield Extra(LIMITED, "True", reason, message)
        return


def _limits(
    spec: Spec, decision: Decision, without_room: Sequence[str]
) -> Iterator[tuple[ScalingReason, str]]:
    for index, each in enumerate(spec.schedules):
        if problem := schedules.problem(each):
            yield (
                ScalingReason.SCHEDULE_NEVER_HOLDS,
                f"spec.autoscaling.schedules[{index}] is not acted on: {problem}.",
            )
    if decision.limit == "ServiceTime":
        yield ScalingReason.TARGET_BELOW_SERVICE_TIME, decision.reason
    if without_room:
        lack = f"{len(without_room)} of {decision.current} replicas find no room"
        yield ScalingReason.NO_CAPACITY, f"{lack}, and wait for it: {without_room[0]}"
    if decision.limit == "Maximum":
        yield (
            ScalingReason.TOO_MANY_REPLICAS,
            f"{decision.reason} Raise spec.autoscaling.maxReplicas if that is too slow.",
        )
