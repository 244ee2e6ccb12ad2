"""A training that saves, as with_torch.py starts and interrupts it: in processes of their own.

Its randomness comes from all sources that a checkpoint holds, and each rank writes each step's loss
exactly, with the rows it saw.
"""

from __future__ import annotations

import logging
import os
import random
import resource
import sys
import time
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from socket import create_server

import numpy as np
import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, TensorDataset

import lepton_ai as lai

BATCH_SIZE = 12
PROCESSES = get_context("forkserver")
PROCESSES.set_forkserver_preload(["lepton_ai.checkpoints.checkpointer", "torch.distributed.fsdp"])
DIED = 9
LONGEST_SECONDS = 300
"""Of a training: it bounds a failure. Where cores are scarce some take over a minute."""
SLOW_SECONDS = 0.5
"""A step's length while the end of a save is awaited."""


@dataclass(frozen=True)
class Options:
    folder: Path
    """Where losses and sentences go, and by default checkpoints."""
    steps: int = 30
    samples: int = 50
    width: int = 16
    interval_seconds: float = 0.0
    keep: int = 3
    seed: int = 1
    die_at: int = 0
    """All ranks end without a word at the end of this step; steps are slow until a checkpoint is
    known to be complete."""
    request_save_at: int = 0
    """Asks all ranks to leave at the step after the next one, as the launcher does."""
    full_from: int = 0
    """From the end of this step on, or of the next at which a checkpoint is known to be complete,
    and until a save is known to have failed, no file of rank 0 may grow beyond 16 KiB: a volume
    that is full."""
    refused_from: int = 0
    """From the end of this step on, or of the next at which a checkpoint is known to be complete,
    the store refuses: whoever runs it is asked, and waited for."""
    sharded: bool = False
    """By fully_shard (FSDP2), instead of data parallel."""
    uri: str = ""
    """Where checkpoints go; a folder below `folder` by default."""
    usurped_at: int = 0
    """Attempt 7 begins elsewhere at the end of this step."""
    saves: int = 0
    """End once so many checkpoints are complete; 0 for after the last step."""

    @property
    def output(self) -> Path:
        return self.folder / "output"

    @property
    def exchange(self) -> Path:
        return self.folder / "exchange"


def run(options: Options, ranks: int = 1) -> list[int]:
    """Train in so many processes; return their exit codes."""
    options.exchange.mkdir(parents=True, exist_ok=True)
    with create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    started = [
        PROCESSES.Process(target=_be_rank, args=(options, rank, ranks, port))
        for rank in range(ranks)
    ]
    for each in started:
        each.start()
    for each in started:
        each.join(LONGEST_SECONDS)
        if each.is_alive():
            each.kill()
            each.join()
    return [each.exitcode or 0 for each in started]


def said(options: Options) -> str:
    """Return what rank 0 has logged."""
    return (options.folder / "said-0").read_text()


def losses(options: Options, rank: int = 0) -> dict[str, str]:
    """Return the last loss of each step, with its rows, and the weights at the end."""
    lines = (options.folder / f"losses-{rank}").read_text().splitlines()
    return dict(line.split(" ", 1) for line in lines)


def _be_rank(options: Options, rank: int, ranks: int, port: int) -> None:
    log = (options.folder / f"said-{rank}").open("a", buffering=1)
    sys.stdout = sys.stderr = log
    os.dup2(log.fileno(), 2)
    logging.basicConfig(stream=log, level=logging.INFO, format="%(message)s")
    os.environ.update(
        {
            "LEPTON_CHECKPOINT_URI": options.uri or (options.folder / "checkpoints").as_uri(),
            "LEPTON_EXCHANGE": str(options.exchange),
            "LEPTON_OUTPUT_DIR": str(options.output),
        }
    )
    if not options.uri:
        os.environ.pop("LEPTON_CHECKPOINT_SOCKET", None)
    torch.set_num_threads(1)
    if ranks > 1:
        meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "GLOO_SOCKET_IFNAME": "lo"}
        os.environ.update({"RANK": str(rank), "WORLD_SIZE": str(ranks), **meeting})
        dist.init_process_group("gloo")
    try:
        train(options)
    finally:
        if ranks > 1:
            dist.destroy_process_group()


