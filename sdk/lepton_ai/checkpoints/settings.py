"""What the operator says about checkpoints, through the environment; defaults for a laptop."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from lepton_ai.checkpoints.interval import PRIOR, FailureRate
from lepton_ai.checkpoints.manifest import Attempt
from lepton_ai.checkpoints.relay import Relay
from lepton_ai.checkpoints.storage import Storage, open_storage
from lepton_ai.progress import CHECKPOINT_PROBLEM

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
        failures: of the whole gang, as believed before the attempt `failures_until`.
        failures_until: earlier ones are counted already; None where nobody counts attempts.
        keep: complete checkpoints that stay.
        save_request: the file that asks all ranks to save and leave.
        relay: the socket of the sidecar that reaches `uri` for the ranks; None without one.

    """

    uri: str
    run: str
    attempt: Attempt | None
    interval_seconds: float | None
    failures: FailureRate
    failures_until: int | None
    keep: int
    save_request: Path
    relay: Path | None = None

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Self:
        """Read `LEPTON_CHECKPOINT_*` and the rest; without them `./checkpoints`, run `local`."""
        given = environment.get
        attempt = _attempt(given("LEPTON_ATTEMPT"), given("LEPTON_GENERATION"))
        relay = given("LEPTON_CHECKPOINT_SOCKET")
        return cls(
            uri=given("LEPTON_CHECKPOINT_URI") or Path("checkpoints").absolute().as_uri(),
            run=given("LEPTON_RUN_UID") or "local",
            attempt=attempt,
            interval_seconds=_seconds(given("LEPTON_CHECKPOINT_INTERVAL") or AUTO),
            failures=_failures(environment),
            failures_until=_number(given("LEPTON_MTBF_ATTEMPT")) or (attempt and attempt.number),
            keep=int(given("LEPTON_CHECKPOINT_KEEP") or DEFAULT_KEEP),
            save_request=Path(given("LEPTON_EXCHANGE") or "/lepton/exchange") / "save",
            relay=Path(relay) if relay else None,
        )

    @property
    def problem(self) -> Path:
        """Where to say that the last save failed; a launcher's sidecar reads it there."""
        return self.save_request.with_name(CHECKPOINT_PROBLEM)

    def storage(self, uri: str | None = None) -> Storage:
        """Open the place: the one that is given, else the operator's or the laptop's."""
        if self.relay is None or uri:
            return open_storage(uri or self.uri, self.run)
        return Relay(self.relay, f"{self.uri.rstrip('/')}/{self.run}")


def _attempt(number: str | None, generation: str | None) -> Attempt | None:
    return Attempt(int(number), int(generation or 0)) if number else None


def _failures(environment: Mapping[str, str]) -> FailureRate:
    nodes = _number(environment.get("GROUP_WORLD_SIZE")) or 1
    seen = _number(environment.get("LEPTON_MTBF_FAILURES")) or 0
    mtbf = float(environment.get("LEPTON_MTBF_SECONDS") or PRIOR.mtbf_seconds(nodes))
    weight = PRIOR.failures + seen
    return FailureRate(weight, mtbf * weight)


def _number(text: str | None) -> int | None:
    return int(text) if text else None


def _seconds(text: str) -> float | None:
    return None if text == AUTO else float(text)
