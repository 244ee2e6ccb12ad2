"""Hurt one run, wait until it goes on (or ends, where it should), and say what that took."""

from __future__ import annotations

import http.client
import json
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from e2e.jobs import attempts
from e2e.recovery import timeline
from e2e.recovery.faults import Fault
from e2e.recovery.run import Checkpoint, Event, Run, started
from e2e.recovery.timeline import Recovery
from e2e.recovery.volume import Shared
from e2e.recovery.watched import Sightings, watched
from e2e.waiting import condition, wait_until

FIRST_STEPS = 40
"""Steps before the fault: more than the launchers need to know how long one takes."""
_FIRST_SAVES = 2
"""Checkpoints before the fault: one may be damaged."""
_PROGRESS_PORT = 9464
_PROGRESS_SECONDS = 5
_SETTLED_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Measured:
    """A recovery beside its bounds, and what must never be: `wrong` is empty, or says it."""

    recovery: Recovery
    detect_bound_s: float
    lost_steps_bound: int
    wrong: tuple[str, ...]
    job: Mapping[str, Any]
    progress: Mapping[str, Any]

    @property
    def lost_too_much(self) -> list[str]:
        """Return a sentence if more steps were lost than lie between checkpoints."""
        lost = self.recovery.lost_steps
        if lost is None or lost <= self.lost_steps_bound:
            return []
        return [f"{lost} steps lost, not {self.lost_steps_bound}"]

    @property
    def beyond_bounds(self) -> list[str]:
        """Return a sentence for each bound that was missed."""
        took = self.recovery.detect_s
        if took <= self.detect_bound_s:
            return self.lost_too_much
        late = f"detected after {took:.1f} s, not {self.detect_bound_s:.1f}"
        return [late, *self.lost_too_much]


def measured(shared: Shared, name: str, fault: Fault) -> Measured:
    """Run a job of this name into a fault."""
    with started(shared, name, **fault.spec) as run:
        run.runs_to(FIRST_STEPS)
        run.saves(_FIRST_SAVES)
        pods = [each["metadata"]["name"] for each in run.pods()]
        with watched(run.kubectl, name, pods) as seen, fault.inject(run) as at:
            return (
                _ended(run, seen, at, fault)
                if fault.ends_the_job
                else _gone_on(run, seen, at, fault)
            )


def _gone_on(run: Run, seen: Sightings, at: float, fault: Fault) -> Measured:
    last = wait_until(
        lambda: timeline.beyond(run.events(), at), bool, "a training goes on", f"in {run.name}"
    )
    assert last is not None
    time.sleep(_SETTLED_SECONDS)  # what an old rank would still do wrong
    events, checkpoints, job = run.events(), run.checkpoints(), run.job() or {}
    _wait_for_detection(seen, events, at, in_place=timeline.is_in_place(events, at, last))
    progress = _progress(run)
    recovery = timeline.recovery(_reason(job, progress), events, seen, at, last)
    return Measured(
        recovery=recovery,
        detect_bound_s=fault.detect_bound(_p99(timeline.step_seconds(events, at))),
        lost_steps_bound=_lost_steps_bound(fault, events, checkpoints, at),
        wrong=tuple(timeline.contradictions(events, checkpoints)),
        job=job,
        progress=progress,
    )


def _lost_steps_bound(
    fault: Fault, events: Sequence[Event], checkpoints: Sequence[Checkpoint], at: float
) -> int:
    """Return how many steps lie after the last checkpoints that were complete, and one.

    A save that was under way is lost as well, and takes as long as the machine is busy.
    """
    if not fault.saves_lost:
        return 0
    saved = timeline.saved_by(checkpoints, timeline.start_before(events, at), at)
    return timeline.reached_step(events, at) - saved[-fault.saves_lost] + 1


def _wait_for_detection(
    seen: Sightings, events: Sequence[Event], at: float, *, in_place: bool
) -> float:
    """Wait until kubectl has told who noticed the fault; return when that was."""
    found = wait_until(
        lambda: timeline.detected_at(seen, events, at, in_place=in_place),
        lambda moment: moment is not None,
        "a condition shows",
    )
    assert found is not None
    return found


def _ended(run: Run, seen: Sightings, at: float, fault: Fault) -> Measured:
    failed_at = wait_until(lambda: timeline.failed_at(seen), bool, "a job fails")
    assert failed_at is not None
    job, events = run.job() or {}, run.events()
    recovery = Recovery(
        reason=str(condition(job, "Failed")["reason"]),
        detect_s=_wait_for_detection(seen, events, at, in_place=True) - at,
        wall_s=failed_at - at,
    )
    wrong = timeline.contradictions(events, run.checkpoints())
    return Measured(recovery, fault.detect_bound(0), 0, tuple(wrong), job, {})


def _reason(job: Mapping[str, Any], progress: Mapping[str, Any]) -> str:
    """Return the class of the failure: the operator's, or the launchers' own if they mended it."""
    closed = [each["reason"] for each in attempts(job) if each.get("reason")]
    in_place = [each["reason"] for each in progress.get("restarts", ())]
    return str((closed or in_place or ["none"])[-1])


def _progress(run: Run) -> Mapping[str, Any]:
    """Return what rank 0's sidecar tells."""
    address = run.pod(0)["status"]["podIP"]
    connection = http.client.HTTPConnection(address, _PROGRESS_PORT, timeout=_PROGRESS_SECONDS)
    try:
        connection.request("GET", "/progress")
        told: Mapping[str, Any] = json.loads(connection.getresponse().read())
        return told
    finally:
        connection.close()


def _p99(seconds: list[float]) -> float:
    return statistics.quantiles(seconds, n=100, method="inclusive")[-1]
