"""The law: how many replicas keep the latency that was asked for, with as few as can be.

Wanted is the most of
  - what the demand needs: the highest rate within the last start-up (a replica that was needed so
    lately costs less to keep than to start), or what a steady growth makes of it within the next;
  - what a backlog is worth to drain, while there is one, and none is removed before it has gone;
  - what is worth keeping for demand that comes faster than replicas do (`keep`).
"""

from __future__ import annotations

from lepton_operator.autoscale import service, startup
from lepton_operator.autoscale.causes import Cause, by_backlog, by_demand, by_worth
from lepton_operator.autoscale.limits import limited, remembered, stabilised
from lepton_operator.autoscale.scene import Scene, observe, problem, see, seen_seconds
from lepton_operator.autoscale.schedules import bounds
from lepton_operator.autoscale.values import Decision, History, Limit, Samples, Spec


def decide(
    spec: Spec, samples: Samples | None, history: History, now: float, *, current: int | None = None
) -> Decision:
    """Say how many replicas there should be.

    `now` and `samples.time` are seconds of one clock, since the epoch if there are schedules.
    `current` is spec.replicas, which stays known where there are no samples to tell it.
    Raises nothing: what cannot be believed is not used, and then the number stays as it is.
    """
    if current is None:
        current = _told(samples, history)
    if samples is None:
        return _hold(spec, current, history, "there are no samples", now)
    if why := problem(spec, samples, history, now):
        return _hold(spec, current, history, why, now)
    seen = observe(spec, samples, history, now)
    model = service.model(seen.service, spec)
    if model is None:
        return _hold(spec, current, seen, "no request has been answered yet", now)
    found, seen = see(spec, model, samples, seen, now)
    causes = (by_demand(found), by_backlog(found), by_worth(found, seen))
    return _within_limits(found, seen, max(causes, key=lambda cause: cause.replicas), now)


def _told(samples: Samples | None, history: History) -> int | None:
    """Return the number as samples tell it, these or the last ones."""
    known = history.last if samples is None or samples.current < 0 else samples
    return known.current if known else None


def _hold(spec: Spec, current: int | None, history: History, why: str, now: float) -> Decision:
    """Keep the number as it is, within the bounds that were asked for; 0 if it is not known."""
    allowed = bounds(spec, now, startup.mean(history.startups_seconds, ()))
    replicas = 0 if current is None else min(max(current, allowed.least), allowed.most)
    current = current or 0
    return Decision(
        current,
        replicas,
        "samples",
        0.0,
        0.0,
        f"Held at {replicas}, because {why}."
        if replicas == current
        else f"{replicas} are in bounds. Else it would be held at {current}, because {why}.",
        history,
        held=True,
    )


def _within_limits(scene: Scene, seen: History, cause: Cause, now: float) -> Decision:
    """Apply schedules, bounds and `behavior`; remember what its windows look back at."""
    spec, current = scene.spec, scene.samples.current
    wanted = min(max(cause.replicas, scene.least), scene.most)
    rules = spec.up if wanted > current else spec.down
    replicas = stabilised(seen.advice, now, current, wanted, rules)
    kept = _why_kept(scene, seen) if replicas < current else ""
    replicas = limited(seen.changes, now, current, current if kept else replicas, rules)
    replicas = min(max(replicas, scene.least), scene.most)
    if not kept and replicas != wanted:
        kept = f"`behavior` allows {replicas} of {wanted} now."
    return Decision(
        current,
        replicas,
        cause.metric,
        cause.value,
        cause.target,
        " ".join(filter(None, (cause.reason, _bound(scene, cause, wanted), kept))),
        seen._replace(advice=remembered(seen.advice, now, wanted, spec.up, spec.down)),
        limit=_limit(scene, cause),
    )


def _why_kept(scene: Scene, seen: History) -> str:
    """Return why none goes yet; nothing if they may."""
    if not scene.samples.whole:
        return "None goes while a door does not tell what it counts."
    if scene.samples.ready == 0:
        return "None goes while none is ready: doors refuse what would show the demand."
    window = max(scene.startup_seconds, scene.spec.down.stabilization_window_seconds or 0)
    if seen_seconds(scene, seen) < window:
        return f"None goes before {window:.0f} s have been seen."
    return ""


def _bound(scene: Scene, cause: Cause, wanted: int) -> str:
    if wanted == cause.replicas:
        return ""
    is_least = wanted > cause.replicas
    by = "A schedule" if (scene.least_by if is_least else scene.most_by) else "The spec"
    return f"{by} has a {'minimum' if is_least else 'maximum'} of {wanted}."


def _limit(scene: Scene, cause: Cause) -> Limit | None:
    if scene.spec.target_seconds <= scene.model.seconds_batched:
        return "ServiceTime"
    return "Maximum" if cause.replicas > scene.most else None
