"""The training that is hurt: a small data-parallel model over gloo, saved by the SDK."""

from __future__ import annotations

import logging
import sys
import time

from noting import OPTIONS, RANK, is_faulty, note, note_start, wait_for_end_of_step

note_start()

import torch  # noqa: E402 - how long this takes is measured
import torch._dynamo  # noqa: E402 - the first optimizer would import it
from torch import distributed as dist  # noqa: E402
from torch.nn.parallel import DistributedDataParallel  # noqa: E402

from lepton_ai.checkpoints import Checkpointer, GlobalSampler  # noqa: E402

SAMPLES = 120
BATCH_SIZE = 12
STEPS = int(OPTIONS["steps"])


def rest(model: torch.nn.Module, step: int) -> None:
    """Take the time that a healthy training takes now and then: its options say when.

    One rank evaluates and one waits for its data, while all others wait for them in collectives.
    """
    if step == 1:
        time.sleep(OPTIONS.get("first_step_seconds", 0))
    if RANK == 1 and step == OPTIONS.get("stall_at"):
        time.sleep(OPTIONS["stall_seconds"])
    if RANK == 0 and step % OPTIONS.get("evaluate_every", STEPS + 1) == 0:
        model.eval()
        time.sleep(OPTIONS["evaluate_seconds"])
        model.train()


def train() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(1)
    model = DistributedDataParallel(
        torch.nn.Sequential(torch.nn.Linear(8, 64), torch.nn.ReLU(), torch.nn.Linear(64, 1))
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    inputs = torch.randn(SAMPLES, 8)
    targets = inputs.sum(dim=1, keepdim=True)
    epochs = 1 + STEPS * BATCH_SIZE // SAMPLES
    sampler = GlobalSampler(samples=SAMPLES, batch_size=BATCH_SIZE, epochs=epochs)
    # Of its own: whoever leaves one out waits for the others elsewhere, as they do for it here.
    losses = dist.new_group()
    with Checkpointer(model=model, optimizer=optimizer, sampler=sampler) as checkpointer:
        step = checkpointer.restore()
        note("restored", step=step)
        for rows in sampler:
            if step == STEPS:
                break
            began = time.monotonic()
            optimizer.zero_grad()
            loss = torch.nn.functional.mse_loss(model(inputs[rows]), targets[rows])
            loss.backward()
            optimizer.step()
            step += 1
            total = loss.detach().clone()
            if not is_faulty(step):
                dist.all_reduce(total, group=losses)
            rest(model, step)
            wait_for_end_of_step(began)
            note("step", step=step)
            checkpointer.step(step, metrics={"loss": total.item() / dist.get_world_size()})
    note("ended", step=step)


logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(message)s")
note("imported")
dist.init_process_group("gloo")
dist.barrier()
note("met")
train()
dist.destroy_process_group()
