"""How far a training is, as rank 0's sidecar tells it over HTTP (docs/architecture.md).

Ranks write what the sidecar reads, so all of it is a user's: what is out of bounds is absent.
"""

from __future__ import annotations

import math
from datetime import datetime, timedelta
from typing import Annotated

from pydantic import Field, StrictInt, ValidationError

from lepton_operator.api.common import StatusModel
from lepton_operator.api.training import MAX_ATTEMPTS, MAX_STEP, Phase, Progress
from lepton_operator.records import ReportedMetrics

MAX_BYTES = 262_144
MAX_SECONDS = 10 * 366 * 86_400.0
"""What a time may be off by; longer ones are nonsense, and no calendar holds some of them."""

_Count = Annotated[StrictInt, Field(ge=0, le=MAX_STEP)]
_Seconds = Annotated[float, Field(ge=0, le=MAX_SECONDS, allow_inf_nan=False)]


class _Checkpoint(StatusModel):
    step: _Count
    age_seconds: _Seconds
    seconds: _Seconds = 0.0


class _Told(StatusModel):
    """The sidecar's document, as far as the status needs it."""

    attempt: Annotated[StrictInt, Field(ge=1, le=MAX_ATTEMPTS)]
    generation: Annotated[StrictInt, Field(ge=0, le=MAX_ATTEMPTS)]
    phase: Phase
    step: _Count | None = None
    total_steps: _Count | None = None
    step_seconds: _Seconds | None = None
    metrics: ReportedMetrics = Field(default_factory=dict)
    checkpoint: _Checkpoint | None = None


def parse(content: bytes, now: datetime) -> Progress | None:
    """Return what a sidecar told now; None if it is no such document."""
    try:
        told = _Told.model_validate_json(content)
    except ValidationError:
        return None
    saved = told.checkpoint
    return Progress(
        time=now.replace(microsecond=0),
        attempt=told.attempt,
        generation=told.generation,
        phase=told.phase,
        step=told.step,
        total_steps=told.total_steps,
        eta_seconds=_eta_seconds(told),
        metrics=told.metrics,
        checkpoint_step=saved.step if saved else None,
        checkpoint_time=_seconds_ago(now, saved.age_seconds) if saved else None,
        leave_seconds=_leave_seconds(told),
    )


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
