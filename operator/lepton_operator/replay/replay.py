"""A recording through the very meter and law that the operator uses.

What the law is told of demand and latency is what was counted, whatever it decides: other replicas
would have been other latencies, and other waiting requests. So a replay says why a decision was
taken, and what it would have been; it does not say how well the service would have answered.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from lepton_operator.autoscale import startup
from lepton_operator.autoscale.values import Decision, History, Spec
from lepton_operator.replay.fleets import AsItWas, Fleet
from lepton_operator.replay.recording import Look, Recording
from lepton_operator.scaling.account import Account
from lepton_operator.scaling.replicas import samples_of
from lepton_operator.scaling.sources import fresh


@dataclass(frozen=True, slots=True)
class Step:
    """A decision, at a time in seconds since the epoch, and the replicas that there are then."""

    time: float
    decision: Decision
    ready: int
    starting: int

    @property
    def is_change(self) -> bool:
        """Whether the law would have set another number."""
        return self.decision.replicas != self.decision.current


def replay(recording: Recording, spec: Spec, fleet: Fleet) -> Iterator[Step]:
    """Yield the decision of each look."""
    account = Account()
    for look in recording.looks:
        fleet.go_on(look)
        decision = _decided(account, spec, fleet, look)
        found = fleet.replicas()
        # What it remembers of the past is long, and the next one's.
        told = replace(decision, history=History())
        yield Step(look.time, told, found.ready, len(found.starting_ages))
        fleet.scale(decision.replicas)


def _decided(account: Account, spec: Spec, fleet: Fleet, look: Look) -> Decision:
    counts = fresh(look.counts, look.counts.doors, look.time, spec.stale_after_seconds)
    totals = account.meter.add(counts)
    samples = samples_of(totals, fleet.replicas(), fleet.wanted) if totals is not None else None
    decision = account.decide(spec, samples, look.time, fleet.wanted)
    if account.history.last is samples:
        fleet.learned()
    return decision


def measured_startup_seconds(recording: Recording) -> float:
    """Return the mean start-up that was recorded; what the law takes for it where none was."""
    fleet = AsItWas()
    for look in recording.looks:
        fleet.go_on(look)
    return startup.mean(tuple(fleet.startups), ())
