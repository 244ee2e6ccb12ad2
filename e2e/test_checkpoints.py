"""Checkpoints inside the trainer image: what can only run where PyTorch is."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from e2e.chroot import WRITABLE, Image
from e2e.deadlines import DEADLINES_SECONDS
from e2e.installation import ROOT

FILES = ("with_torch.py", "training.py")


def test_checkpoints_hold_what_they_promise(image: Callable[[str], Image], folder: Path) -> None:
    for name in FILES:
        shutil.copy(ROOT / "tests" / "sdk" / "checkpoints" / name, folder)
    shutil.copy(ROOT / "docs" / "checkpoints.md", folder)

    output = image("trainer").run(
        "python",
        f"{WRITABLE}/with_torch.py",
        writable=folder,
        limit_seconds=DEADLINES_SECONDS["checkpoints are tried"],
    )

    assert output.endswith("OK")
