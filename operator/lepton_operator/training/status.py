"""What a TrainingJob's status says: the closed list of reasons, verdicts, and the whole of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum

from lepton_operator.api.training import (
    KEPT_ATTEMPTS,
    Attempt,
    AvoidedNode,
    CheckpointStatus,
    OutputStatus,
    Progress,
    Restarts,
    SlowRank,
    TrainingJobSpec,
    TrainingJobStatus,
)
from lepton_operator.build.training import checkpoint_folder
from lepton_operator.conditions import (
    Extra,
    Standing,
    Verdict,
    cut,
    find,
    is_true,
    sentence,
    summarise,
)
from lepton_operator.plan import Manifest
from lepton_operator.training import ledger
from lepton_operator.training.situation import Situation, highest

COMPLETE = "Complete"
FAILED = "Failed"
SUSPENDED = "Suspended"
PROGRESS_KNOWN = "ProgressKnown"
CHECKPOINT_PLACE_KNOWN = "CheckpointPlaceKnown"
CHECKPOINTS_SAVED = "CheckpointsSaved"
SLOW_RANK = "SlowRank"

MAX_CAUSE = 600  # characters of a cause in a message, so that the advice after it is never cut


class Reason(StrEnum):
    """Every reason of the condition Ready."""

    SCHEDULING = "Scheduling"
    STARTING = "Starting"
    RESTARTING = "Restarting"
    RUNNING = "Running"
    CHECKPOINTING = "Checkpointing"
    SUSPENDING = "Suspending"
    SUSPENDED = "Suspended"
    COMPLETE = "Complete"
    NO_CAPACITY = "NoCapacity"
    VOLUME_NOT_READY = "VolumeNotReady"
    IMAGE_ERROR = "ImageError"
    CONTAINER_ERROR = "ContainerError"
    CRASH_LOOP = "CrashLoop"
    OUT_OF_MEMORY = "OutOfMemory"
    QUOTA_EXCEEDED = "QuotaExceeded"
    NAME_TAKEN = "NameTaken"
    REFUSED = "Refused"
    NO_STORE = "NoStore"
    STORE_UNAVAILABLE = "StoreUnavailable"
    OUTPUT_REFUSED = "OutputRefused"
    MAX_RESTARTS_EXCEEDED = "MaxRestartsExceeded"
    MAX_INFRASTRUCTURE_RESTARTS_EXCEEDED = "MaxInfrastructureRestartsExceeded"
    DEADLINE_EXCEEDED = "DeadlineExceeded"
    NO_MODEL = "NoModel"
    INVALID_MODEL = "InvalidModel"
    INVALID_SPEC = "InvalidSpec"
    SAME_ERROR = "SameError"
    NO_PROGRESS = "NoProgress"
    FAILED_BY_RULE = "FailedByRule"


@dataclass(frozen=True, slots=True)
class End:
    """How a job ended: `type` is Complete or Failed."""

    type: str
    reason: str
    message: str

    @property
    def verdict(self) -> Verdict:
        if self.type == COMPLETE:
            return Verdict(Standing.SETTLED, True, self.reason, self.message)
        return Verdict(Standing.STALLED, False, self.reason, self.message)


def settled(reason: Reason, message: str) -> Verdict:
    return Verdict(Standing.SETTLED, True, reason, message)


def reconciling(reason: Reason, message: str) -> Verdict:
    return Verdict(Standing.RECONCILING, False, reason, message)


def refused(situation: Situation) -> Verdict:
    """Return the verdict about the first thing that the API server did not let us create."""
    first = situation.view.refusals[0]
    said = replace(first, message=cut(first.message, MAX_CAUSE))
    return reconciling(Reason(first.reason), said.sentence)


def failed(reason: Reason, cause: str, advice: str) -> End:
    """Return the end of a job that nothing but a new one can mend; the advice is never cut."""
    again = "then start the job anew: kubectl replace --force -f MANIFEST"
    return End(FAILED, reason, f"{sentence(cut(cause, MAX_CAUSE))} {advice}, {again}")


def end(situation: Situation) -> End | None:
    """Return how the job ended, if it did: no later change revives it."""
    status = situation.status
    for kind in (COMPLETE, FAILED):
        condition = find(status.conditions, kind)
        if condition is not None and condition.status == "True":
            return End(kind, condition.reason, condition.message)
    if status.output is not None or (situation.last and situation.last.outcome == "Succeeded"):
        return complete(status.output)
    return None


def complete(output: OutputStatus | None) -> End:
    result = (
        f"The result is version {output.version} of LeptonModel {output.model}."
        if output
        else "No result was kept: the job has no output.model."
    )
    return End(COMPLETE, Reason.COMPLETE, f"All ranks ended well. {result}")


def active_since(situation: Situation) -> datetime | None:
    """Return when the job became active; a resume begins anew."""
    status = situation.status
    if situation.spec.suspend:
        return status.start_time
    if status.start_time is None or is_true(status.conditions, SUSPENDED):
        return situation.now
    return status.start_time


def active_seconds(situation: Situation, *, suspended: bool) -> int | None:
    """Return how long the job was active before it was suspended last; None if it never was."""
    status = situation.status
    if not suspended or status.start_time is None or is_true(status.conditions, SUSPENDED):
        return status.active_seconds
    lasted = (situation.now - status.start_time).total_seconds()
    return (status.active_seconds or 0) + max(0, round(lasted))


def written(
    situation: Situation,
    verdict: Verdict,
    *,
    attempts: Sequence[Attempt] | None = None,
    restarts: Restarts | None = None,
    progress: Progress | None = None,
    avoided: Sequence[AvoidedNode] | None = None,
    output: OutputStatus | None = None,
    completion_time: datetime | None = None,
    ended: End | None = None,
) -> Manifest | None:
    """Return the whole wanted status, or None if it is the one that stands."""
    old, generation = situation.status, situation.job.metadata.generation
    kept = tuple(old.attempts if attempts is None else attempts)[-KEPT_ATTEMPTS:]
    closed = (each.furthest_step for each in kept if each.outcome != "Running")
    furthest = highest((old.furthest_step, *closed))
    wanted = TrainingJobStatus(
        observed_generation=generation,
        conditions=summarise(
            old.conditions,
            verdict,
            [
                *_extras(situation, ended or end(situation), kept, furthest),
                *_slow(kept, progress or old.progress),
                *_not_saved(kept, progress or old.progress),
            ],
            generation=generation,
            now=situation.now,
        ),
        attempt=kept[-1].number if kept else None,
        attempts=kept,
        restarts=restarts or old.restarts or Restarts(),
        furthest_step=furthest,
        progress=progress or old.progress,
        checkpoint=_checkpoint(situation, progress) or old.checkpoint,
        ledger=ledger.total(old, kept),
        avoided_nodes=tuple(
            each
            for each in (old.avoided_nodes if avoided is None else avoided)
            if each.until > situation.now
        ),
        start_time=active_since(situation),
        active_seconds=active_seconds(
            situation, suspended=_is_suspended(situation, kept) and not (ended or end(situation))
        ),
        completion_time=completion_time or old.completion_time,
        output=output or old.output,
    ).wire()
    return wanted if wanted != old.wire() else None


def _extras(
    situation: Situation, ended: End | None, attempts: Sequence[Attempt], furthest: int | None
) -> list[Extra]:
    extras = [Extra(ended.type, "True", ended.reason, ended.message)] if ended else []
    if not ended and furthest is None and _knows_no_progress(attempts):
        extras.append(_NO_STEPS)
    if not ended and _begins_anew(situation.spec):
        extras.append(_NO_CHECKPOINT)
    before = find(situation.status.conditions, SUSPENDED)
    if ended and before:
        return [*extras, Extra(SUSPENDED, before.status, before.reason, before.message)]
    if _is_suspended(situation, attempts) and not ended:
        return [*extras, Extra(SUSPENDED, "True", Reason.SUSPENDED, "The job is suspended.")]
    if situation.spec.suspend and not ended:
        leaving = "The job is being suspended: its ranks save and leave."
        return [*extras, Extra(SUSPENDED, "False", Reason.SUSPENDING, leaving)]
    if before:
        return [*extras, Extra(SUSPENDED, "False", "Resumed", "The job was resumed.")]
    return extras


def _is_suspended(situation: Situation, attempts: Sequence[Attempt]) -> bool:
    """Tell whether no attempt is open any more; before, its ranks save and leave."""
    is_open = bool(attempts) and attempts[-1].outcome == "Running"
    return situation.spec.suspend and not is_open


def _checkpoint(situation: Situation, progress: Progress | None) -> CheckpointStatus | None:
    """Return the last checkpoint that the SDK completed, where rank 0 tells of one."""
    if progress is None or progress.checkpoint_step is None or progress.checkpoint_time is None:
        return None
    place = checkpoint_folder(situation.job, progress.checkpoint_step)
    if place is None:
        return None
    return CheckpointStatus(
        step=progress.checkpoint_step, time=progress.checkpoint_time, place=place
    )


def _slow(attempts: Sequence[Attempt], progress: Progress | None) -> list[Extra]:
    """Return the condition about a slow rank of the attempt that runs."""
    if progress is None or progress.slow is None or not _is_running(attempts, progress):
        return []
    return [Extra(SLOW_RANK, "True", SLOW_RANK, slow_rank(progress.slow))]


def _not_saved(attempts: Sequence[Attempt], progress: Progress | None) -> list[Extra]:
    """Return the condition about what was not saved, in the attempt that runs."""
    problem = progress and progress.checkpoint_problem
    if progress is None or not problem or not _is_running(attempts, progress):
        return []
    return [Extra(CHECKPOINTS_SAVED, "False", "NotSaved", sentence(problem))]


def _is_running(attempts: Sequence[Attempt], progress: Progress) -> bool:
    """Tell whether progress is of an attempt that is open."""
    last = attempts[-1] if attempts else None
    return last is not None and last.outcome == "Running" and progress.attempt == last.number


def slow_rank(slow: SlowRank) -> str:
    """Return who is slow, where, and what that means."""
    where = f" on node {slow.node}" if slow.node else ""
    return (
        f"Rank {slow.rank} (pod {slow.pod}{where}) takes {slow.factor} times as long as the others "
        "for its own part of a step, and all of them wait for it: look at that node's GPUs, CPUs, "
        "disks and neighbours, and at how the script divides its work."
    )


_NO_STEPS = Extra(
    PROGRESS_KNOWN,
    "False",
    "NoSteps",
    "No rank has reported a step or saved a checkpoint, so every restart counts against its "
    "budget, however far the run had come: write the step to the file LEPTON_STEP_FILE, save to "
    "and load from the volume that checkpoint.volume names, or use the SDK.",
)


_NO_CHECKPOINT = Extra(
    CHECKPOINT_PLACE_KNOWN,
    "False",
    "NoCheckpoint",
    "The job has no place for checkpoints, so a restart begins the training anew unless its script "
    "saves and loads by itself: name a volume in checkpoint.volume and save there, or, with the "
    "SDK's Checkpointer, a prefix of an object store in checkpoint.uri; or set the numbers of "
    "restarts in failurePolicy to 0.",
)


def _begins_anew(spec: TrainingJobSpec) -> bool:
    policy = spec.failure_policy
    may_restart = policy.max_restarts > 0 or policy.max_infrastructure_restarts > 0
    return may_restart and spec.checkpoint is None


def _knows_no_progress(attempts: Sequence[Attempt]) -> bool:
    """Tell whether ranks ran and failed, and none ever told a step or saved a file."""
    knows = any(each.saved or each.furthest_step is not None for each in attempts)
    return not knows and any(map(_failed_while_it_ran, attempts))


def _failed_while_it_ran(attempt: Attempt) -> bool:
    was_closed_for_it = attempt.outcome == "Failed" and attempt.running_time is not None
    return was_closed_for_it or bool(attempt.restarts)
