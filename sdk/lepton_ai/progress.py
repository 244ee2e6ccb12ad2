"""How far a training pod is, as its launcher writes it into the shared folder.

The user's container can write there too, so everything in it is bounded, and what does not fit the
form is not progress.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, StringConstraints, ValidationError

from lepton_ai.record import Document, Metrics

FILE = "progress.json"
CHECKPOINT_PROBLEM = "checkpoint-problem"
"""The file beside it in which the SDK says why the last save failed."""
MAX_BYTES = 262_144
MAX_RANKS = 256
MAX_RESTARTS = 64
MAX_EARLIER = 16

Phase = Literal[
    "starting", "rendezvous", "restoring", "training", "evaluating", "checkpointing", "done"
]
Count = Annotated[int, Field(ge=0, lt=2**63)]
Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Name = Annotated[str, StringConstraints(max_length=64)]
Text = Annotated[str, StringConstraints(max_length=1024)]


class CheckpointProgress(Document):
    """The last checkpoint that is complete; of a file of the script's own only its age is known."""

    step: Count | None = None
    age_seconds: Seconds
    seconds: Seconds | None = None


class RankProgress(Document):
    """One rank; `own_seconds` is its usual step less its waits in collectives."""

    rank: Count
    step: Count | None = None
    silent_seconds: Seconds | None = None
    own_seconds: Seconds | None = None


class SlowRank(Document):
    """The rank that holds up the gang, and how many times as long as the others it takes."""

    rank: Count
    node: Count
    factor: Annotated[float, Field(ge=1, allow_inf_nan=False)]


class Restart(Document):
    """Ranks that were started again in this pod, and why."""

    generation: Count
    rank: Count | None = None
    reason: Name
    exit_code: int | None = None
    signal: int | None = None
    step: Count | None = None
    message: Text | None = None


class Loss(Document):
    """A node that the gang lost; the ranks have ended, and the launcher waits for the operator."""

    node: Count
    message: Text
    seconds: Seconds


class EarlierAttempt(Document):
    """What the time of the attempt before went into, in a pod that was kept."""

    attempt: Count
    ledger: Annotated[dict[Name, Seconds], Field(max_length=16)] = Field(default_factory=dict)


class Progress(Document):
    """How far the ranks of this pod are. An absent field means unknown."""

    attempt: Count
    generation: Count
    phase: Phase
    step: Count | None = None
    total_steps: Count | None = None
    step_seconds: Seconds | None = None
    metrics: Annotated[Metrics, Field(max_length=16)] = Field(default_factory=dict)
    learning_rate: Annotated[float, Field(allow_inf_nan=False)] | None = None
    samples: Count | None = None
    checkpoint: CheckpointProgress | None = None
    ranks: Annotated[tuple[RankProgress, ...], Field(max_length=MAX_RANKS)] = ()
    resumed_from: Count | None = None
    furthest: Count | None = None
    saved: bool = False
    slow: SlowRank | None = None
    restarts: Annotated[tuple[Restart, ...], Field(max_length=MAX_RESTARTS)] = ()
    counted_restarts: Count = 0
    ledger: Annotated[dict[Name, Seconds], Field(max_length=16)] = Field(default_factory=dict)
    earlier: Annotated[tuple[EarlierAttempt, ...], Field(max_length=MAX_EARLIER)] = ()
    lost: Loss | None = None
    checkpoint_problem: Text | None = None
    """Why the last step is not as safe as it should be: the sidecar's word."""

    @property
    def eta_seconds(self) -> float | None:
        """The time that the remaining steps take; None where one of the three is not known."""
        if self.step is None or self.total_steps is None or self.step_seconds is None:
            return None
        return max(0, self.total_steps - self.step) * self.step_seconds

    def aged(self, seconds: float) -> Self:
        """Return it as it is so many seconds after it was written."""
        checkpoint = self.checkpoint and self.checkpoint.model_copy(
            update={"age_seconds": self.checkpoint.age_seconds + seconds}
        )
        ranks = tuple(_aged(rank, seconds) for rank in self.ranks)
        lost = self.lost and self.lost.model_copy(update={"seconds": self.lost.seconds + seconds})
        return self.model_copy(update={"checkpoint": checkpoint, "ranks": ranks, "lost": lost})


def read_progress(folder: Path) -> Progress | None:
    """Return the launcher's last word, aged to now; None if there is nothing readable yet."""
    path = folder / FILE
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES)
        written = path.stat().st_mtime
        found = Progress.model_validate_json(content)
    except (OSError, ValidationError):
        return None
    return found.aged(max(0.0, time.time() - written))


def _aged(rank: RankProgress, seconds: float) -> RankProgress:
    if rank.silent_seconds is None:
        return rank
    return rank.model_copy(update={"silent_seconds": rank.silent_seconds + seconds})
