"""Checkpoints inside the trainer image, where PyTorch is, and of a job on real pods."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from e2e.chroot import WRITABLE, Image
from e2e.cluster.ports import free_port
from e2e.deadlines import DEADLINES_SECONDS
from e2e.installation import ROOT
from e2e.jobs import attempts, training_job
from e2e.kubectl import Kubectl
from e2e.test_training import completes, job_of
from e2e.waiting import wait_until
from lepton_ai.agent.checkpoint_relay import CheckpointRelay
from tests.agent.gateway import ACCESS_KEY, SECRET_KEY, Gateway, write_secret

SCRIPTS = ROOT / "tests" / "sdk" / "checkpoints"
STORE = "lepton-store://checkpoints"
DIRECTLY, BY_SIDECAR = "with keys of its own", "through a sidecar"
# A training image need have no library of the store's. It ends in its second attempt.
SAVING = """
import os, sys, time
sys.modules["obstore"] = None
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from lepton_ai.checkpoints import Checkpointer
dist.init_process_group("gloo")
model = DistributedDataParallel(torch.nn.Linear(64, 64))
optimizer = torch.optim.Adam(model.parameters())
with Checkpointer(model=model, optimizer=optimizer) as checkpointer:
    began = step = checkpointer.restore()
    print("began with step", step, flush=True)
    while os.environ["LEPTON_ATTEMPT"] == "1" or step < began + 5:
        optimizer.zero_grad()
        model(torch.ones(64)).sum().backward()
        optimizer.step()
        step += 1
        checkpointer.step(step)
        time.sleep(0.2)
dist.destroy_process_group()
"""


class Store(NamedTuple):
    """One with a place in it; by a sidecar's socket it is reached from any network."""

    gateway: Gateway
    variable: str  # of those who save in it
    uri: str
    alone: bool


@pytest.fixture(params=[pytest.param(DIRECTLY, marks=pytest.mark.long), BY_SIDECAR])
def in_store(
    request: pytest.FixtureRequest, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Store]:
    """A store, and how those who save in it reach it."""
    with Gateway(free_port(), folder / "gateway").running() as gateway:
        gateway.make_bucket("checkpoints")
        write_secret(
            folder / "secret",
            url="s3://other",
            endpoint=gateway.endpoint,
            accessKey=ACCESS_KEY,
            secretKey=SECRET_KEY,
        )
        uri = f"s3://checkpoints/{request.node.originalname.removeprefix('test_')}"
        if request.param == DIRECTLY:
            yield Store(gateway, f"LEPTON_STORE={WRITABLE}/secret", uri, alone=False)
            return
        monkeypatch.setenv("LEPTON_STORE", str(folder / "secret"))
        CheckpointRelay(uri, "local").serve(folder / "socket")
        yield Store(gateway, f"LEPTON_CHECKPOINT_SOCKET={WRITABLE}/socket", uri, alone=True)


def test_checkpoints_hold_what_they_promise(image: Callable[[str], Image], folder: Path) -> None:
    for name in ("with_torch.py", "training.py"):
        shutil.copy(SCRIPTS / name, folder)
    shutil.copy(ROOT / "docs" / "checkpoints.md", folder)

    output = image("trainer").run(
        "python",
        f"{WRITABLE}/with_torch.py",
        writable=folder,
        limit_seconds=DEADLINES_SECONDS["checkpoints are tried"],
    )

    assert output.endswith("OK")


def test_a_store_that_refuses_in_the_middle_of_a_save_loses_nothing_but_that_save(
    image: Callable[[str], Image], folder: Path, in_store: Store
) -> None:
    for name in ("in_store.py", "training.py"):
        shutil.copy(SCRIPTS / name, folder)
    shared = folder / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    wishes = {"refuse": 16 * 1024, "accept": -1}
    threading.Thread(target=obey, args=(in_store.gateway, shared, wishes), daemon=True).start()
    output = image("trainer").run(
        *("env", in_store.variable),
        *("python", f"{WRITABLE}/in_store.py", in_store.uri, f"{WRITABLE}/shared"),
        writable=folder,
        alone=in_store.alone,
        limit_seconds=DEADLINES_SECONDS["checkpoints are tried"],
    )

    assert output.endswith("OK")


@pytest.mark.long
def test_long_trainings_that_are_interrupted_keep_their_promises(
    image: Callable[[str], Image], folder: Path
) -> None:
    for name in ("long_runs.py", "failing_twice.py", "training.py"):
        shutil.copy(SCRIPTS / name, folder)

    output = image("trainer").run(
        "python",
        f"{WRITABLE}/long_runs.py",
        writable=folder,
        limit_seconds=DEADLINES_SECONDS["checkpoints are tried"],
    )
    print(output)

    assert output.endswith("OK")


def obey(gateway: Gateway, folder: Path, wishes: Mapping[str, int]) -> None:
    """Let the store refuse and accept, as the script asks: each once, in this order."""
    for wish, size_bytes in wishes.items():
        while not (folder / wish).exists():
            time.sleep(0.02)
        gateway.refuse_writes_above(size_bytes)
        (folder / wish).unlink()


def test_checkpoints_in_an_object_store_hold_it_too(
    image: Callable[[str], Image], folder: Path, in_store: Store
) -> None:
    for name in ("in_store.py", "training.py"):
        shutil.copy(SCRIPTS / name, folder)
    output = image("trainer").run(
        *("env", in_store.variable),
        *("python", f"{WRITABLE}/in_store.py", in_store.uri),
        writable=folder,
        alone=in_store.alone,
        limit_seconds=DEADLINES_SECONDS["checkpoints are tried"],
    )

    assert output.endswith("OK")


def test_a_gang_that_is_asked_to_leave_saves_at_one_step(
    image: Callable[[str], Image], folder: Path
) -> None:
    shutil.copy(SCRIPTS / "leaving.py", folder)
    output = image("trainer").run(
        "python",
        f"{WRITABLE}/leaving.py",
        writable=folder,
        limit_seconds=DEADLINES_SECONDS["checkpoints are tried"],
    )

    assert output.endswith("OK")


def test_a_killed_pod_s_training_goes_on_from_the_object_store(namespace: Kubectl) -> None:
    namespace.apply(
        training_job(
            "stored",
            SAVING,
            image="trainer",
            numNodes=2,
            checkpoint={"uri": STORE, "intervalSeconds": 2, "keep": 2},
        )
    )

    def saved() -> Any:
        return (job_of(namespace, "stored") or {}).get("status", {}).get("checkpoint", {})

    found = wait_until(saved, bool, "a training runs")
    uid = (job_of(namespace, "stored") or {})["metadata"]["uid"]
    assert found["place"] == f"{STORE}/{uid}/step-{found['step']:09d}"
    namespace.delete("pod", "stored-train-1-0", "--grace-period=0", "--force")
    first, second = attempts(completes(namespace, "stored"))
    assert (first["outcome"], second["outcome"]) == ("Failed", "Succeeded")
    assert second["resumedFrom"] >= found["step"]
    log = namespace.logs("stored-train-2-0", "-c", "train")
    assert f"began with step {second['resumedFrom']}" in log
