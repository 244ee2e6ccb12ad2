"""Samples of a service as the doors would show it, for tests of the law."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

from lepton_operator.autoscale.law import decide
from lepton_operator.autoscale.values import Computed, Decision, History, Samples, Spec

INTERVAL = 2.0
SERVICE_SECONDS = 0.1

SPEC = Spec(target_seconds=0.5, percentile=95.0, min_replicas=1, max_replicas=20)


@dataclass
class Drive:
    """A service that does at once what is decided; in flight is what Little's law says."""

    spec: Spec = SPEC
    ready: int = 3
    startup_seconds: float = 60.0
    whole: bool = True
    missed: float = 1.0  # the share of requests that the response cache does not answer
    computed: float = 0.0
    time: float = 0.0
    arrivals: float = 0.0
    history: History = field(default_factory=History)
    decision: Decision | None = None

    def step(self, rate: float, in_flight: float | None = None) -> Decision:
        first = self.decision is None
        if not first:
            self.time += INTERVAL
            self.arrivals += rate * INTERVAL
            self.computed += rate * INTERVAL * self.missed
        samples = Samples(
            time=self.time,
            arrivals=self.arrivals,
            in_flight=rate * self.missed * SERVICE_SECONDS if in_flight is None else in_flight,
            completions=self.arrivals,
            latency_seconds=self.computed * SERVICE_SECONDS,
            ready=self.ready,
            startups_seconds=(self.startup_seconds,) if first else (),
            computed=self.done(),
            whole=self.whole,
        )
        self.decision = self.feed(samples)
        self.ready = self.decision.replicas
        return self.decision

    def done(self) -> Computed:
        """Return what Tritons have computed, one by one."""
        hits = self.arrivals - self.computed
        return Computed(self.computed, self.computed * SERVICE_SECONDS, self.computed, hits)

    def feed(self, samples: Samples) -> Decision:
        decision = decide(self.spec, samples, self.history, samples.time)
        self.history = decision.history
        return decision

    def run(self, seconds: float, rate: float | Callable[[float], float]) -> Iterator[Decision]:
        for _ in range(round(seconds / INTERVAL)):
            yield self.step(rate(self.time) if callable(rate) else rate)

    def last(self, seconds: float, rate: float | Callable[[float], float]) -> Decision:
        *_, decision = self.run(seconds, rate)
        return decision


def with_spec(**changes: object) -> Drive:
    return Drive(replace(SPEC, **changes))  # type: ignore[arg-type]  # fields of Spec
