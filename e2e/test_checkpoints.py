"""Checkpoints inside the trainer image, where PyTorch is; no cluster is needed."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from e2e.chroot import WRITABLE, Image
from e2e.cluster.ports import free_port
from e2e.deadlines import DEADLINES_SECONDS
from e2e.installation import ROOT
from tests.agent.gateway import ACCESS_KEY, SECRET_KEY, Gateway, write_secret

SCRIPTS = ROOT / "tests" / "sdk" / "checkpoints"


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
    image: Callable[[str], Image], folder: Path
) -> None:
    for name in ("in_store.py", "training.py"):
        shutil.copy(SCRIPTS / name, folder)
    with Gateway(free_port(), folder / "gateway").running() as gateway:
        gateway.make_bucket("checkpoints")
        write_secret(
            folder / "secret",
            url="s3://other",
            endpoint=gateway.endpoint,
            accessKey=ACCESS_KEY,
            secretKey=SECRET_KEY,
        )
        shared = folder / "shared"
        shared.mkdir()
        shared.chmod(0o777)
        wishes = {"refuse": 16 * 1024, "accept": -1}
        threading.Thread(target=obey, args=(gateway, shared, wishes), daemon=True).start()
        output = image("trainer").run(
            *("env", f"LEPTON_STORE={WRITABLE}/secret"),
            *("python", f"{WRITABLE}/in_store.py", "s3://checkpoints/refused"),
            f"{WRITABLE}/shared",
            writable=folder,
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
    image: Callable[[str], Image], folder: Path
) -> None:
    for name in ("in_store.py", "training.py"):
        shutil.copy(SCRIPTS / name, folder)
    with Gateway(free_port(), folder / "gateway").running() as gateway:
        gateway.make_bucket("checkpoints")
        write_secret(
            folder / "secret",
            url="s3://other",
            endpoint=gateway.endpoint,
            accessKey=ACCESS_KEY,
            secretKey=SECRET_KEY,
        )
        output = image("trainer").run(
            *("env", f"LEPTON_STORE={WRITABLE}/secret"),
            *("python", f"{WRITABLE}/in_store.py", "s3://checkpoints/team"),
            writable=folder,
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
