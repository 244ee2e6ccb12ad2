"""What the law is given, what it remembers, and what it answers. All values are immutable."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from lepton_operator.autoscale.queueing import Door

SelectPolicy = Literal["Max", "Min", "Disabled"]


@dataclass(frozen=True, slots=True)
class ScalingPolicy:
    """autoscaling/v2: at most so many pods, or percent of the present ones, in a period."""

    type: Literal["Pods", "Percent"]
    value: int
    period_seconds: int


@dataclass(frozen=True, slots=True)
class ScalingRules:
    """autoscaling/v2's rules for one direction; no policies: no limit.

    `stabilization_window_seconds` None: up at once; down by what a start-up takes (`decide`).
    """

    stabilization_window_seconds: int | None = None
    select_policy: SelectPolicy = "Max"
    policies: tuple[ScalingPolicy, ...] = ()


@dataclass(frozen=True, slots=True)
class Schedule:
    """From each time that `start` names to the next that `end` names, other bounds hold."""

    start: str  # cron, five fields
    end: str
    time_zone: str  # IANA
    min_replicas: int | None = None
    max_replicas: int | None = None


@dataclass(frozen=True, slots=True)
class Spec:
    """What was asked for, and what a replica is."""

    target_seconds: float
    percentile: float  # of requests that are answered within the target
    min_replicas: int = 1
    max_replicas: int = 1
    up: ScalingRules = field(default_factory=ScalingRules)
    down: ScalingRules = field(default_factory=ScalingRules)
    schedules: tuple[Schedule, ...] = ()
    door: Door = field(default_factory=Door)
    max_batch: int = 1
    # A sample that is older is none: ten scrapes of 2 s may be lost.
    stale_after_seconds: float = 20.0

    @property
    def share_late(self) -> float:
        """Return the share of requests that may take longer than the target."""
        return 1 - self.percentile / 100


def grown(before: float, now: float) -> float:
    """Return what a counter grew by: one that fell has begun again at 0."""
    return now - before if now >= before else now


class Computed(NamedTuple):
    """What Tritons did, which they count at other moments than doors do.

    `seconds` are the sum over the requests of the time of the batch that each was in; `hits` are
    requests that the response cache answered, and nobody computed.
    """

    requests: float
    seconds: float
    batches: float
    hits: float = 0.0


@dataclass(frozen=True, slots=True)
class Samples:
    """One service at one time: counters that only grow (or restart at 0), and gauges.

    Requests are counted where they come in: those that a door refuses too.
    """

    time: float  # seconds, any clock; when these were taken
    arrivals: float
    in_flight: float  # executing or waiting, at doors and in pods
    completions: float
    latency_seconds: float  # sum over completions, as the door sees them
    ready: int
    starting_ages: tuple[float, ...] = ()  # seconds since each pod that is not ready was created
    startups_seconds: tuple[float, ...] = ()  # of pods that became ready since the last samples
    computed: Computed | None = None  # None: no Triton tells
    desired: int | None = None  # spec.replicas; None: as many as there are
    whole: bool = True  # every door has told what it counted

    @property
    def current(self) -> int:
        """Return how many replicas there are to be, as it stands."""
        return self.ready + len(self.starting_ages) if self.desired is None else self.desired


class Moment(NamedTuple):
    """What is kept of one sample for as long as a start-up and a little more."""

    time: float
    arrivals: float  # since `History.seen_since`
    rate: float  # requests a second, the envelope over time scales (`demand`)
    reference: int  # replicas that the law would want if it kept nothing back (`keep`)


class Worth(NamedTuple):
    """What one replica, beyond those that the present demand needs, has been worth (`keep`)."""

    credit: float = 0.0  # replica-seconds
    most: float = 0.0  # what one return of demand without it has cost at most, the same unit


@dataclass(frozen=True, slots=True)
class Overload:
    """A time in which the reference's replicas were too few."""

    ready: int  # the fewest that were ready in it
    needed: int  # the most that were needed
    cost: float = 0.0  # to each replica that was missing, so far, in replica-seconds


class Change(NamedTuple):
    """Replicas that were added (or removed, negative), for the limits on a rate.

    Seen, not decided: what an API server refused or another scaler prevented is none.
    """

    time: float
    delta: int


class Advice(NamedTuple):
    """What a decision wanted before limits, for stabilisation windows."""

    time: float
    replicas: int


class Service(NamedTuple):
    """What was learned of the model: sums that forget, one weight a request (`service`)."""

    weight: float = 0.0
    seconds: float = 0.0  # executing a batch of the size that was seen
    size: float = 0.0  # of batches
    size_squared: float = 0.0
    seconds_size: float = 0.0
    calm_since: float | None = None  # no more than one request waited for each replica
    waited: float = 0.0  # seconds that requests waited
    foretold: float = 0.0  # that they would have in M/M/c
    asked: float = 0.0  # requests that a Triton was asked
    missed: float = 0.0  # those of them that its response cache did not know


class History(NamedTuple):
    """What the law remembers; begin with `History()`."""

    seen_since: float | None = None  # since then no sample was missed for long
    last: Samples | None = None
    arrivals: float = 0.0  # since then
    moments: tuple[Moment, ...] = ()
    peaks: tuple[Moment, ...] = ()  # of the rate (`demand.peaks`)
    troughs: tuple[Moment, ...] = ()  # of the reference (`keep.troughs`)
    startups_seconds: tuple[float, ...] = ()  # the newest, of this service's own pods
    service: Service = Service()
    backlog_seconds: float = 0.0  # the reference's work that waits, in replica-seconds
    overload: Overload | None = None
    worth: tuple[Worth, ...] = ()  # of the first, second, ... replica
    began_with: int = 0
    changes: tuple[Change, ...] = ()
    advice: tuple[Advice, ...] = ()


Limit = Literal["Maximum", "ServiceTime"]
"""What keeps the target from being met: the most replicas that may be, or the model itself."""


@dataclass(frozen=True, slots=True)
class Decision:
    """How many replicas, by which figure, and why."""

    current: int
    replicas: int
    metric: str
    value: float
    target: float
    reason: str  # a sentence
    history: History
    held: bool = False  # there was nothing to decide by
    limit: Limit | None = None
