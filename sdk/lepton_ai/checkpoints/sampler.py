"""Which samples are trained on next: a matter of seed and samples seen, never of ranks or restarts.

Needs numpy only. With torch: `DataLoader(dataset, batch_sampler=sampler)`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lepton_ai.checkpoints.manifest import CheckpointError, DataPosition

Indices = NDArray[np.int64]


class GlobalSampler:
    """A rank's part of each global batch, from the samples that are next.

    The epochs' permutations, one behind the other, are one endless order; a global batch is the
    next `batch_size` of it, whoever trains on them. So a batch may end one epoch and begin the
    next, every sample is seen once an epoch, and neither a restart nor another number of ranks
    changes which samples a step sees. What is left of the last epoch and fills no batch is unused.

    Args:
        samples: how many there are.
        batch_size: samples in a batch, of all ranks together.
        epochs: passes over all samples.
        seed: chooses the permutations.
        rank: this process's place among `world_size`; by default as torchrun says.
        world_size: processes that share a batch; by default as torchrun says.
        shuffle: False keeps the samples' own order in each epoch.

    Raises:
        ValueError: there are more ranks than samples in a batch, or nothing to train on.

    """

    def __init__(
        self,
        samples: int,
        batch_size: int,
        *,
        epochs: int = 1,
        seed: int = 0,
        rank: int | None = None,
        world_size: int | None = None,
        shuffle: bool = True,
    ) -> None:
        if rank is None:
            rank = int(os.environ.get("RANK", "0"))
        if world_size is None:
            world_size = int(os.environ.get("WORLD_SIZE", "1"))
        if samples < 1 or epochs < 1:
            raise ValueError(f"There is nothing to train on: {samples} samples, {epochs} epochs.")
        if not 0 <= rank < world_size <= batch_size:
            raise ValueError(
                f"Rank {rank} of {world_size} cannot share batches of {batch_size} samples: each "
                "rank needs at least one. Give a larger batch_size, or start fewer ranks."
            )
        self.samples = samples
        self.batch_size = batch_size
        self.epochs = epochs
        self._seed = seed
        self._rank = rank
        self._world_size = world_size
        self._shuffle = shuffle
        self._seen = 0
        self._permutations: dict[int, Indices] = {}
        self.before_first_batch: Callable[[], None] | None = None
        """Called once, when the next iteration draws its first batch."""

    @property
    def position(self) -> DataPosition:
        """Samples trained on so far, and the epoch of the next one."""
        return DataPosition(samples=self._seen, epoch=self._seen // self.samples)

    def advance(self, batches: int = 1) -> None:
        """Count batches as trained on. What a DataLoader has fetched beforehand is not."""
        self._seen += batches * self.batch_size

    def __len__(self) -> int:
        """Count the batches that are left."""
        return max(0, self.epochs * self.samples - self._seen) // self.batch_size

    def __iter__(self) -> Iterator[list[int]]:
        """Yield the indices of this rank's part of each batch that is left."""
        if self.before_first_batch is not None:
            self.before_first_batch()
            self.before_first_batch = None
        seen = self._seen
        for start in range(seen, seen + len(self) * self.batch_size, self.batch_size):
            yield self._batch(start)[self._rank :: self._world_size].tolist()

    def _batch(self, start: int) -> Indices:
        """Return the samples from one place of the endless order on."""
        parts = []
        end = start + self.batch_size
        while start < end:
            epoch, offset = divmod(start, self.samples)
            parts.append(self._permutation(epoch)[offset : offset + end - start])
            start += len(parts[-1])
        return np.concatenate(parts)

    def _permutation(self, epoch: int) -> Indices:
        if epoch not in self._permutations:
            self._permutations = {
                known: order for known, order in self._permutations.items() if known == epoch - 1
            }
            self._permutations[epoch] = self._new_permutation(epoch)
        return self._permutations[epoch]

    def _new_permutation(self, epoch: int) -> Indices:
        if not self._shuffle:
            return np.arange(self.samples, dtype=np.int64)
        # RandomState's streams are frozen for good (NEP 19): a run that goes on under a newer numpy
        # must not see another order.
        return np.random.RandomState((self._seed, epoch)).permutation(self.samples).astype(np.int64)

    def state_dict(self) -> dict[str, Any]:
        return {
            "seen": self._seen,
            "samples": self.samples,
            "seed": self._seed,
            "shuffle": self._shuffle,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where a sampler of the same data stopped; batch size and ranks may differ.

        Raises:
            CheckpointError: it ordered other data, or ordered them differently.

        """
        ours = self.state_dict()
        for name in ("samples", "seed", "shuffle"):
            if state[name] != ours[name]:
                raise CheckpointError(
                    f"The checkpoint's sampler has {name}={state[name]}, this one "
                    f"{name}={ours[name]}: samples would be seen twice, or never. Train on the "
                    "same data in the same order, or begin a new run."
                )
        self._seen = int(state["seen"])
