"""Data-parallel training: the same result, to rounding, with any number of ranks."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel
from torch.optim.lr_scheduler import OneCycleLR

from lepton_ai.curves import Curves
from lepton_ai.models.digits import DigitsNet
from lepton_ai.recipes.digits.options import Options
from lepton_ai.recipes.ranks import Rank, available_cores, machine, threads_per_rank
from lepton_ai.recipes.sharding import global_batches, shard

EVALUATION_BATCH_SIZE = 500

Metrics = dict[str, float]


@dataclass(frozen=True)
class LabelledImages:
    """Images (samples, 1, 28, 28) in float32 between 0 and 1, and labels (samples,) in int64."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device) -> LabelledImages:
        return LabelledImages(self.images.to(device), self.labels.to(device))


@contextmanager
def process_group(rank: Rank) -> Iterator[torch.device]:
    """Join the gang, over NCCL where there is CUDA and else over gloo; give the rank's device."""
    cuda = torch.cuda.is_available()
    device = torch.device("cuda", rank.local_rank) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    if rank.world_size > 1:
        dist.init_process_group("nccl" if cuda else "gloo")
    if not cuda:
        torch.set_num_threads(threads_per_rank(available_cores(), _ranks_on_machine(rank)))
    try:
        yield device
    finally:
        if rank.world_size > 1:
            dist.destroy_process_group()


def _ranks_on_machine(rank: Rank) -> int:
    if rank.world_size == 1:
        return 1
    machines = [""] * rank.world_size
    dist.all_gather_object(machines, machine())
    return machines.count(machine())


def train(
    training: LabelledImages,
    held_out: LabelledImages,
    options: Options,
    rank: Rank,
    device: torch.device,
) -> tuple[DigitsNet, Metrics, Curves]:
    """Train a new network, and measure it on the held-out part after each epoch.

    Rank 0 prints progress; all ranks get the same network and its last metrics, rank 0 its curves.
    """
    torch.manual_seed(options.seed)
    network = DigitsNet()
    network.to(device)
    model = _data_parallel(network, rank, device)
    optimizer = torch.optim.Adam(model.parameters())
    total_steps = options.epochs * (len(training) // options.batch_size)
    schedule = OneCycleLR(optimizer, options.max_learning_rate, total_steps=total_steps)
    curves = Curves()
    progress = Progress(options, total_steps, rank, curves)
    metrics: Metrics = {}
    for epoch in range(options.epochs):
        model.train()
        for batch in global_batches(len(training), options.batch_size, options.seed, epoch):
            mine = torch.from_numpy(shard(batch, rank.rank, rank.world_size)).to(device)
            logits = model(training.images[mine])
            loss_sum = cross_entropy(logits, training.labels[mine], reduction="sum")
            optimizer.zero_grad()
            # DDP averages gradients over ranks, whose shares may differ by one digit: scaled like
            # this, the average is the mean over the whole batch.
            (loss_sum * rank.world_size / len(batch)).backward()
            optimizer.step()
            progress.step(epoch, loss_sum.detach() / len(mine), schedule.get_last_lr()[0])
            schedule.step()
        metrics = evaluate(network, held_out, rank)
        progress.epoch(epoch, metrics)
    return network, metrics, curves


def _data_parallel(network: DigitsNet, rank: Rank, device: torch.device) -> nn.Module:
    if rank.world_size == 1:
        return network
    # DistributedDataParallel never lets go of its process group, whose threads then outlive
    # destroy_process_group. One of gloo's that drops a tensor while the interpreter shuts down
    # aborts a training that went well (pytorch/pytorch#179291). With a group of its own, the group
    # of the last evaluation is destroyed for good.
    return DistributedDataParallel(
        network,
        device_ids=[device] if device.type == "cuda" else None,
        process_group=dist.new_group(),
    )


def evaluate(network: nn.Module, held_out: LabelledImages, rank: Rank) -> Metrics:
    """Measure accuracy and mean cross-entropy (nats) on every held-out digit, each counted once.

    The ranks share the work, and all of them get the result.
    """
    network.eval()
    mine = LabelledImages(
        shard(held_out.images, rank.rank, rank.world_size),
        shard(held_out.labels, rank.rank, rank.world_size),
    )
    sums = torch.zeros(2, dtype=torch.float64, device=held_out.labels.device)
    with torch.inference_mode():
        for start in range(0, len(mine), EVALUATION_BATCH_SIZE):
            labels = mine.labels[start : start + EVALUATION_BATCH_SIZE]
            logits = network(mine.images[start : start + EVALUATION_BATCH_SIZE])
            sums[0] += (logits.argmax(dim=1) == labels).sum()
            sums[1] += cross_entropy(logits, labels, reduction="sum")
    if rank.world_size > 1:
        dist.all_reduce(sums)
    correct, loss_sum = sums.tolist()
    samples = len(held_out)
    return {"accuracy": correct / samples, "loss": loss_sum / samples, "samples": samples}


class Progress:
    """Rank 0's lines: steps done, its own share's loss, learning rate, and all ranks' speed."""

    def __init__(self, options: Options, total_steps: int, rank: Rank, curves: Curves) -> None:
        self._curves = curves
        self._options = options
        self._total_steps = total_steps
        self._leads = rank.leads
        self._steps = 0
        self._logged_steps = 0
        self._logged_seconds = time.monotonic()

    def step(self, epoch: int, loss: Any, learning_rate: float) -> None:
        self._steps += 1
        due = self._steps % self._options.log_every_steps == 0 or self._steps == self._total_steps
        if not (self._leads and due):
            return
        now_seconds = time.monotonic()
        images = (self._steps - self._logged_steps) * self._options.batch_size
        images_per_second = images / (now_seconds - self._logged_seconds)
        self._logged_steps, self._logged_seconds = self._steps, now_seconds
        self._curves.add(self._steps, {"loss": float(loss), "learning rate": learning_rate})
        print(
            f"step {self._steps}/{self._total_steps}  epoch {epoch + 1}/{self._options.epochs}  "
            f"loss {float(loss):.4f}  lr {learning_rate:.2e}  {images_per_second:.0f} images/s",
            flush=True,
        )

    def epoch(self, epoch: int, metrics: Metrics) -> None:
        if self._leads:
            held_out = {f"held-out {name}": metrics[name] for name in ("accuracy", "loss")}
            self._curves.add(self._steps, held_out)
            print(
                f"epoch {epoch + 1}/{self._options.epochs} done  "
                f"held-out accuracy {metrics['accuracy']:.4f}  loss {metrics['loss']:.4f}  "
                f"on {metrics['samples']} digits",
                flush=True,
            )
