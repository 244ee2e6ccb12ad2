"""Every sample is seen exactly as often as without interruptions, in the same steps."""

from __future__ import annotations

from collections import Counter
from itertools import islice
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lepton_ai.checkpoints import CheckpointError, GlobalSampler

Steps = list[list[int]]


@st.composite
def trainings(draw: st.DrawFn) -> dict[str, Any]:
    return {
        "samples": draw(st.integers(1, 60)),
        "batch_size": draw(st.integers(4, 20)),
        "epochs": draw(st.integers(1, 5)),
        "seed": draw(st.integers(0, 1000)),
    }


def global_steps(
    training: dict[str, Any], world_size: int, state: dict[str, Any] | None, stop_after: int
) -> tuple[Steps, dict[str, Any]]:
    """What all ranks together see in each step, and the state after so many steps.

    As a DataLoader does, each rank's sampler is asked for more batches than are trained on.
    """
    ranks = [GlobalSampler(**training, rank=i, world_size=world_size) for i in range(world_size)]
    for rank in ranks if state else ():
        rank.load_state_dict(state or {})
    fetched = [list(islice(rank, stop_after + 2)) for rank in ranks]
    steps = [sorted(row for part in parts for row in part) for parts in zip(*fetched, strict=True)]
    for rank in ranks:
        rank.advance(len(steps[:stop_after]))
    return steps[:stop_after], ranks[0].state_dict()


@given(
    training=trainings(),
    lives=st.lists(
        st.tuples(st.integers(1, 4), st.integers(0, 10), st.integers(0, 10)), max_size=6
    ),
)
def test_interruptions_and_other_numbers_of_ranks_change_no_step(
    training: dict[str, Any], lives: list[tuple[int, int, int]]
) -> None:
    whole, _ = global_steps(training, 1, None, 1000)
    seen: Steps = []
    state = None
    for world_size, saved_after, lost in lives:
        steps, state_then = global_steps(training, world_size, state, saved_after)
        again, _ = global_steps(training, world_size, state, saved_after + lost)
        assert again[: len(steps)] == steps
        seen += steps
        state = state_then
    rest, _ = global_steps(training, 2, state, 1000)

    assert seen + rest == whole


@given(training=trainings())
def test_an_epoch_is_a_permutation_wherever_batches_end(training: dict[str, Any]) -> None:
    whole, _ = global_steps(training, 3, None, 1000)
    rows = Counter(row for step in whole for row in step)
    used = len(whole) * training["batch_size"]

    assert training["samples"] * training["epochs"] - used < training["batch_size"]
    assert set(rows.values()) <= {used // training["samples"], -(-used // training["samples"])}


def test_every_rank_has_its_part_and_epochs_differ() -> None:
    sampler = GlobalSampler(8, 8, epochs=2, rank=1, world_size=3)
    first, second = sampler

    assert len(first) == 3
    assert first != second
    assert len(sampler) == 2


def test_the_order_is_the_one_that_runs_of_earlier_versions_saw() -> None:
    assert list(GlobalSampler(6, 4, epochs=2, seed=1)) == [[1, 4, 0, 3], [2, 5, 3, 2], [0, 1, 4, 5]]


def test_its_own_order_can_be_kept() -> None:
    assert list(GlobalSampler(3, 2, epochs=2, shuffle=False)) == [[0, 1], [2, 0], [1, 2]]


def test_the_position_counts_what_was_trained_on_and_not_what_was_fetched() -> None:
    sampler = GlobalSampler(10, 4, epochs=3)
    list(islice(sampler, 5))
    sampler.advance(3)

    assert sampler.position.to_dict() == {"samples": 12, "epoch": 1}
    assert len(sampler) == 4


def test_gradient_accumulation_and_another_batch_size_go_on_at_the_same_sample() -> None:
    sampler = GlobalSampler(10, 4, epochs=3, shuffle=False)
    sampler.advance(batches=2)
    larger = GlobalSampler(10, 5, epochs=3, shuffle=False)
    larger.load_state_dict(sampler.state_dict())

    assert next(iter(larger)) == [8, 9, 0, 1, 2]


@pytest.mark.parametrize(
    ("other", "sentence"),
    [
        ({"samples": 11}, "samples=10, this one samples=11"),
        ({"seed": 1}, "seed=0, this one seed=1"),
        ({"shuffle": False}, "shuffle=True, this one shuffle=False"),
    ],
)
def test_other_data_or_another_order_is_refused(other: dict[str, Any], sentence: str) -> None:
    known: dict[str, Any] = {"samples": 10, **other}

    with pytest.raises(CheckpointError, match=sentence):
        GlobalSampler(**known, batch_size=2).load_state_dict(GlobalSampler(10, 2).state_dict())


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"samples": 0, "batch_size": 1}, "nothing to train on"),
        ({"samples": 10, "batch_size": 2, "rank": 0, "world_size": 3}, "Give a larger batch_size"),
    ],
)
def test_what_cannot_be_shared_is_refused(arguments: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        GlobalSampler(**arguments)
