"""Loads that are meant to fool the law, and what it then does: a table in docs/autoscaling.md.

`python -m bench.autoscaling.adversary`. Square waves at the law's own time scale, demand that leaks
upwards, requests that never end, a cluster that has no room.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np

from bench.autoscaling.arrivals import HOUR, Trace, of_rate
from bench.autoscaling.ours import INTERVAL_SECONDS, asked, samples
from bench.autoscaling.report import replaced
from bench.autoscaling.rivals import RIVALS
from bench.autoscaling.run import Case, Observation, Outcome, run, run_rival, run_static
from bench.autoscaling.world import Setting
from lepton_operator.autoscale.law import decide
from lepton_operator.autoscale.values import Decision, History

PAGE = Path("docs/autoscaling.md")

LOW, HIGH = 5.0, 40.0
# Of the start-up time: from a load that is gone before a replica comes to one that stays for two.
PERIODS = (0.5, 1.0, 2.0, 4.0)

# What an adversary makes of what the doors and the pods show, before the law sees it.
Disturbance = Callable[[Observation], Observation]


def square(period_seconds: float, seed: int = 0) -> Trace:
    """An hour of 40 requests a second for half a period, and 5 for the other half."""
    high = np.arange(HOUR) % period_seconds < period_seconds / 2
    return of_rate(f"square, {period_seconds:g} s", np.where(high, HIGH, LOW), seed)


def leak(seed: int = 0) -> Trace:
    """Three hours of demand that grows by a hundredth each minute, sixfold in all."""
    minutes = np.arange(3 * HOUR) / 60
    return of_rate("leak, 1 % a minute", 10 * 1.01**minutes, seed)


def steady(rate: float, seed: int = 0) -> Trace:
    """An hour of one rate."""
    return of_rate(f"steady, {rate:g} a second", np.full(int(HOUR), rate), seed)


def never_ending(each_seconds: float) -> Disturbance:
    """One request in each so many seconds stays in flight for ever."""

    def disturb(seen: Observation) -> Observation:
        return replace(seen, in_flight=seen.in_flight + int(seen.now / each_seconds))

    return disturb


@dataclass
class Room:
    """A cluster with room for so many pods of this service: further ones stay Pending."""

    pods: Callable[[float], int]  # at a time
    pending_since: tuple[float, ...] = ()
    wanted: int | None = None

    def shown(self, seen: Observation) -> Observation:
        """Show the pods that wait for room among those that start."""
        ages = tuple(seen.now - since for since in self.pending_since)
        desired = seen.desired if self.wanted is None else self.wanted
        return replace(seen, starting_ages=(*seen.starting_ages, *ages), desired=desired)

    def given(self, now: float, wanted: int) -> int:
        """Return how many pods there is room for; the others wait from now on."""
        self.wanted = wanted
        placed = min(wanted, self.pods(now))
        waiting = wanted - placed
        new = max(0, waiting - len(self.pending_since))
        self.pending_since = (*self.pending_since[:waiting], *[now] * new)
        return placed


@dataclass(frozen=True)
class Played:
    """What the law did under an adversary."""

    outcome: Outcome
    decisions: tuple[Decision, ...]

    @property
    def reversals(self) -> int:
        """Return how often it turned from adding to removing replicas."""
        changes = [each.replicas - each.current for each in self.decisions]
        signs = [change > 0 for change in changes if change]
        return sum(a and not b for a, b in pairwise(signs))

    @property
    def most(self) -> int:
        return max(each.replicas for each in self.decisions)


def play(case: Case, disturb: Disturbance | None = None, room: Room | None = None) -> Played:
    """Run our law over a case, with what an adversary shows it in place of what there is."""
    spec, decisions = asked(case), []

    def policy(seen: Observation, history: History | None) -> tuple[int, History]:
        seen = disturb(seen) if disturb else seen
        seen = room.shown(seen) if room else seen
        decision = decide(spec, samples(seen), history or History(), seen.now)
        decisions.append(decision)
        placed = room.given(seen.now, decision.replicas) if room else decision.replicas
        return placed, decision.history

    return Played(run(policy, INTERVAL_SECONDS, case), tuple(decisions))


def squares(startup_seconds: float, seed: int = 0) -> Iterator[Case]:
    setting = Setting(startup_seconds=startup_seconds)
    for periods in PERIODS:
        yield Case(square(periods * startup_seconds, seed), setting, seed=seed)


def table(startups_seconds: tuple[float, ...] = (60.0, 300.0)) -> Iterator[str]:
    """Yield the page's table: ours beside KPA at its defaults and a pool of the static peak."""
    yield (
        "| load | start-up, s | ours: over, % | cost | turns | KPA: over, % | cost "
        "| static peak: over, % | cost |"
    )
    yield "|---|---|---|---|---|---|---|---|---|"
    for startup in startups_seconds:
        for case in (*squares(startup), Case(leak(), Setting(startup_seconds=startup))):
            yield _line(case, play(case))


def _line(case: Case, played: Played) -> str:
    kpa = run_rival(RIVALS["kpa"], RIVALS["kpa"].default, case)
    static = run_static(case.static_peak, case)
    found = [f"{o.violations_percent:.1f} | {o.cost:.2f}" for o in (played.outcome, kpa, static)]
    name, startup = case.trace.name, case.setting.startup_seconds
    return f"| {name} | {startup:g} | {found[0]} | {played.reversals} | {found[1]} | {found[2]} |"


def main() -> int:
    lines = list(table())
    print("\n".join(lines))
    if PAGE.exists():
        PAGE.write_text(replaced(PAGE.read_text(), "adversary", lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
