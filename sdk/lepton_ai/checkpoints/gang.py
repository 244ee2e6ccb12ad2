"""How the ranks agree, beside the training's own process group.

Two gloo groups: one for what the main thread asks, one for the save that runs in a thread beside
it. On the training's own group such a save aborts or hangs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar, cast

import torch
from torch import distributed as dist

T = TypeVar("T")


class Wishes(NamedTuple):
    """What a rank wants of the next step's end. Among ranks, the greatest of each counts."""

    save: int = 0
    """1: a save is due."""
    leave_at: int = 0
    """The step at whose end to save and leave; 0: none."""
    busy: int = 0
    """1: the last save still runs here."""
    closed: int = 0
    """1: a later attempt has begun."""


class Gang:
    """All ranks of a training, or one process alone. Made by all ranks together."""

    def __init__(self) -> None:
        self.is_distributed = dist.is_available() and dist.is_initialized()
        self.rank = dist.get_rank() if self.is_distributed else 0
        self.world_size = dist.get_world_size() if self.is_distributed else 1
        self.asking = dist.new_group(backend="gloo") if self.is_distributed else None
        self.saving = dist.new_group(backend="gloo") if self.is_distributed else None
        self._wishes = torch.tensor(Wishes(), dtype=torch.int64)
        self._agreeing: Any = None

    @property
    def leads(self) -> bool:
        return self.rank == 0

    @property
    def is_agreeing(self) -> bool:
        """Whether an exchange is under way, which closing would wait for: for ever, maybe."""
        return self._agreeing is not None

    def agreed(self) -> Wishes:
        """Return what the ranks proposed at their last step; nothing before the first."""
        if self._agreeing is not None:
            self._agreeing.wait()
            self._agreeing = None
        return Wishes(*(int(each) for each in self._wishes))

    def propose(self, wishes: Wishes) -> None:
        """Tell the others. The exchange runs beside the step that follows: nobody waits for it."""
        self._wishes = torch.tensor(wishes, dtype=torch.int64)
        if self.is_distributed:
            self._agreeing = dist.all_reduce(
                self._wishes, dist.ReduceOp.MAX, group=self.asking, async_op=True
            )

    def from_leader(self, ask: Callable[[], T]) -> T:
        """Return what rank 0 finds, in every rank; raise there what rank 0 raised."""
        answer: list[T | Exception | None] = [None]
        if self.leads:
            try:
                answer = [ask()]
            except Exception as error:  # noqa: BLE001 - raised again, in every rank
                answer = [error]
        if self.is_distributed:
            dist.broadcast_object_list(answer, src=0, group=self.asking)
        if isinstance(answer[0], Exception):
            raise answer[0]
        return cast("T", answer[0])

    def all_problems(self, check: Callable[[], object]) -> list[Exception]:
        """Return what the check raised in any rank: the same list in all."""
        mine: Exception | None = None
        try:
            check()
        except Exception as error:  # noqa: BLE001 - handed to all ranks
            mine = error
        found: list[Exception | None] = [mine]
        if self.is_distributed:
            found = [None] * self.world_size
            dist.all_gather_object(found, mine, group=self.asking)
        return [each for each in found if each is not None]

    def close(self) -> None:
        """Leave both groups. Their threads must not outlive the interpreter's shutdown."""
        if self.is_distributed and dist.is_initialized():
            for group in (self.asking, self.saving):
                dist.destroy_process_group(group)
