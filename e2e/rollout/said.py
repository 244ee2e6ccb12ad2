"""What an InferenceService's status said, and when."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from e2e.kubectl import Kubectl
from e2e.recovery.watched import lines_of


class Saying(NamedTuple):
    """A status, and when it was seen (Unix time)."""

    at: float
    status: dict[str, Any]

    @property
    def rollout(self) -> dict[str, Any]:
        found: dict[str, Any] = self.status.get("rollout", {})
        return found

    @property
    def gap_seconds(self) -> int | None:
        """Return for how long nothing will answer, if it says so in a sentence too."""
        seconds: int | None = self.rollout.get("gapSeconds")
        sentence = f"nothing answers for up to about {seconds} s"
        return seconds if sentence in self.rollout.get("waitingFor", "") else None


@dataclass(slots=True)
class Sayings:
    """All that a status said since it is watched."""

    every: list[Saying] = field(default_factory=list)

    def gap_said_before(self, moment: float) -> int | None:
        """Return the gap that was announced last before this moment."""
        said = [each.gap_seconds for each in self.every if each.at < moment]
        return next((each for each in reversed(said) if each is not None), None)


@contextmanager
def listening(kubectl: Kubectl, service: str) -> Iterator[Sayings]:
    """Watch a status as long as the block lasts."""
    heard = Sayings()

    def hear(line: str) -> None:
        heard.every.append(Saying(time.time(), json.loads(line or "{}")))

    watch = ("get", "--watch", "-o", 'jsonpath={.status}{"\\n"}')
    with lines_of(kubectl, (*watch, "inferenceservices.lepton.ai", service), hear):
        yield heard
