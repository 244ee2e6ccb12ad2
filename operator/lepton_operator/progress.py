"""How far a training is, as rank 0's sidecar tells it over HTTP (docs/architecture.md).

Ranks write what the sidecar reads, so all of it is a user's: what is out of bounds is absent.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Annotated, Literal

from pydantic import Field, StrictBool, StrictInt, ValidationError

from lepton_operator.api.common import StatusModel
from lepton_operator.api.training import (
    KEPT_RESTARTS,
    MAX_ATTEMPTS,
    MAX_CHECKPOINT_PROBLEM,
    MAX_NODES,
    MAX_RANKS_PER_POD,
    MAX_RESTART_MESSAGE,
    MAX_STEP,
    Phase,
    Progress,
    RankRestart,
    SlowRank,
    Spent,
)
from lepton_operator.conditions import cut
from lepton_operator.records import (
    MAX_RESTARTS,
    MAX_SECONDS,
    ReportedMetrics,
    ReportedSeconds,
    Text,
    decimal,
)
from lepton_operator.views import Earlier, InPlace, Loss, Told

MAX_BYTES = 262_144
MAX_TOLD_RESTARTS = 64
MAX_TOLD_ATTEMPTS = 16

_Count = Annotated[StrictInt, Field(ge=0, le=MAX_STEP)]
_Seconds = Annotated[float, Field(ge=0, le=MAX_SECONDS, allow_inf_nan=False)]


class _Checkpoint(StatusModel):
    step: _Count | None = None
    age_seconds: _Seconds
    seconds: _Seconds = 0.0


class _Restart(StatusModel):
    generation: Annotated[StrictInt, Field(ge=0, le=MAX_ATTEMPTS)]
    reason: Literal["UserError", "OutOfMemory", "Hang"]
    rank: Annotated[StrictInt, Field(ge=0, lt=MAX_NODES * MAX_RANKS_PER_POD)] | None = None
    exit_code: Annotated[StrictInt, Field(ge=0, le=255)] | None = None
    signal: Annotated[StrictInt, Field(ge=1, le=64)] | None = None
    step: _Count | None = None
    message: Text | None = None

    def told(self) -> RankRestart:
        message = cut(self.message, MAX_RESTART_MESSAGE) if self.message else None
        return RankRestart(**{**dict(self), "message": message})


class _Lost(StatusModel):
    node: Annotated[StrictInt, Field(ge=0, lt=MAX_NODES)]
    message: Text = ""
    seconds: _Seconds


class _Slow(StatusModel):
    rank: Annotated[StrictInt, Field(ge=0, le=2**31 - 1)]
    node: Annotated[StrictInt, Field(ge=0, le=MAX_NODES - 1)]
    factor: Annotated[float, Field(ge=1, le=1e6, allow_inf_nan=False)]


class _Earlier(StatusModel):
    attempt: Annotated[StrictInt, Field(ge=1, le=MAX_ATTEMPTS)]
    ledger: ReportedSeconds = Field(default_factory=dict)


class _Told(StatusModel):
    """The sidecar's document, as far as the status needs it."""

    attempt: Annotated[StrictInt, Field(ge=1, le=MAX_ATTEMPTS)]
    generation: Annotated[StrictInt, Field(ge=0, le=MAX_ATTEMPTS)]
    phase: Phase
    step: _Count | None = None
    total_steps: _Count | None = None
    step_seconds: _Seconds | None = None
    metrics: ReportedMetrics = Field(default_factory=dict)
    learning_rate: Annotated[float, Field(allow_inf_nan=False)] | None = None
    checkpoint: _Checkpoint | None = None
    resumed_from: _Count | None = None
    furthest: _Count | None = None
    counted_restarts: Annotated[StrictInt, Field(ge=0, le=MAX_RESTARTS)] = 0
    saved: StrictBool = False
    restarts: Annotated[tuple[_Restart, ...], Field(max_length=MAX_TOLD_RESTARTS)] = ()
    lost: _Lost | None = None
    slow: _Slow | None = None
    ledger: ReportedSeconds = Field(default_factory=dict)
    earlier: Annotated[tuple[_Earlier, ...], Field(max_length=MAX_TOLD_ATTEMPTS)] = ()
    checkpoint_problem: Text | None = None


def parse(content: bytes, now: datetime) -> Told | None:
    """Return what a sidecar told now; None if it is no such document."""
    try:
        told = _Told.model_validate_json(content)
    except ValidationError:
        return None
    return Told(_progress(told, now), _in_place(told), _loss(told, now), _earlier(told))


def _earlier(told: _Told) -> tuple[Earlier, ...]:
    return tuple(Earlier(each.attempt, each.ledger) for each in told.earlier)


def _loss(told: _Told, now: datetime) -> Loss | None:
    lost = told.lost
    return Loss(lost.node, lost.message, _seconds_ago(now, lost.seconds)) if lost else None


def _in_place(told: _Told) -> InPlace:
    return InPlace(
        restarts=told.counted_restarts,
        resumed_from=told.resumed_from,
        furthest=told.furthest,
        saved=told.saved,
        last=tuple(each.told() for each in told.restarts[-KEPT_RESTARTS:]),
    )


def _progress(told: _Told, now: datetime) -> Progress:
    saved = told.checkpoint
    return Progress(
        time=now.replace(microsecond=0),
        attempt=told.attempt,
        generation=told.generation,
        phase=told.phase,
        step=told.step,
        total_steps=told.total_steps,
        steps=_steps(told),
        steps_per_second=decimal(1 / told.step_seconds) if told.step_seconds else None,
        eta_seconds=_eta_seconds(told),
        metrics=told.metrics,
        learning_rate=None if told.learning_rate is None else decimal(told.learning_rate),
        checkpoint_step=saved.step if saved else None,
        checkpoint_time=_seconds_ago(now, saved.age_seconds) if saved else None,
        checkpoint_problem=cut(told.checkpoint_problem, MAX_CHECKPOINT_PROBLEM)
        if told.checkpoint_problem
        else None,
        slow=_slow(told.slow) if told.slow else None,
        ledger=_spent(told.ledger),
        leave_seconds=_leave_seconds(told),
    )


def _steps(told: _Told) -> str | None:
    """Return e.g. `1200/5000`: a column of kubectl's shows one field."""
    if told.step is None:
        return None
    return f"{told.step}/{told.total_steps}" if told.total_steps else str(told.step)


def _slow(told: _Slow) -> SlowRank:
    factor = decimal(round(told.factor, 2)) or "1"
    return SlowRank(rank=told.rank, pod=told.node, factor=factor)


def _spent(ledger: Mapping[str, float]) -> Spent | None:
    texts = {name: decimal(ledger[name]) for name in Spent.model_fields if name in ledger}
    return Spent.model_validate(texts) if texts else None


def _leave_seconds(told: _Told) -> int | None:
    """Return what a save on request takes: two steps to agree, one under way, and twice the save.

    None before the first save, or where the cost of one is nonsense.
    """
    if told.checkpoint is None:
        return None
    seconds = 2 * told.checkpoint.seconds + 3 * (told.step_seconds or 0.0)
    return math.ceil(seconds) if seconds <= MAX_SECONDS else None


def _eta_seconds(told: _Told) -> int | None:
    if told.step is None or told.total_steps is None or told.step_seconds is None:
        return None
    seconds = max(0, told.total_steps - told.step) * told.step_seconds
    return round(seconds) if seconds <= MAX_SECONDS else None


def _seconds_ago(now: datetime, seconds: float) -> datetime:
    return (now - timedelta(seconds=seconds)).replace(microsecond=0)
