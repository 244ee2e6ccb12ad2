"""Why so many replicas: demand, a backlog, or what is worth keeping."""

from __future__ import annotations

from typing import NamedTuple

from lepton_operator.autoscale import keep
from lepton_operator.autoscale.queueing import capacity
from lepton_operator.autoscale.scene import Scene
from lepton_operator.autoscale.values import History

# None goes where a tenth more demand would need it: Kubernetes' own tolerance for its HPA.
_TOLERANCE = 0.1


class Cause(NamedTuple):
    """One reason for a number of replicas."""

    replicas: int
    metric: str
    value: float
    target: float
    reason: str


def by_demand(scene: Scene) -> Cause:
    """The most that came within a start-up, or will come in one, within the target."""
    rate = max(scene.most_rate, scene.coming_rate)
    replicas = scene.needed(rate)
    if replicas < scene.samples.current:
        replicas = min(scene.samples.current, scene.needed((1 + _TOLERANCE) * rate))
    holds = capacity(replicas, scene.wait) / scene.model.load_seconds
    spec, alone = scene.spec, scene.model.seconds_batched
    source = (
        f"came or were foretold within the last {scene.startup_seconds:.0f} s, a start-up"
        if scene.most_rate >= scene.coming_rate
        else f"will come in {scene.startup_seconds:.0f} s, a start-up, by their growth"
    )
    hold = "1 replica holds" if replicas == 1 else f"{replicas} replicas hold"
    reason = f"At least {rate:.1f} requests a second {source}; {hold} {holds:.1f}"
    if spec.target_seconds <= alone:
        reason += (
            f". The target of {spec.target_seconds * 1e3:.0f} ms is below the model's own "
            f"{alone * 1e3:.0f} ms: no number of replicas meets it, and this one keeps the wait "
            "below another such time"
        )
    else:
        reason += f" within {spec.target_seconds * 1e3:.0f} ms for {spec.percentile:g} %"
    if scene.model.share_computed < 1:
        reason += f"; {100 * scene.model.share_computed:.0f} % of requests miss the response cache"
    return Cause(replicas, "demand", rate, holds, reason + ".")


def by_backlog(scene: Scene) -> Cause:
    """While those who come now wait too long, remove none, and add what draining is worth."""
    samples, work, horizon = scene.samples, scene.model.work_seconds, scene.startup_seconds
    backlog = samples.in_flight * work
    waited = backlog / max(1, samples.ready)
    allowed = scene.wait.slack * work + scene.model.seconds_batched
    if waited <= allowed:
        return Cause(0, "backlog", waited, allowed, "")
    able = samples.ready * horizon + scene.starting_ready_seconds
    busy = scene.rate * scene.model.load_seconds
    drain = keep.to_drain(busy, backlog, able, horizon, scene.late_second)
    replicas = min(max(drain, samples.current), scene.most)
    reason = (
        f"{samples.in_flight:.0f} requests in flight are {waited:.1f} s of work for each "
        f"replica that is ready; {replicas} are worth their start-up to drain them."
    )
    return Cause(replicas, "backlog", waited, allowed, reason)


def by_worth(scene: Scene, seen: History) -> Cause:
    """The last replica that would be missed more than it costs."""
    replicas = keep.kept(seen.worth, scene.samples.current, scene.startup_seconds)
    if replicas == 0:
        return Cause(0, "worth", 0.0, 0.0, "")
    credit = seen.worth[replicas - 1].credit
    reason = (
        f"Demand came faster than replicas do, and a replica number {replicas} would have kept "
        f"requests in time that are worth {credit:.0f} more seconds of it."
    )
    return Cause(min(replicas, scene.most), "worth", credit, 0.0, reason)
