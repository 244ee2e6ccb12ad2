"""What one decision is made from: samples and history, seen with what was learned."""

from __future__ import annotations

import math
from dataclasses import dataclass

from lepton_operator.autoscale import demand, keep, service, startup
from lepton_operator.autoscale.limits import counted
from lepton_operator.autoscale.queueing import Wait, replicas_for
from lepton_operator.autoscale.schedules import bounds
from lepton_operator.autoscale.service import Model
from lepton_operator.autoscale.values import Change, History, Moment, Samples, Schedule, Spec, grown

# The six blocks of a fourth of a start-up that a trend is taken from, and a margin.
_KEPT_STARTUPS = 1.75
# While the demand falls steadily, what it was does not come back within a start-up: only the block
# counts in which the fall is seen.
_FALLING_WINDOW = 0.25
# On drawn loads (bench/autoscaling/validation.py) replica-seconds plus what lateness weighs are the
# same within a hundredth or two for 1 and 2, so neither saves anything: a user sees the lateness.
_LATENESS = 1.5


@dataclass(frozen=True, slots=True)
class Scene:
    """All that one decision is made from."""

    spec: Spec
    samples: Samples
    least: int
    most: int
    least_by: Schedule | None  # that says so; None: the spec does
    most_by: Schedule | None
    model: Model
    wait: Wait
    startup_seconds: float
    rate: float  # requests a second since the last samples
    certain_rate: float  # its lower bound: what is held against somebody is not noise
    most_rate: float  # within the last start-up
    coming_rate: float  # at the end of the next one, by its trend
    startups_seconds: tuple[float, ...]  # of this service's own pods

    @property
    def late_second(self) -> float:
        """What a second in which requests are late weighs, in replica-seconds (`keep`)."""
        return _LATENESS * self.needed(self.certain_rate) / self.spec.share_late

    @property
    def starting_ready_seconds(self) -> float:
        """Return for how long pods that start now will be ready within the next start-up."""
        return sum(
            startup.expected_ready_seconds(self.startups_seconds, age, self.startup_seconds)
            for age in self.samples.starting_ages
        )

    def needed(self, rate: float) -> int:
        """Return the least number that holds a rate; one above the most if that does not."""
        return replicas_for(rate * self.model.load_seconds, self.wait, self.most + 1)


def problem(spec: Spec, samples: Samples, history: History, now: float) -> str:
    """Return why these samples cannot be used; nothing if they can."""
    figures = (
        samples.time,
        samples.arrivals,
        samples.in_flight,
        samples.completions,
        samples.latency_seconds,
        *(samples.computed or ()),
        *samples.starting_ages,
    )
    if not all(map(math.isfinite, figures)):
        return "a sample is not a number"
    if min(figures[1:]) < 0 or min(samples.ready, samples.current) < 0:
        return "a sample is negative"
    if abs(now - samples.time) > spec.stale_after_seconds:
        return f"the samples are {now - samples.time:.0f} s old"
    last = history.last
    if last and last.time - spec.stale_after_seconds < samples.time <= last.time:
        return "there are no newer samples"
    return ""


def observe(spec: Spec, samples: Samples, history: History, now: float) -> History:
    """Take in what the samples say; after a gap or a jump of the clock begin to look anew."""
    last = history.last
    known = startup.learn(history.startups_seconds, samples.startups_seconds)
    if last is None or not 0 < samples.time - last.time <= spec.stale_after_seconds:
        return history._replace(
            last=samples,
            startups_seconds=known,
            service=service.first(history.service, samples),
            seen_since=samples.time,
            arrivals=0.0,
            moments=(),
            peaks=(),
            troughs=(),
            overload=None,
            backlog_seconds=0.0,
            began_with=samples.current,
            changes=_changes(spec, samples, history, now),
            advice=(),
        )
    came = grown(last.arrivals, samples.arrivals)
    rate = came / (samples.time - last.time)
    learned = service.learn(history.service, last, samples, rate, spec.door)
    return history._replace(
        last=samples,
        startups_seconds=known,
        service=learned,
        arrivals=history.arrivals + came,
        changes=_changes(spec, samples, history, now),
    )


