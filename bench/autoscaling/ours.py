"""The operator's own law in the simulator: the very function that the operator runs."""

from __future__ import annotations

import dataclasses

from bench.autoscaling.run import Case, Observation, run
from bench.autoscaling.table import Row, row
from lepton_operator.autoscale.law import decide
from lepton_operator.autoscale.queueing import Door
from lepton_operator.autoscale.values import Computed, History, Samples, Spec

# The operator's own interval.
INTERVAL_SECONDS = 2.0


def lepton(case: Case, percentile: float | None = None) -> Row:
    """Run our law over a case, asked for the case's percentile or for another one."""
    spec = asked(case)
    if percentile is not None:
        spec = dataclasses.replace(spec, percentile=percentile)

    def policy(seen: Observation, history: History | None) -> tuple[int, History]:
        decision = decide(spec, samples(seen), history or History(), seen.now)
        return decision.replicas, decision.history

    outcome = run(policy, INTERVAL_SECONDS, case)
    setting = f"{spec.target_seconds * 1e3:g} ms, p{spec.percentile:g}"
    return row("lepton", setting, True, outcome)


def asked(case: Case) -> Spec:
    """Return what a person would write, and the bounds that are every law's."""
    setting = case.setting
    return Spec(
        target_seconds=setting.target_seconds,
        percentile=setting.percentile,
        min_replicas=1,
        max_replicas=case.most,
        door=Door("random" if setting.balancing == "random" else "least-loaded"),
        max_batch=setting.max_batch,
    )


def samples(seen: Observation) -> Samples:
    """Return what the doors and Triton show, as the operator reads it."""
    return Samples(
        time=seen.now,
        arrivals=seen.arrivals,
        in_flight=seen.in_flight,
        completions=seen.completions,
        latency_seconds=seen.latency_seconds,
        ready=seen.ready,
        starting_ages=seen.starting_ages,
        startups_seconds=seen.startups_seconds,
        computed=Computed(seen.completions, seen.compute_seconds, seen.batches),
        desired=seen.desired,
    )