class Network(nn.Module):  # type: ignore[misc]
    """With buffers, dropout, and a layer that is never used, so has no optimizer state."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Linear(8, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Dropout(0.2)
        )
        self.head = nn.Linear(width, 1)
        self.spare = nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))


def train(options: Options) -> None:
    torch.manual_seed(options.seed)
    random.seed(options.seed)
    np.random.seed(options.seed)  # noqa: NPY002 - the state that a checkpoint holds
    model: nn.Module = Network(options.width)
    if options.sharded:
        fully_shard(model, mesh=init_device_mesh("cpu", (dist.get_world_size(),)))
    elif dist.is_initialized():
        group = dist.new_group()
        model = DistributedDataParallel(model, process_group=group, find_unused_parameters=True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=1000)
    epochs = -(-options.steps * BATCH_SIZE // options.samples)
    sampler = lai.checkpoints.GlobalSampler(options.samples, BATCH_SIZE, epochs=epochs, seed=5)
    with lai.checkpoints.Checkpointer(
        model=model,
        optimizer=optimizer,
        scheduler=scheduler,
        sampler=sampler,
        interval_seconds=options.interval_seconds,
        keep=options.keep,
    ) as checkpointer:
        step = checkpointer.restore()
        for x, y, rows in DataLoader(dataset(options.samples), batch_sampler=sampler):
            noise = random.gauss(0, 0.01) + float(np.random.normal(0, 0.01))  # noqa: NPY002
            optimizer.zero_grad()
            loss = ((model(x) - y + noise) ** 2).mean()
            loss.backward()
            optimizer.step()
            scheduler.step()
            step += 1
            write(options, f"{step} {float(loss.detach()).hex()} {rows.tolist()}")
            meet_fate(options, step)
            checkpointer.step(step, metrics={"loss": float(loss.detach())})
            if step == options.steps or (options.saves and enough_saves(options)):
                break
    weights = torch.cat([whole(each).flatten() for each in model.parameters()])
    write(options, f"end {weights.numpy().tobytes().hex()}")


def whole(parameter: Tensor) -> Tensor:
    detached = parameter.detach()
    return detached.full_tensor() if isinstance(detached, DTensor) else detached


def dataset(samples: int) -> TensorDataset:
    inputs = torch.randn(samples, 8, generator=torch.Generator().manual_seed(4))
    return TensorDataset(inputs, inputs.sum(dim=1, keepdim=True), torch.arange(samples))


def meet_fate(options: Options, step: int) -> None:
    if step == options.die_at:
        os._exit(DIED)
    if step == options.request_save_at:
        (options.exchange / "save").write_text(f'{{"step": {step + 2}}}')
    if os.environ.get("RANK", "0") == "0":
        be_slow_or_short_of_space(options, step)
    if step == options.usurped_at:
        attempts = options.folder / "checkpoints" / "local" / "attempts"
        beginning = (attempts / "attempt-0-0.json").read_bytes()
        (attempts / "attempt-7-0.json").write_bytes(beginning)


def be_slow_or_short_of_space(options: Options, step: int) -> None:
    """Do what depends on what is known of saves; of rank 0, for which the others wait."""
    if not (options.die_at or options.full_from or options.refused_from) or not has_saved(options):
        return
    if options.refused_from and step >= options.refused_from:
        have_the_store_refuse(options)
    if options.full_from and step >= options.full_from:
        fill_the_volume(options)


def has_saved(options: Options) -> bool:
    """Whether a checkpoint is known to be complete; until then the step takes longer.

    The checkpointer learns of it in its own next step: who waits for it within one waits for ever.
    """
    is_known = "is complete after" in said(options)
    if not is_known:
        time.sleep(SLOW_SECONDS)
    return is_known


def have_the_store_refuse(options: Options) -> None:
    asked = options.folder / "asked"
    if not asked.exists():
        ask_of_the_store(options.folder, "refuse")
        asked.touch()


def fill_the_volume(options: Options) -> None:
    """Leave no room until a save is known to have failed; until then the step takes longer."""
    is_known = "could not be saved" in said(options)
    largest = resource.RLIM_INFINITY if is_known else 16 * 1024
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest, resource.RLIM_INFINITY))
    if not is_known:
        time.sleep(SLOW_SECONDS)


def ask_of_the_store(folder: Path, what: str) -> None:
    """Ask whoever runs the store to refuse or to accept, and wait until it does."""
    (folder / what).touch()
    while (folder / what).exists():
        time.sleep(0.02)


def enough_saves(options: Options) -> bool:
    """Whether rank 0 has seen so many: all ranks get one answer."""
    enough = torch.tensor(said(options).count("is complete after") >= options.saves)
    dist.broadcast(enough, src=0)
    return bool(enough)


def write(options: Options, line: str) -> None:
    rank = os.environ.get("RANK", "0")
    with (options.folder / f"losses-{rank}").open("a") as file:
        file.write(f"{line}\n")
