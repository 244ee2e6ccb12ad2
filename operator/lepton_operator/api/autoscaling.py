"""InferenceService.spec.autoscaling: the latency that is asked for, and how the number may move."""

from __future__ import annotations

import re
from typing import Annotated, Literal, Self

from pydantic import ConfigDict, Field, StringConstraints, model_validator

from lepton_operator.api.common import ApiModel, Rule, StatusModel, Timestamp, cel_rules, checked

MAX_AUTOSCALED = 1000
MAX_LATENCY_MILLISECONDS = 600_000
MIN_PERCENTILE, MAX_PERCENTILE = 50.0, 99.9
# autoscaling/v2's own bounds.
MAX_WINDOW_SECONDS = 3600
MAX_PERIOD_SECONDS = 1800

KEPT_DECISIONS = 5

Replicas = Annotated[int, Field(ge=1, le=MAX_AUTOSCALED)]

# A rule, for the API server writes a bound of 99.9 as 99.
_PERCENTILE = Rule(
    f"self >= {MIN_PERCENTILE} && self <= {MAX_PERCENTILE}",
    f"percentile is from {MIN_PERCENTILE:g} to {MAX_PERCENTILE:g}",
    lambda percentile: MIN_PERCENTILE <= percentile <= MAX_PERCENTILE,
)


def _matches(pattern: str, message: str) -> Rule:
    """Return the rule that a text is of this form; a schema's pattern has no sentence."""
    return Rule(
        f"self.matches('^{pattern}$')",
        message,
        lambda text: re.fullmatch(pattern, text) is not None,
    )


# CEL cannot ask whether a zone exists: the operator does, and says so (autoscale.schedules).
_TIME_ZONE = _matches(
    "[A-Za-z0-9+_/-]+",
    "timeZone is one of IANA's names: letters, digits and +_/-, e.g. Europe/Berlin",
)
TimeZone = Annotated[str, StringConstraints(max_length=64), *checked(_TIME_ZONE)]

# Five fields as a CronJob has them; what they mean the operator reads, and says. Not L, W and #:
# with them a day of the month and one of the week can be asked for that no month has in common.
_FIGURES = "[0-9*,/-]"
_MONTHS = "JAN|FEB|MAR|APR|MAY|JUN|JUL|AUG|SEP|OCT|NOV|DEC"
_DAYS = "SUN|MON|TUE|WED|THU|FRI|SAT"
_CRON = _matches(
    f"({_FIGURES}+ +){{3}}({_FIGURES}|(?i:{_MONTHS}))+ +({_FIGURES}|(?i:{_DAYS}))+",
    "schedules: start and end have five fields, e.g. `0 8 * * 1-5`: minute, hour, day of the "
    "month, month (1-12, JAN-DEC), day of the week (0-7, SUN-SAT); no seconds, no @daily, no ?, L, "
    "W or #",
)
Cron = Annotated[str, StringConstraints(max_length=128), *checked(_CRON)]

# The API server asks a rule even where the schema refuses a number: of a maximum below 1 it is
# that alone which it is to say.
_BOUNDS = Rule(
    "self.maxReplicas < 1 || self.minReplicas <= self.maxReplicas",
    "autoscaling: minReplicas may not be above maxReplicas",
    lambda bounds: bounds.min_replicas <= bounds.max_replicas,
)
_SCHEDULED_BOUNDS = Rule(
    "!has(self.minReplicas) || !has(self.maxReplicas) || self.maxReplicas < 1 || "
    "self.minReplicas <= self.maxReplicas",
    "schedules: minReplicas may not be above maxReplicas",
    lambda bounds: (
        bounds.min_replicas is None
        or bounds.max_replicas is None
        or bounds.min_replicas <= bounds.max_replicas
    ),
)
_SOMETHING = Rule(
    "has(self.minReplicas) || has(self.maxReplicas)",
    "schedules: one without minReplicas and maxReplicas changes nothing: set at least one",
    lambda bounds: bounds.min_replicas is not None or bounds.max_replicas is not None,
)
_SCHEDULED_MINIMUM = Rule(
    "self.maxReplicas < 1 || !has(self.schedules) || self.schedules.all(each, "
    "!has(each.minReplicas) || has(each.maxReplicas) || each.minReplicas <= self.maxReplicas)",
    "schedules: a minReplicas above autoscaling.maxReplicas needs a maxReplicas beside it",
    lambda bounds: all(
        each.min_replicas is None
        or each.max_replicas is not None
        or each.min_replicas <= bounds.max_replicas
        for each in bounds.schedules
    ),
)
_SCHEDULED_MAXIMUM = Rule(
    "!has(self.schedules) || self.schedules.all(each, !has(each.maxReplicas) || "
    "has(each.minReplicas) || each.maxReplicas < 1 || each.maxReplicas >= self.minReplicas)",
    "schedules: a maxReplicas below autoscaling.minReplicas needs a minReplicas beside it",
    lambda bounds: all(
        each.max_replicas is None
        or each.min_replicas is not None
        or each.max_replicas >= bounds.min_replicas
        for each in bounds.schedules
    ),
)
_RULES = (_BOUNDS, _SCHEDULED_MINIMUM, _SCHEDULED_MAXIMUM)