def _changes(spec: Spec, samples: Samples, history: History, now: float) -> tuple[Change, ...]:
    """Return what was changed lately; after a clock was set back nobody knows when that was."""
    last = history.last
    if last is None or samples.time <= last.time:
        return ()
    return counted(history.changes, now, samples.current - last.current, spec.up, spec.down)


def see(
    spec: Spec, model: Model, samples: Samples, seen: History, now: float
) -> tuple[Scene, History]:
    """Return what is decided by, and the history with these samples in it."""
    seconds = startup.mean(seen.startups_seconds, samples.starting_ages)
    moments, arrivals = seen.moments, seen.arrivals
    rate = demand.newest_rate(moments, samples.time, arrivals)
    certain = demand.certain_rate(moments, samples.time, arrivals)
    level = demand.envelope(moments, samples.time, arrivals, seconds)
    known = seen.startups_seconds
    horizon = startup.quantile(known, seconds, spec.percentile)
    coming = demand.coming(moments, horizon)
    window = seconds * (_FALLING_WINDOW if coming.falling else 1)
    most = max(level, demand.most_within(seen.peaks, samples.time - window))
    allowed = bounds(spec, now, seconds)
    found = Scene(
        spec=spec,
        samples=samples,
        least=allowed.least,
        most=allowed.most,
        least_by=allowed.least_by,
        most_by=allowed.most_by,
        model=model,
        wait=_wait(spec, model),
        startup_seconds=seconds,
        rate=rate,
        certain_rate=certain,
        most_rate=most,
        coming_rate=coming.rate,
        startups_seconds=known,
    )
    reference, seen = _reference(found, seen)
    # What was foretold stays for a start-up, too: a pod that comes and goes at once costs a start.
    moment = Moment(samples.time, arrivals, max(level, coming.rate), reference)
    since = samples.time - _KEPT_STARTUPS * max(seconds, horizon)
    return found, seen._replace(
        moments=(*demand.since(moments, since), moment),
        peaks=demand.peaks(demand.since(seen.peaks, since), moment),
        troughs=keep.troughs(demand.since(seen.troughs, since), moment),
    )


def _wait(spec: Spec, model: Model) -> Wait:
    """Return how long a request may wait; a target below the service time asks for one service."""
    left = spec.target_seconds - model.seconds_batched
    if left <= 0:
        left = model.seconds_batched
    return Wait(left / model.work_seconds, spec.share_late, model.variability, spec.door)


def _reference(scene: Scene, seen: History) -> tuple[int, History]:
    """Let the reference of `keep` live on to the present; return what it wants now."""
    now = scene.samples.time
    moments = seen.moments
    base = min(_base(scene, seen), scene.most)
    if not moments:
        return base, seen
    seconds = now - moments[-1].time
    ready = keep.reference_ready(moments, seen.troughs, now, scene.startup_seconds, seen.began_with)
    busy = scene.rate * scene.model.load_seconds
    backlog = max(0.0, seen.backlog_seconds + (busy - ready) * seconds)
    worth, overload, wanted = seen.worth, None, base
    if backlog > ready * scene.wait.slack * scene.model.work_seconds:
        cost = scene.late_second * seconds if scene.rate > 0 else 0.0
        needed = scene.needed(scene.certain_rate)
        worth, overload = keep.late(worth, seen.overload, ready, needed, cost)
        able = ready * scene.startup_seconds
        drain = keep.to_drain(busy, backlog, able, scene.startup_seconds, scene.late_second)
        wanted = max(base, drain, moments[-1].reference)
    worth = keep.account(worth, seconds, base)
    seen = seen._replace(worth=worth, overload=overload, backlog_seconds=backlog)
    return min(wanted, scene.most), seen


def _base(scene: Scene, seen: History) -> int:
    """Return what the demand needs; before a whole start-up was seen, no fewer than there were."""
    needed = scene.needed(max(scene.most_rate, scene.coming_rate))
    if seen_seconds(scene, seen) < scene.startup_seconds:
        needed = max(needed, min(seen.began_with, scene.most))
    return needed


def seen_seconds(scene: Scene, seen: History) -> float:
    """Return for how long no samples were missed."""
    return scene.samples.time - (scene.samples.time if seen.seen_since is None else seen.seen_since)
