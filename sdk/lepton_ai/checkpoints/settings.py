"""What the operator says about checkpoints, through the environment; defaults for a laptop."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from lepton_ai.checkpoints.interval import PRIOR
from lepton_ai.checkpoints.manifest import Attempt

DEFAULT_KEEP = 3
AUTO = "auto"


@dataclass(frozen=True)
class Settings:
    """Where to save, how often, and as whom.

    Attributes:
        uri: `file:///folder`, `s3://bucket/prefix`, `gs://` or `az://`; runs lie below it.
        run: whose checkpoints these are.
        attempt: None where nobody counts attempts: the next one that is free.
        interval_seconds: None for the one that wastes least.
        mtbf_seconds: mean time between failures of the whole gang.
        keep: complete checkpoints that stay.
        save_request: the file that asks all ranks to save and leave.

    """

    uri: str
    run: str
    attempt: Attempt | None
    interval_seconds: float | None
    mtbf_seconds: float
    keep: int
    save_request: Path

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Self:
        """Read `LEPTON_CHECKPOINT_*` and the rest; without them `./checkpoints`, run `local`."""
        given = environment.get
        nodes = int(given("GROUP_WORLD_SIZE", "1"))
        return cls(
            uri=given("LEPTON_CHECKPOINT_URI") or Path("checkpoints").absolute().as_uri(),
            run=given("LEPTON_RUN_UID") or "local",
            attempt=_attempt(given("LEPTON_ATTEMPT"), given("LEPTON_GENERATION")),
            interval_seconds=_seconds(given("LEPTON_CHECKPOINT_INTERVAL") or AUTO),
            mtbf_seconds=float(given("LEPTON_MTBF_SECONDS") or PRIOR.mtbf_seconds(nodes)),
            keep=int(given("LEPTON_CHECKPOINT_KEEP") or DEFAULT_KEEP),
            save_request=Path(given("LEPTON_EXCHANGE") or "/lepton/exchange") / "save",
        )


def _attempt(number: str | None, generation: str | None) -> Attempt | None:
    return Attempt(int(number), int(generation or 0)) if number else None


def _seconds(text: str) -> float | None:
    return None if text == AUTO else float(text)
