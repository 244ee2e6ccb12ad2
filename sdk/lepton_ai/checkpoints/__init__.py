"""Checkpoints: saved in the background, verified before they are loaded, never half there.

`Checkpointer` needs torch, which is imported when it is first asked for; the rest does without.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lepton_ai.checkpoints.interval import (
    PRIOR,
    FailureRate,
    Interval,
    SaveCost,
    best_interval,
)
from lepton_ai.checkpoints.manifest import AttemptClosedError, CheckpointError, Manifest
from lepton_ai.checkpoints.sampler import GlobalSampler

if TYPE_CHECKING:
    from lepton_ai.checkpoints.checkpointer import Checkpointer

__all__ = [
    "PRIOR",
    "AttemptClosedError",
    "CheckpointError",
    "Checkpointer",
    "FailureRate",
    "GlobalSampler",
    "Interval",
    "Manifest",
    "SaveCost",
    "best_interval",
]


def __getattr__(name: str) -> Any:
    if name == "Checkpointer":
        from lepton_ai.checkpoints.checkpointer import Checkpointer  # noqa: PLC0415 - torch

        return Checkpointer
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
