"""Gradient accumulation: several small batches make one step, as one large batch would.

``torchrun --nproc-per-node=2 -m lepton_ai.recipes.gradient_accumulation``, or
examples/gradient-accumulation.yaml. For a batch whose activations do not fit the memory. Gradients
are added up, and the ranks average them once a step, in the backward of its last small batch.

On GPUs this is also what keeps NCCL quiet: without ``no_sync`` each small batch would move all
gradients between the nodes. A model under ``fully_shard`` has no ``no_sync``: call
``model.set_requires_gradient_sync(last)`` there before each backward.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from itertools import islice

import torch
from torch import distributed as dist
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

import lepton_ai as lai
from lepton_ai.recipes.data_parallel import (
    BATCH_SIZE,
    batch_loss,
    digits,
    epochs_asked,
    join,
    network,
    report,
)

BATCHES_PER_STEP = 4
Batch = list[torch.Tensor]


def main(epochs: int) -> None:
    device = join()
    torch.manual_seed(0)
    model = DistributedDataParallel(network().to(device), process_group=dist.new_group())
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3)
    samples, held_out = digits()
    sampler = lai.checkpoints.GlobalSampler(len(samples), BATCH_SIZE, epochs=epochs)
    with lai.checkpoints.Checkpointer(
        model=model, optimizer=optimizer, sampler=sampler
    ) as checkpointer:
        step = checkpointer.restore()
        for batches in in_steps(DataLoader(samples, batch_sampler=sampler)):
            optimizer.zero_grad()
            loss = accumulate(model, batches, device)
            optimizer.step()
            step += 1
            checkpointer.step(step, batches=BATCHES_PER_STEP, metrics={"loss": loss.item()})
    report(model, held_out, device)
    dist.destroy_process_group()


def in_steps(batches: Iterable[Batch]) -> Iterator[list[Batch]]:
    """Yield the batches of each step; what fills none at the very end is left out."""
    left = iter(batches)
    while len(step := list(islice(left, BATCHES_PER_STEP))) == BATCHES_PER_STEP:
        yield step


def accumulate(
    model: DistributedDataParallel, batches: list[Batch], device: torch.device
) -> torch.Tensor:
    """Add up the gradients of a step's batches; return the loss over all of them."""
    total = torch.zeros((), device=device)
    for number, (images, labels) in enumerate(batches, start=1):
        with nullcontext() if number == len(batches) else model.no_sync():
            loss = batch_loss(model(images.to(device)), labels.to(device)) / len(batches)
            loss.backward()
        total += loss.detach()
    return total


if __name__ == "__main__":
    main(epochs_asked())
