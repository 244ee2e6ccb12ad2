"""A plain PyTorch script: no line of it knows who runs it, but for the notes that tests read."""

from __future__ import annotations

import time

from noting import OPTIONS, is_faulty, note, note_start, wait_for_end_of_step

note_start()

import torch  # noqa: E402 - how long this takes is measured
import torch._dynamo  # noqa: E402 - the first optimizer would import it
from torch import distributed as dist  # noqa: E402
from torch.nn.parallel import DistributedDataParallel  # noqa: E402

note("imported")
dist.init_process_group("gloo")
note("met")
torch.set_num_threads(1)
model = DistributedDataParallel(torch.nn.Linear(8, 1))
losses = dist.new_group()
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
inputs = torch.randn(12, 8)
for step in range(1, int(OPTIONS["steps"]) + 1):
    began = time.monotonic()
    optimizer.zero_grad()
    loss = torch.nn.functional.mse_loss(model(inputs), inputs.sum(dim=1, keepdim=True))
    loss.backward()
    optimizer.step()
    total = loss.detach().clone()
    if not is_faulty(step):
        dist.all_reduce(total, group=losses)
    wait_for_end_of_step(began)
    note("step", step=step)
dist.destroy_process_group()