class LatencyTarget(ApiModel):
    """the latency that is asked for"""

    latency_milliseconds: Annotated[int, Field(ge=1, le=MAX_LATENCY_MILLISECONDS)] = Field(
        description="latencyMilliseconds that a request may take, from the door's first byte of it "
        "to its last byte of the answer."
    )
    percentile: Annotated[float, *checked(_PERCENTILE)] = Field(
        default=95,
        description="percentile of requests that are to take no longer, from 50 to 99.9. It is "
        "also the price of lateness: at 95 a late request weighs as much as thirty requests' GPU "
        "time.",
    )


class ScalingPolicy(ApiModel):
    """how much may change in a time, as in autoscaling/v2"""

    type: Literal["Pods", "Percent"] = Field(description="type of value.")
    value: Annotated[int, Field(ge=1, le=100_000)] = Field(
        description="value: so many pods, or percent of the present ones."
    )
    period_seconds: Annotated[int, Field(ge=1, le=MAX_PERIOD_SECONDS)] = Field(
        description="periodSeconds in which no more than that changes."
    )


class ScalingRules(ApiModel):
    """limits in one direction, as in autoscaling/v2; unset, there is none"""

    stabilization_window_seconds: Annotated[int, Field(ge=0, le=MAX_WINDOW_SECONDS)] | None = Field(
        default=None,
        description="stabilizationWindowSeconds: the number goes only where every decision of this "
        "time would have let it go. Unset: up at once, down by the law's own reckoning.",
    )
    select_policy: Literal["Max", "Min", "Disabled"] = Field(
        default="Max",
        description="selectPolicy: of several policies the one that lets through the most, or the "
        "least; Disabled lets nothing through in this direction.",
    )
    policies: Annotated[tuple[ScalingPolicy, ...], Field(max_length=10)] = Field(
        default=(), description="policies that limit a change."
    )


class Behavior(ApiModel):
    """how fast the number may change, as in autoscaling/v2"""

    scale_up: ScalingRules | None = Field(
        default=None, description="scaleUp: limits on the way up."
    )
    scale_down: ScalingRules | None = Field(
        default=None, description="scaleDown: limits on the way down."
    )


class Schedule(ApiModel):
    """other bounds from each time that start names to the next that end names"""

    start: Cron = Field(
        description="start: a cron expression of five fields, as a CronJob's, e.g. `0 8 * * 1-5`. "
        "A minReplicas that is higher than before holds earlier by what replicas take to start."
    )
    end: Cron = Field(description="end: the same.")
    time_zone: TimeZone = Field(default="UTC", description="timeZone of both; IANA's name.")
    min_replicas: Replicas | None = Field(
        default=None, description="minReplicas in this time. Unset: as at other times."
    )
    max_replicas: Replicas | None = Field(
        default=None, description="maxReplicas in this time. Unset: as at other times."
    )

    model_config = ApiModel.model_config | ConfigDict(
        json_schema_extra=cel_rules(_SOMETHING, _SCHEDULED_BOUNDS)
    )

    @model_validator(mode="after")
    def _keep_the_rules(self) -> Self:
        for rule in (_SOMETHING, _SCHEDULED_BOUNDS):
            rule.check(self)
        return self


class Autoscaling(ApiModel):
    """the number of replicas is the operator's to choose, for a latency at the least cost"""

    min_replicas: Replicas = Field(default=1, description="minReplicas: never fewer.")
    max_replicas: Replicas = Field(description="maxReplicas: never more.")
    target: LatencyTarget = Field(description="target that the replicas are to meet.")
    behavior: Behavior | None = Field(
        default=None, description="behavior: how fast the number may change. Unset: no limit."
    )
    schedules: Annotated[tuple[Schedule, ...], Field(max_length=20)] = Field(
        default=(),
        description="schedules: other bounds at certain times. Of several that hold the highest "
        "minReplicas and the highest maxReplicas that they say; if they contradict, minReplicas.",
    )

    model_config = ApiModel.model_config | ConfigDict(json_schema_extra=cel_rules(*_RULES))

    @model_validator(mode="after")
    def _keep_the_rules(self) -> Self:
        for rule in _RULES:
            rule.check(self)
        return self


class ScalingDecision(StatusModel):
    """one change of the number of replicas, and why"""

    time: Timestamp = Field(description="time at which replicas was set.")
    from_replicas: Annotated[int, Field(ge=0)] = Field(
        alias="from", description="from: the replicas before."
    )
    to: Annotated[int, Field(ge=0)] = Field(description="to: the replicas since.")
    metric: Annotated[str, StringConstraints(max_length=64)] = Field(
        description="metric that said so: demand (requests a second), backlog (seconds of work "
        "that waits), worth (replica-seconds that one more replica has been worth), or bounds."
    )
    value: float = Field(description="value of the metric.")
    target: float = Field(description="target: what the replicas can hold of it.")
    reason: Annotated[str, StringConstraints(max_length=1024)] = Field(
        default="", description="reason is the same in a sentence."
    )


class AutoscalingStatus(StatusModel):
    """how the number of replicas is chosen"""

    source: Literal["Prometheus", "Doors"] | None = Field(
        default=None,
        description="source of the counts: Prometheus, or the doors themselves where that tells "
        "nothing. Absent while neither tells anything.",
    )
    decisions: Annotated[tuple[ScalingDecision, ...], Field(max_length=KEPT_DECISIONS)] = Field(
        default=(), description="decisions: the last changes, the newest first."
    )
