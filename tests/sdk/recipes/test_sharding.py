from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lepton_ai.recipes.sharding import global_batches, shard, stratified_split

LABELS = st.lists(st.integers(0, 9), min_size=2, max_size=300).map(np.array)


@given(labels=LABELS, data=st.data())
def test_every_sample_is_in_exactly_one_part(labels: np.ndarray, data: st.DataObject) -> None:
    held_out = data.draw(st.integers(1, len(labels) - 1))

    training_rows, held_out_rows = stratified_split(labels, held_out, seed=1)

    assert len(held_out_rows) == held_out
    everyone = np.concatenate([training_rows, held_out_rows])
    assert sorted(everyone) == list(range(len(labels)))


@given(labels=LABELS, data=st.data())
def test_each_class_is_held_out_in_its_proportion(labels: np.ndarray, data: st.DataObject) -> None:
    held_out = data.draw(st.integers(1, len(labels) - 1))

    _, held_out_rows = stratified_split(labels, held_out, seed=1)

    for label in np.unique(labels):
        exact = np.count_nonzero(labels == label) * held_out / len(labels)
        assert abs(np.count_nonzero(labels[held_out_rows] == label) - exact) < 1


def test_the_split_is_the_one_that_models_were_compared_on_before() -> None:
    labels = np.arange(20) % 4

    training_rows, held_out_rows = stratified_split(labels, 6, seed=2_000)

    assert held_out_rows.tolist() == [1, 3, 12, 10, 4, 5]
    assert len(training_rows) == 14


def test_both_parts_are_shuffled() -> None:
    training_rows, held_out_rows = stratified_split(np.arange(1_000) // 100, 200, seed=3)

    assert training_rows.tolist() != sorted(training_rows)
    assert held_out_rows.tolist() != sorted(held_out_rows)


@pytest.mark.parametrize("held_out", [0, -1, 10, 11])
def test_a_split_that_empties_a_part_is_refused(held_out: int) -> None:
    with pytest.raises(ValueError, match="Choose a number between 1 and 9"):
        stratified_split(np.zeros(10, dtype=np.int64), held_out, seed=0)


@given(
    samples=st.integers(1, 500),
    batch_size=st.integers(1, 64),
    world_size=st.integers(1, 7),
    seed=st.integers(0, 2**32 - 1),
)
def test_ranks_together_train_on_each_global_batch_once(
    samples: int, batch_size: int, world_size: int, seed: int
) -> None:
    batches = list(global_batches(samples, batch_size, seed, epoch=0))

    assert len(batches) == samples // batch_size
    for batch in batches:
        shares = [shard(batch, rank, world_size) for rank in range(world_size)]
        assert sorted(np.concatenate(shares)) == sorted(batch)
        assert max(map(len, shares)) - min(map(len, shares)) <= 1
    seen = np.concatenate([*batches, []])
    assert len(set(seen)) == len(seen)


def test_epochs_and_seeds_give_other_orders_and_a_repetition_the_same() -> None:
    def order(seed: int, epoch: int) -> list[int]:
        return [int(row) for batch in global_batches(100, 10, seed, epoch) for row in batch]

    assert order(1, 0) == order(1, 0)
    assert order(1, 0) != order(1, 1)
    assert order(1, 0) != order(2, 0)
