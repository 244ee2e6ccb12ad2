"""Where events arrive: they update the cache and put keys on the queue, and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from lepton_operator.bodies import Body
from lepton_operator.cache import Cache, Change, Key, OwnObject
from lepton_operator.queue import WorkQueue

DELETED = "DELETED"


def _nobody(_: Change) -> None:
    return None


@dataclass(frozen=True, slots=True)
class Inbox:
    """`follow` is told of every change, after the cache has it."""

    cache: Cache
    queue: WorkQueue[Key]
    follow: Callable[[Change], None] = _nobody

    def __copy__(self) -> Inbox:
        """Return this very inbox: Kopf copies its memo for each object."""
        return self

    def receive(self, kind: str, event_type: str | None, body: Body) -> None:
        """Take in what a watch says about an object."""
        if event_type == DELETED:
            change = self.cache.remove(kind, body)
        else:
            change = self.cache.put(kind, body)
        if change is not None:
            self.wake([change])

    def wake(self, changes: Iterable[Change], besides: Key | None = None) -> None:
        """Have every object looked at whose plan reads what changed.

        A standby only follows: nobody would take what it put on the queue.
        """
        for change in changes:
            self._note(change)
            self.follow(change)
            for key in self.cache.affected(change):
                if key != besides and self.queue.is_open:
                    self.queue.add(key)

    def _note(self, change: Change) -> None:
        """Forget what the queue knows of an object that is gone, or is asked for anew."""
        before, after = change.before, change.after
        if isinstance(before, OwnObject) and after is None:
            if self.cache.own(before.key) is None:
                self.queue.drop(before.key)
        elif isinstance(after, OwnObject) and _asked_anew(before, after):
            self.queue.forgive(after.key)


def _asked_anew(before: object, after: OwnObject) -> bool:
    return not isinstance(before, OwnObject) or before.generation != after.generation
