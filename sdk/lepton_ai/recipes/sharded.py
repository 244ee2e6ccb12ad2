"""Sharded (FSDP2): each rank keeps a part of the weights, gradients and optimizer states.

``torchrun --nproc-per-node=2 -m lepton_ai.recipes.sharded``, or examples/sharded.yaml. For a model
that does not fit one GPU. ``fully_shard`` on each block and then on the whole: a block's weights
are gathered just before it computes, and let go after it. Checkpoints are written shard by shard,
and load into any number of ranks.

On GPUs the gathers run over NCCL, beside the computation of the block before. Give
``MixedPrecisionPolicy(param_dtype=torch.bfloat16)`` as ``mp_policy`` to gather and compute in half
the bytes. With several nodes, a mesh of two dimensions, (nodes, GPUs of a node), shards within a
node and replicates between nodes, where the network is the bottleneck. A model that fits no single
GPU is made on the meta device, sharded, ``to_empty``, and then initialised.
"""

from __future__ import annotations

import torch
from torch import distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.utils.data import DataLoader

import lepton_ai as lai
from lepton_ai.recipes.data_parallel import (
    BATCH_SIZE,
    LOG_EVERY_STEPS,
    batch_loss,
    digits,
    epochs_asked,
    join,
    report,
)

WIDTH = 64
BLOCKS = 2


class Block(nn.Module):  # type: ignore[misc]
    """What is sharded, gathered and let go as one."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.body(x)


def main(epochs: int) -> None:
    device = join()
    torch.manual_seed(0)
    model = sharded(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    samples, held_out = digits()
    sampler = lai.checkpoints.GlobalSampler(len(samples), BATCH_SIZE, epochs=epochs)
    with lai.checkpoints.Checkpointer(
        model=model, optimizer=optimizer, sampler=sampler
    ) as checkpointer:
        step = checkpointer.restore()
        for images, labels in DataLoader(samples, batch_sampler=sampler):
            loss = batch_loss(model(images.to(device)), labels.to(device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            step += 1
            due = step % LOG_EVERY_STEPS == 0
            checkpointer.step(step, metrics={"loss": loss.item()} if due else None)
    report(model, held_out, device)
    dist.destroy_process_group()


def sharded(device: torch.device) -> nn.Module:
    blocks = (Block() for _ in range(BLOCKS))
    model = nn.Sequential(nn.Flatten(), *blocks, nn.Linear(WIDTH, 10)).to(device)
    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    for layer in model:
        if isinstance(layer, Block):
            fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    return model


if __name__ == "__main__":
    main(epochs_asked())
