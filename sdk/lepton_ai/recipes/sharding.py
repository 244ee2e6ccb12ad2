"""Who trains on which sample: splits and batches that depend on seeds alone, never on a rank."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int64]


class Sliceable(Protocol):
    """An array of numpy, or a tensor of torch."""

    def __getitem__(self, key: slice, /) -> Self: ...


Samples = TypeVar("Samples", bound=Sliceable)


def _permutation(samples: int, *seed: int) -> Indices:
    # RandomState's streams are frozen for good (NEP 19), those of numpy's new generators are not: a
    # held-out set that a new numpy reshuffles would leak into training.
    return np.random.RandomState(seed).permutation(samples).astype(np.int64)


def stratified_split(
    labels: NDArray[np.int64], held_out: int, seed: int
) -> tuple[Indices, Indices]:
    """Split samples into (training, held-out) indices, each class in its own proportion.

    Both parts are shuffled. Shares are rounded by the largest remainder, so that exactly
    ``held_out`` samples are held out.

    Raises:
        ValueError: nothing would be left to train on, or to be held out.

    """
    if not 0 < held_out < len(labels):
        raise ValueError(
            f"Cannot hold out {held_out} of {len(labels)} samples: both parts need at least one. "
            f"Choose a number between 1 and {len(labels) - 1}."
        )
    order = _permutation(len(labels), seed)
    classes, sizes = np.unique(labels, return_counts=True)
    quotas = dict(zip(classes, _largest_remainder(sizes, held_out), strict=True))
    rank_in_class = _rank_in_class(labels[order])
    is_held_out = rank_in_class < np.array([quotas[label] for label in labels[order]])
    return order[~is_held_out], order[is_held_out]


def _largest_remainder(sizes: NDArray[np.int64], total: int) -> Indices:
    exact = sizes * total / sizes.sum()
    shares: Indices = np.floor(exact).astype(np.int64)
    by_remainder = np.argsort(shares - exact, kind="stable")
    shares[by_remainder[: total - int(shares.sum())]] += 1
    return shares


def _rank_in_class(labels: NDArray[np.int64]) -> Indices:
    ranks = np.empty(len(labels), dtype=np.int64)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        ranks[members] = np.arange(len(members))
    return ranks


def global_batches(samples: int, batch_size: int, seed: int, epoch: int) -> Iterator[Indices]:
    """Yield one epoch's batches, each of all ranks together; an incomplete last one is left out.

    The permutation depends on seed and epoch only, so any number of ranks sees the same batches,
    and what one epoch leaves out another one trains on.
    """
    order = _permutation(samples, seed, epoch)
    for start in range(0, samples - batch_size + 1, batch_size):
        yield order[start : start + batch_size]


def shard(samples: Samples, rank: int, world_size: int) -> Samples:
    """Return one rank's share: every sample is in exactly one, and sizes differ by at most one."""
    return samples[rank::world_size]
