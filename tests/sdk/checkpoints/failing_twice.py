"""A training that fails twice: `python -m lepton_launcher run ... -- failing_twice.py`.

Its first ranks end when they have a checkpoint, the second ones after three more steps.
"""

from __future__ import annotations

import logging
import os
import time

import torch
from torch import distributed as dist
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, TensorDataset

import lepton_ai as lai


class Sentences(logging.Handler):
    """Keeps what was said."""

    def __init__(self) -> None:
        super().__init__()
        self.said = ""

    def emit(self, record: logging.LogRecord) -> None:
        self.said += record.getMessage()


def main() -> None:
    sentences = Sentences()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger().addHandler(sentences)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    dist.init_process_group("gloo")
    model = DistributedDataParallel(torch.nn.Linear(8, 1), process_group=dist.new_group())
    inputs = torch.randn(400, 8)
    dataset = TensorDataset(inputs, inputs.sum(dim=1, keepdim=True))
    sampler = lai.checkpoints.GlobalSampler(400, batch_size=8, epochs=200)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with lai.checkpoints.Checkpointer(
        model=model, optimizer=optimizer, sampler=sampler
    ) as checkpointer:
        begun_at = step = checkpointer.restore()
        for x, y in DataLoader(dataset, batch_sampler=sampler):
            optimizer.zero_grad()
            torch.nn.functional.mse_loss(model(x), y).backward()
            optimizer.step()
            time.sleep(0.02)
            step += 1
            checkpointer.step(step)
            fail(os.environ["LEPTON_GENERATION"], step - begun_at, sentences.said)
            if os.environ["LEPTON_GENERATION"] == "2" and step - begun_at == 20:
                break
    dist.destroy_process_group()


def fail(generation: str, steps: int, said: str) -> None:
    if generation == "0" and "is complete" in said:
        raise RuntimeError("the first failure")
    if generation == "1" and steps == 3:
        raise RuntimeError("the second failure")


if __name__ == "__main__":
    main()
