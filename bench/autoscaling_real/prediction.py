"""What the simulator says of a run: the same requests, the law that the operator runs.

Start-ups are those that were measured, service takes what the model waits. The law
decides each two seconds, by counts that Prometheus scraped a second before, as in the mean of a
run, and by pods as they are.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from bench.autoscaling import ours
from bench.autoscaling.arrivals import Trace
from bench.autoscaling.run import Case, Observation, Outcome, run
from bench.autoscaling.world import Load, Setting
from bench.autoscaling_real.recording import SERVICE_SECONDS, Recording
from lepton_operator.autoscale.law import decide
from lepton_operator.autoscale.values import History, Samples, Spec

SEEDS = 20
_SCRAPED_BEFORE_SECONDS = 1.0


@dataclass(frozen=True)
class Replay(Case):
    """A recorded run's requests, with its bounds and its start-ups."""

    startups_seconds: tuple[float, ...] = ()
    first: int = 1
    least: int = 1
    bound: int = 1

    @property
    def initial(self) -> int:
        return self.first

    @property
    def most(self) -> int:
        return self.bound

    def load(self) -> Load:
        """Have the measured start-ups in their order, from any of them on.

        Pods that start together share the node's cores: their start-ups are alike.
        """
        drawn, known = super().load(), self.startups_seconds
        first = np.random.default_rng(self.seed).integers(len(known))
        return drawn._replace(startup=np.resize(np.roll(known, -first), len(drawn.startup)))


def predictions(recording: Recording) -> list[Outcome]:
    """Return what may have been, by as many seeds."""
    return [_predicted(replay(recording, seed)) for seed in range(SEEDS)]


def replay(recording: Recording, seed: int) -> Replay:
    asked = recording.asked
    arrivals = np.array([each.at for each in recording.requests])
    duration = max(recording.duration_seconds, float(arrivals[-1]))
    setting = Setting(
        service_seconds=SERVICE_SECONDS,
        target_seconds=asked.target_seconds,
        percentile=asked.percentile,
    )
    return Replay(
        Trace("real", arrivals, duration),
        setting,
        seed=seed,
        startups_seconds=tuple(recording.startups_seconds),
        first=recording.at_doors[0].pods,
        least=asked.least,
        bound=asked.most,
    )


def _predicted(case: Replay) -> Outcome:
    return run(
        _Law(replace(ours.asked(case), min_replicas=case.least)), _SCRAPED_BEFORE_SECONDS, case
    )


@dataclass
class _Law:
    """Is asked each second: in turn Prometheus scrapes, and the operator decides by that."""

    spec: Spec
    scraped: Samples | None = None

    def __call__(self, seen: Observation, history: History | None) -> tuple[int, History]:
        history = history or History()
        if self.scraped is None:
            self.scraped = ours.samples(seen)
            return seen.desired, history
        now = ours.samples(seen)
        samples = replace(
            self.scraped,
            ready=now.ready,
            starting_ages=now.starting_ages,
            startups_seconds=(*self.scraped.startups_seconds, *now.startups_seconds),
            desired=now.desired,
        )
        self.scraped = None
        decision = decide(self.spec, samples, history, seen.now)
        return decision.replicas, decision.history
