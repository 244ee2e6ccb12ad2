"""Data parallel (DDP): each rank has the whole model, and a part of each batch.

``torchrun --nproc-per-node=2 -m lepton_ai.recipes.data_parallel``, or examples/data-parallel.yaml.
Copy it, and put in your model and your data. The result is the same, to rounding, with any number
of ranks, and the same to the bit however often it was interrupted.

On GPUs the gradients are averaged over NCCL, while backward still runs. The lines that ask for
``cuda`` choose it; nothing else differs. ``numProcPerNode: auto`` starts one rank for each GPU.
Checkpoints keep to groups of their own over gloo, so gloo must find its way between the nodes too:
where a node has several networks, set ``GLOO_SOCKET_IFNAME`` beside ``NCCL_SOCKET_IFNAME``.
"""

from __future__ import annotations

import argparse
import os

import torch
from torch import distributed as dist
from torch import nn
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, TensorDataset

import lepton_ai as lai

BATCH_SIZE = 48  # of all ranks together
LOG_EVERY_STEPS = 10


def main(epochs: int) -> None:
    device = join()
    torch.manual_seed(0)
    model = DistributedDataParallel(network().to(device), process_group=dist.new_group())
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
            # Reading a loss waits for the GPU, so not each step does it.
            due = step % LOG_EVERY_STEPS == 0
            checkpointer.step(step, metrics={"loss": loss.item()} if due else None)
    report(model, held_out, device)
    dist.destroy_process_group()


def join() -> torch.device:
    """Join the gang; return this rank's device."""
    if torch.cuda.is_available():
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
        dist.init_process_group("nccl")
        return device
    torch.set_num_threads(1)  # the ranks may share this machine's cores
    dist.init_process_group("gloo")
    return torch.device("cpu")


def digits() -> tuple[TensorDataset, TensorDataset]:
    """Return images and labels to train on, and those that are held out."""
    training, held_out = (
        TensorDataset(torch.from_numpy(part.x), torch.from_numpy(part.y))
        for part in lai.datasets.load("digits").split()
    )
    return training, held_out


def network() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))


def batch_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return what DDP's mean over ranks turns into the mean over the batch.

    The ranks' parts may differ by one sample, so a mean of their means would not be that.
    """
    return cross_entropy(logits, labels, reduction="sum") * dist.get_world_size() / BATCH_SIZE


def report(model: nn.Module, held_out: TensorDataset, device: torch.device) -> None:
    """Print how good the model is; all ranks ask it, since a sharded one needs all of them."""
    images, labels = (each.to(device) for each in held_out.tensors)
    model.eval()
    with torch.no_grad():
        accuracy = (model(images).argmax(dim=1) == labels).float().mean()
    if dist.get_rank() == 0:
        print(f"held-out accuracy {accuracy:.4f} on {len(labels)} digits", flush=True)


def epochs_asked() -> int:
    parser = argparse.ArgumentParser(description="Train on 8x8 digits.")
    parser.add_argument("--epochs", type=int, default=10, help="passes over the digits")
    asked: int = parser.parse_args().epochs
    return asked


if __name__ == "__main__":
    main(epochs_asked())
