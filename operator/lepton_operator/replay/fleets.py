"""The replicas of a replay: as they were, or as they would have been under the law."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from lepton_operator.replay.recording import Look
from lepton_operator.scaling.replicas import Replicas


class Fleet(Protocol):
    """`go_on` is told of each look, in order; then the others of that time."""

    def go_on(self, look: Look) -> None:
        """Let the time go on to a look."""

    def replicas(self) -> Replicas:
        """Return how they are; start-ups that are told stay told until `learned`."""

    def learned(self) -> None:
        """Forget the start-ups that were told."""

    @property
    def wanted(self) -> int:
        """What spec.replicas is."""

    def scale(self, replicas: int) -> None:
        """Act on a decision."""


@dataclass(slots=True)
class AsItWas:
    """What was recorded; decisions change nothing of it.

    A recording has only numbers: those that start are told apart by the order in which they began.
    """

    now: float = 0.0
    look: Look | None = None
    created: list[float] = field(default_factory=list)
    startups: list[float] = field(default_factory=list)

    def go_on(self, look: Look) -> None:
        """Take in what was recorded."""
        before, self.look, self.now = self.look, look, look.time
        became_ready = look.ready - before.ready if before else 0
        while len(self.created) > look.starting:
            created = self.created.pop(0)
            if became_ready > 0:
                self.startups.append(look.time - created)
                became_ready -= 1
        self.created += [look.time] * (look.starting - len(self.created))

    def replicas(self) -> Replicas:
        """Return how they were."""
        ages = tuple(self.now - each for each in self.created)
        ready = self.look.ready if self.look else 0
        return Replicas(ready, ages, tuple(self.startups), frozenset())

    def learned(self) -> None:
        """Forget the start-ups that were told."""
        self.startups.clear()

    @property
    def wanted(self) -> int:
        """What spec.replicas was."""
        return self.look.wanted if self.look else 0

    def scale(self, replicas: int) -> None:
        """Do nothing: what was, was."""


@dataclass(slots=True)
class UnderTheLaw:
    """Begins as recorded; then each replica that the law adds is ready after `startup_seconds`."""

    startup_seconds: float
    now: float = 0.0
    ready: int = 0
    created: list[float] = field(default_factory=list)
    startups: list[float] = field(default_factory=list)
    has_begun: bool = False

    def go_on(self, look: Look) -> None:
        """Let those become ready whose time has come."""
        if not self.has_begun:
            self.ready, self.created = look.ready, [look.time] * look.starting
            self.has_begun = True
        self.now = look.time
        while self.created and self.now - self.created[0] >= self.startup_seconds:
            self.created.pop(0)
            self.ready += 1
            self.startups.append(self.startup_seconds)

    def replicas(self) -> Replicas:
        """Return how they would have been."""
        ages = tuple(self.now - each for each in self.created)
        return Replicas(self.ready, ages, tuple(self.startups), frozenset())

    def learned(self) -> None:
        """Forget the start-ups that were told."""
        self.startups.clear()

    @property
    def wanted(self) -> int:
        """What the law wanted last."""
        return self.ready + len(self.created)

    def scale(self, replicas: int) -> None:
        """Add replicas, or remove some: first those that are not ready, the youngest first."""
        self.created += [self.now] * (replicas - self.wanted)
        while self.created and self.wanted > replicas:
            self.created.pop()
        self.ready -= max(0, self.wanted - replicas)
