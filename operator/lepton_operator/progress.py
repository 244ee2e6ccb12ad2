"""How far a training is, as rank 0's sidecar tells it over HTTP (docs/architecture.md).

Ranks write what the sidecar reads, so all of it is a user's: what is out of bounds is absent.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Annotated

from pydantic import Field, StrictInt, ValidationError

from lepton_operator.api.common import StatusModel
from lepton_operator.api.training import (
    MAX_ATTEMPTS,
    MAX_NODES,
    MAX_STEP,
    Phase,
    Progress,
    SlowRank,
    Spent,
)
from lepton_operator.records import MAX_SECONDS, ReportedMetrics, ReportedSeconds, decimal

MAX_BYTES = 262_144

_Count = Annotated[StrictInt, Field(ge=0, le=MAX_STEP)]
_Seconds = Annotated[float, Field(ge=0, le=MAX_SECONDS, allow_inf_nan=False)]


class _Checkpoint(StatusModel):
    step: _Count
    age_seconds: _Seconds


class _Slow(StatusModel):
    rank: Annotated[StrictInt, Field(ge=0, le=2**31 - 1)]
    node: Annotated[StrictInt, Field(ge=0, le=MAX_NODES - 1)]
    factor: Annotated[float, Field(ge=1, le=1e6, allow_inf_nan=False)]


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
    slow: _Slow | None = None
    ledger: ReportedSeconds = Field(default_factory=dict)


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
        slow=_slow(told.slow) if told.slow else None,
        ledger=_spent(told.ledger),
    )


def _slow(told: _Slow) -> SlowRank:
    factor = decimal(round(told.factor, 2)) or "1"
    return SlowRank(rank=told.rank, pod=told.node, factor=factor)


def _spent(ledger: Mapping[str, float]) -> Spent | None:
    texts = {name: decimal(ledger[name]) for name in Spent.model_fields if name in ledger}
    return Spent.model_validate(texts) if texts else None


def _eta_seconds(told: _Told) -> int | None:
    if told.step is None or told.total_steps is None or told.step_seconds is None:
        return None
    seconds = max(0, told.total_steps - told.step) * told.step_seconds
    return round(seconds) if seconds <= MAX_SECONDS else None


def _seconds_ago(now: datetime, seconds: float) -> datetime:
    return (now - timedelta(seconds=seconds)).replace(microsecond=0)
