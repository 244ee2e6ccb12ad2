"""Checkpoints inside the trainer image, where PyTorch is; no cluster is needed."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

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
