"""What a recovery took, from the moments that were seen: no I/O."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

from e2e.jobs import attempts
from e2e.recovery.run import Checkpoint, Event
from e2e.recovery.watched import Sightings

# How the launchers' lines begin that tell of it.
_ASKED = ("lepton: asked to leave",)
_ENDED = ("lepton: the ranks of generation",)


@dataclass(frozen=True, slots=True)
class Recovery:
    """What one fault did to a run, in seconds.

    `wall_s` is from the fault to the first step beyond the last one reached; `overhead_s` is what
    is left of it without detection, pod start, imports and repeated steps. PyTorch is imported by
    torchrun's agent first, and then by the script: `import_s` is until both have it. Of a job that
    rightly ended, only `detect_s` is known, and `wall_s` is the time until the verdict.
    """

    reason: str
    detect_s: float
    wall_s: float
    lost_steps: int | None = None
    pod_start_s: float | None = None
    import_s: float | None = None
    rendezvous_s: float | None = None
    restore_s: float | None = None
    overhead_s: float | None = None


@dataclass(frozen=True, slots=True)
class Restart:
    """The moments of one start of the ranks after a fault; the slowest rank's, each."""

    launcher: float
    agent: float
    imported: float
    met: float
    restored: float
    beyond: float


def beyond(events: Sequence[Event], fault_at: float) -> Event | None:
    """Return rank 0's first step beyond the last one that was reached before the fault showed."""
    old = start_before(events, fault_at)
    reached = reached_step(events, fault_at)
    later = (
        each
        for each in events
        if each.name == "step" and each.rank == 0 and each.start > old and each.step is not None
    )
    return next((each for each in later if (each.step or 0) > reached), None)


def reached_step(events: Sequence[Event], fault_at: float) -> int:
    """Return the last step that any rank did in the start of the ranks that the fault met."""
    old = start_before(events, fault_at)
    return max(each.step or 0 for each in events if each.name == "step" and each.start == old)


def restart(events: Sequence[Event], last: Event) -> Restart:
    """Return the moments of the start of the ranks that came to the step `last`."""
    own = [each for each in events if each.start == last.start]

    def slowest(name: str) -> float:
        return max(each.at for each in own if each.name == name)

    begun = [each for each in own if each.name == "started"]
    return Restart(
        launcher=max(each.launcher for each in begun),
        agent=max(each.agent for each in begun),
        imported=slowest("imported"),
        met=slowest("met"),
        restored=slowest("restored"),
        beyond=last.at,
    )


def detected_at(
    seen: Sightings, events: Sequence[Event], fault_at: float, *, in_place: bool
) -> float | None:
    """Return when it was known, after the fault, what had to be done; None before it was heard.

    That is the moment at which the ranks were asked to leave, or the attempt was closed; where they
    were started again in their pods, the moment at which a launcher first ended its own.
    """
    words = _ASKED + _ENDED if in_place else _ASKED
    noticed = [at for at, _, line in seen.said if at >= fault_at and line.startswith(words)]
    attempt, _ = start_before(events, fault_at)
    closed = [at for at, status in seen.statuses if at >= fault_at and _is_closed(status, attempt)]
    return min([*noticed, *closed], default=None)


def _is_closed(status: Mapping[str, Any], attempt: int) -> bool:
    found = attempts({"status": status})
    return any(each["number"] == attempt and each.get("endTime") for each in found)


def failed_at(seen: Sightings) -> float | None:
    """Return when the job's status was first seen to say that it had failed."""
    return next((at for at, status in seen.statuses if _has_failed(status)), None)


def step_seconds(events: Sequence[Event], fault_at: float) -> list[float]:
    """Return the durations of rank 0's steps in the start of the ranks that the fault met."""
    start = start_before(events, fault_at)
    own = [
        each.at
        for each in events
        if each.name == "step" and each.rank == 0 and each.start == start and each.at <= fault_at
    ]
    return [after - before for before, after in pairwise(own)]


def saved_by(checkpoints: Sequence[Checkpoint], start: tuple[int, int], moment: float) -> list[int]:
    """Return the steps whose checkpoints one start of the ranks had completed by then."""
    return [each.step for each in checkpoints if each.start == start and each.at <= moment]


def contradictions(events: Sequence[Event], checkpoints: Sequence[Checkpoint]) -> Iterator[str]:
    """Yield what ranks did that had been replaced: two of one rank may never work at a time."""
    met: dict[tuple[int, int], float] = {}
    for each in events:
        if each.name == "met":
            met.setdefault(each.start, each.at)
    for each in events:
        later = [start for start, at in met.items() if start > each.start and at < each.at]
        if each.name == "step" and later:
            yield f"rank {each.rank} of {each.start} did step {each.step} beside {later[0]}"
    for saved in checkpoints:
        late = [start for start, at in met.items() if start > saved.start and at < saved.at]
        if late:
            yield f"the checkpoint of step {saved.step}, of {saved.start}, came beside {late[0]}"


def is_in_place(events: Sequence[Event], fault_at: float, last: Event) -> bool:
    """Tell whether the step `last` is of the attempt that the fault met."""
    return last.attempt == start_before(events, fault_at)[0]


def recovery(
    reason: str, events: Sequence[Event], seen: Sightings, fault_at: float, last: Event
) -> Recovery:
    """Return the figures of a run that got beyond `last`, once it is seen who noticed the fault."""
    moments = restart(events, last)
    in_place = is_in_place(events, fault_at, last)
    detected = detected_at(seen, events, fault_at, in_place=in_place)
    assert detected is not None
    new_pods = [at for at in seen.pods.values() if at > fault_at]
    pod_start = max(0.0, moments.launcher - max(new_pods)) if new_pods else 0.0
    importing = moments.imported - moments.agent
    step = statistics.median(step_seconds(events, fault_at))
    repeated = max(0.0, moments.beyond - moments.restored - step)
    wall = moments.beyond - fault_at
    spent = detected - fault_at + pod_start + importing + repeated
    resumed = next(
        each.step or 0 for each in events if each.name == "restored" and each.start == last.start
    )
    return Recovery(
        reason=reason,
        lost_steps=reached_step(events, fault_at) - resumed,
        detect_s=detected - fault_at,
        pod_start_s=pod_start,
        import_s=importing,
        rendezvous_s=moments.met - moments.imported,
        restore_s=moments.restored - moments.met,
        overhead_s=wall - spent,
        wall_s=wall,
    )


def rounded(found: Recovery) -> dict[str, object]:
    """Return the figures as they are told; the class has its proper name there."""
    figures = asdict(found)
    reason = figures.pop("reason")
    return {
        "class": reason,
        **{key: round(it, 2) if isinstance(it, float) else it for key, it in figures.items()},
    }


def _has_failed(status: Mapping[str, Any]) -> bool:
    conditions = status.get("conditions", [])
    return any(each["type"] == "Failed" and each["status"] == "True" for each in conditions)


def start_before(events: Sequence[Event], moment: float) -> tuple[int, int]:
    """Return which start of the ranks was the last one that began before this moment."""
    return max(each.start for each in events if each.name == "started" and each.at <= moment)
