"""The law: how many replicas keep the latency that was asked for, with as few as can be.

Wanted is the most of
  - what the demand needs: the highest rate within the last start-up (a replica that was needed so
    lately costs less to keep than to start), or what a steady growth makes of it within the next;
  - what a backlog is worth to drain, while there is one, and none is removed before it has gone;
  - what is worth keeping for demand that comes faster than replicas do (`keep`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import NamedTuple

from lepton_operator.autoscale import demand, keep, service, startup
from lepton_operator.autoscale.limits import counted, limited, remembered, stabilised
from lepton_operator.autoscale.queueing import Wait, capacity, replicas_for
from lepton_operator.autoscale.schedules import bounds
from lepton_operator.autoscale.service import Model
from lepton_operator.autoscale.values import Decision, History, Moment, Samples, Spec

# The six blocks of a fourth of a start-up that a trend is taken from, and a margin.
_KEPT_STARTUPS = 1.75
# While the demand falls steadily, what it was does not come back within a start-up: only the block
# counts in which the fall is seen.
_FALLING_WINDOW = 0.25


class Cause(NamedTuple):
    """One reason for a number of replicas."""

    replicas: int
    metric: str
    value: float
    target: float
    reason: str


@dataclass(frozen=True, slots=True)
class Scene:
    """All that one decision is made from."""

    spec: Spec
    samples: Samples
    model: Model
    wait: Wait
    startup_seconds: float
    rate: float  # requests a second since the last samples
    most_rate: float  # within the last start-up
    coming_rate: float  # at the end of the next one, by its trend
    starting_ready_seconds: float  # in which pods that start now will be ready within the next one

    @property
    def present(self) -> int:
        return self.samples.ready + len(self.samples.starting_ages)

    def needed(self, rate: float) -> int:
        return replicas_for(rate * self.model.work_seconds, self.wait, self.spec.max_replicas)


def decide(spec: Spec, samples: Samples | None, history: History, now: float) -> Decision:
    """Say how many replicas there should be.

    `now` and `samples.time` are seconds of one clock, since the epoch if there are schedules.
    Raises nothing: what cannot be believed is not used, and then the number stays as it is.
    """
    problem = _problem(spec, samples, history, now)
    if samples is None or problem:
        return _hold(spec, samples, history, problem or "there are no samples", now)
    seen = _observe(spec, samples, history)
    model = service.model(seen.service, spec)
    if model is None:
        return _hold(spec, samples, seen, "no request has been answered yet", now)
    scene, seen = _scene(spec, samples, model, seen, history)
    causes = (_by_demand(scene), _by_backlog(scene), _by_worth(scene, seen))
    return _within_limits(scene, seen, max(causes, key=lambda cause: cause.replicas), now)


def _problem(spec: Spec, samples: Samples | None, history: History, now: float) -> str:
    """Return why these samples cannot be used, or nothing."""
    if samples is None:
        return "there are no samples"
    figures = (
        samples.time,
        samples.arrivals,
        samples.in_flight,
        samples.completions,
        samples.latency_seconds,
        samples.compute_seconds or 0.0,
        samples.batches or 0.0,
        *samples.starting_ages,
    )
    if not all(math.isfinite(each) for each in figures):
        return "a sample is not a number"
    if min(figures[1:]) < 0 or samples.ready < 0:
        return "a sample is negative"
    if abs(now - samples.time) > spec.stale_after_seconds:
        return f"the samples are {now - samples.time:.0f} s old"
    last = history.last
    if last and last.time - spec.stale_after_seconds < samples.time <= last.time:
        return "there are no newer samples"
    return ""


def _hold(
    spec: Spec, samples: Samples | None, history: History, problem: str, now: float
) -> Decision:
    """Keep the number as it is, within the bounds that were asked for."""
    counted = samples if samples is not None and samples.ready >= 0 else history.last
    current = counted.ready + len(counted.starting_ages) if counted else 0
    least, most, _ = bounds(spec, now, startup.mean(history.startups_seconds, ()))
    replicas = min(max(current, least), most) if counted else 0
    return Decision(
        current,
        replicas,
        "samples",
        0.0,
        0.0,
        f"Held at {replicas}, because {problem}.",
        history,
        held=True,
    )


def _observe(spec: Spec, samples: Samples, history: History) -> History:
    """Take in what the samples say; after a gap or a jump of the clock begin to look anew."""
    last = history.last
    known = startup.learn(history.startups_seconds, samples.startups_seconds)
    history = replace(history, last=samples, startups_seconds=known)
    if last is None or not 0 < samples.time - last.time <= spec.stale_after_seconds:
        return replace(
            history,
            seen_since=samples.time,
            moments=(),
            overload=None,
            backlog_seconds=0.0,
            began_with=samples.ready + len(samples.starting_ages),
            changes=(),
            advice=(),
        )
    rate = _grown(last, samples) / (samples.time - last.time)
    learned = service.learn(history.service, last, samples, rate, spec.door)
    return replace(history, service=learned)


def _grown(last: Samples, samples: Samples) -> float:
    """Return the arrivals between two samples; a counter that fell has begun again at 0."""
    grown = samples.arrivals - last.arrivals
    return grown if grown >= 0 else samples.arrivals


def _scene(
    spec: Spec, samples: Samples, model: Model, seen: History, before: History
) -> tuple[Scene, History]:
    seconds = startup.mean(seen.startups_seconds, samples.starting_ages)
    moments, last = seen.moments, before.last
    arrivals = moments[-1].arrivals + _grown(last, samples) if moments and last else 0.0
    rate = demand.newest_rate(moments, samples.time, arrivals)
    level = demand.envelope(moments, samples.time, arrivals, seconds)
    coming = demand.coming(moments, seconds)
    window = seconds * (_FALLING_WINDOW if coming.falling else 1)
    most = max(level, demand.most_within(moments, samples.time - window))
    known = seen.startups_seconds
    able = sum(startup.expected_ready_seconds(known, age, seconds) for age in samples.starting_ages)
    scene = Scene(spec, samples, model, _wait(spec, model), seconds, rate, most, coming.rate, able)
    reference, seen = _reference(scene, seen)
    since = samples.time - _KEPT_STARTUPS * seconds
    first = next((i for i, each in enumerate(moments) if each.time >= since), len(moments))
    kept = (*moments[first:], Moment(samples.time, arrivals, level, reference))
    return scene, replace(seen, moments=kept)


def _wait(spec: Spec, model: Model) -> Wait:
    """Return how long a request may wait; a target below the service time asks for one service."""
    left = spec.target_seconds - model.seconds_batched
    if left <= 0:
        left = model.seconds_batched
    return Wait(left / model.work_seconds, spec.share_late, model.variability, spec.door)


def _reference(scene: Scene, seen: History) -> tuple[int, History]:
    """Let the reference of `keep` live on to the present; return what it wants now."""
    now, work = scene.samples.time, scene.model.work_seconds
    moments, spec = seen.moments, scene.spec
    base = _base(scene, seen)
    if not moments:
        return base, seen
    seconds = now - moments[-1].time
    ready = keep.reference_ready(moments, now, scene.startup_seconds, seen.began_with)
    busy, price = scene.rate * work, 1 / spec.share_late
    backlog = max(0.0, seen.backlog_seconds + (busy - ready) * seconds)
    worth, overload, wanted = seen.worth, None, base
    if backlog > ready * scene.wait.slack * work:
        cost = price * busy * seconds
        worth, overload = keep.late(worth, seen.overload, ready, scene.needed(scene.rate), cost)
        able = ready * scene.startup_seconds
        drain = keep.to_drain(busy, backlog, able, scene.startup_seconds, price)
        wanted = max(base, drain, moments[-1].reference)
    worth = keep.account(worth, seconds, base)
    seen = replace(seen, worth=worth, overload=overload, backlog_seconds=backlog)
    return min(wanted, spec.max_replicas), seen


def _base(scene: Scene, seen: History) -> int:
    """Return what the demand needs; before a whole start-up was seen, no fewer than there were."""
    needed = scene.needed(max(scene.most_rate, scene.coming_rate))
    if _seen_seconds(scene, seen) < scene.startup_seconds:
        needed = max(needed, min(seen.began_with, scene.spec.max_replicas))
    return needed


def _seen_seconds(scene: Scene, seen: History) -> float:
    return scene.samples.time - (scene.samples.time if seen.seen_since is None else seen.seen_since)


def _by_demand(scene: Scene) -> Cause:
    rate = max(scene.most_rate, scene.coming_rate)
    replicas = scene.needed(rate)
    holds = capacity(replicas, scene.wait) / scene.model.work_seconds
    spec, alone = scene.spec, scene.model.seconds_batched
    source = (
        f"came within the last {scene.startup_seconds:.0f} s, a start-up"
        if scene.most_rate >= scene.coming_rate
        else f"will come in {scene.startup_seconds:.0f} s, a start-up, by their growth"
    )
    reason = f"At least {rate:.1f} requests a second {source}; {replicas} replicas hold {holds:.1f}"
    if spec.target_seconds <= alone:
        reason += (
            f". The target of {spec.target_seconds * 1e3:.0f} ms is below the model's own "
            f"{alone * 1e3:.0f} ms: no number of replicas meets it, and this one keeps the wait "
            "below another such time"
        )
    else:
        reason += f" within {spec.target_seconds * 1e3:.0f} ms for {spec.percentile:g} %"
    return Cause(replicas, "demand", rate, holds, reason + ".")


def _by_backlog(scene: Scene) -> Cause:
    """While those who come now wait too long, remove none, and add what draining is worth."""
    samples, work, horizon = scene.samples, scene.model.work_seconds, scene.startup_seconds
    backlog = samples.in_flight * work
    waited = backlog / max(1, samples.ready)
    allowed = scene.wait.slack * work + scene.model.seconds_batched
    if waited <= allowed:
        return Cause(0, "backlog", waited, allowed, "")
    able = samples.ready * horizon + scene.starting_ready_seconds
    busy, price = scene.rate * work, 1 / scene.spec.share_late
    drain = keep.to_drain(busy, backlog, able, horizon, price)
    replicas = min(max(drain, scene.present), scene.spec.max_replicas)
    reason = (
        f"{samples.in_flight:.0f} requests in flight are {waited:.1f} s of work for "
        f"{samples.ready} replicas; {replicas} are worth their start-up to drain them."
    )
    return Cause(replicas, "backlog", waited, allowed, reason)


def _by_worth(scene: Scene, seen: History) -> Cause:
    replicas = keep.kept(seen.worth, scene.present, scene.startup_seconds)
    if replicas == 0:
        return Cause(0, "worth", 0.0, 0.0, "")
    credit = seen.worth[replicas - 1].credit
    reason = (
        f"Demand came faster than replicas do, and a replica number {replicas} would have kept "
        f"requests in time that are worth {credit:.0f} more seconds of it."
    )
    return Cause(min(replicas, scene.spec.max_replicas), "worth", credit, 0.0, reason)


def _within_limits(scene: Scene, seen: History, cause: Cause, now: float) -> Decision:
    """Apply schedules, bounds and `behavior`; remember what windows and policies look back at."""
    spec, current = scene.spec, scene.present
    least, most, schedule = bounds(spec, now, scene.startup_seconds)
    wanted = min(max(cause.replicas, least), most)
    rules = spec.up if wanted > current else spec.down
    replicas = stabilised(seen.advice, now, current, wanted, rules)
    window = max(scene.startup_seconds, spec.down.stabilization_window_seconds or 0)
    early = replicas < current and _seen_seconds(scene, seen) < window
    if early:
        replicas = current
    replicas = limited(seen.changes, now, current, replicas, rules)
    replicas = min(max(replicas, least), most)
    seen = replace(
        seen,
        advice=remembered(seen.advice, now, wanted, spec.up, spec.down),
        changes=counted(seen.changes, now, replicas - current, spec.up, spec.down),
    )
    reason = cause.reason
    if wanted != cause.replicas:
        bound = "minimum" if wanted > cause.replicas else "maximum"
        reason += f" {'A schedule' if schedule else 'The spec'} has a {bound} of {wanted}."
    if early:
        reason += f" None goes before {window:.0f} s have been seen."
    elif replicas != wanted:
        reason += f" `behavior` allows {replicas} of {wanted} now."
    return Decision(current, replicas, cause.metric, cause.value, cause.target, reason, seen)
