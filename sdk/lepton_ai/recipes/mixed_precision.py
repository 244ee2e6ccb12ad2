"""Mixed precision (torch.amp): matrix products in 16 bits, weights and sums in 32.

``torchrun --nproc-per-node=2 -m lepton_ai.recipes.mixed_precision``, or
examples/mixed-precision.yaml. Half the memory for activations, and on GPUs with tensor cores
several times the speed. ``autocast`` chooses for each operation; the loss is computed in float32.

On GPUs since Ampere (A100, L4, H100), as on CPUs, the 16 bits are bfloat16, which has float32's
range. Older ones (V100, T4) have float16 only, in which small gradients vanish: the scaler
multiplies the loss so that they do not, skips steps that overflow, and its state is saved with the
rest. Gradients cross NCCL in float32; to halve that too, register
``torch.distributed.algorithms.ddp_comm_hooks.default_hooks.bf16_compress_hook`` on the model.
"""

from __future__ import annotations

import torch
from torch import distributed as dist
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

import lepton_ai as lai
from lepton_ai.recipes.data_parallel import (
    BATCH_SIZE,
    LOG_EVERY_STEPS,
    batch_loss,
    digits,
    epochs_asked,
    join,
    network,
    report,
)


def main(epochs: int) -> None:
    device = join()
    has_bfloat16 = device.type == "cpu" or torch.cuda.is_bf16_supported(including_emulation=False)
    dtype = torch.bfloat16 if has_bfloat16 else torch.float16
    torch.manual_seed(0)
    model = DistributedDataParallel(network().to(device), process_group=dist.new_group())
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    scaler = torch.amp.GradScaler(device.type, enabled=dtype == torch.float16)
    samples, held_out = digits()
    sampler = lai.checkpoints.GlobalSampler(len(samples), BATCH_SIZE, epochs=epochs)
    with lai.checkpoints.Checkpointer(
        model=model, optimizer=optimizer, sampler=sampler, scaler=scaler
    ) as checkpointer:
        step = checkpointer.restore()
        for images, labels in DataLoader(samples, batch_sampler=sampler):
            with torch.autocast(device.type, dtype=dtype):
                logits = model(images.to(device))
            loss = batch_loss(logits.float(), labels.to(device))
            optimizer.zero_grad()
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            step += 1
            due = step % LOG_EVERY_STEPS == 0
            checkpointer.step(step, metrics={"loss": loss.item()} if due else None)
    with torch.autocast(device.type, dtype=dtype):
        report(model, held_out, device)
    dist.destroy_process_group()


if __name__ == "__main__":
    main(epochs_asked())
