"""What the lock files of the images must have in common."""

from __future__ import annotations

import re

import pytest

from images.catalog import ROOT


def pinned(path: str) -> set[str]:
    """`name==version ; marker` of every requirement."""
    lines = (ROOT / path).read_text().splitlines()
    return {line.removesuffix("\\").strip() for line in lines if re.match(r"[a-z]", line)}


def test_the_trainer_changes_nothing_of_the_torch_image() -> None:
    """A differing version would put a second PyTorch of 4 GB on top of the first."""
    assert pinned("locks/torch.txt") <= pinned("locks/sdk.txt")


@pytest.mark.parametrize(
    "path", ["locks/agent.txt", "locks/operator.txt", "images/triton/requirements.txt"]
)
def test_images_without_training_have_no_torch(path: str) -> None:
    assert not [line for line in pinned(path) if re.match(r"(torch|nvidia-(?!pytriton))", line)]


@pytest.mark.parametrize("path", ["locks/torch.txt", "locks/sdk.txt"])
def test_the_compiler_that_cpu_runs_do_not_need_is_left_out(path: str) -> None:
    assert not [line for line in pinned(path) if line.startswith("triton==")]
