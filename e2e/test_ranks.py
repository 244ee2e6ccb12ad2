"""What torchrun's agent starts, under the launcher, inside the trainer image; without a cluster."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from e2e.chroot import WRITABLE, Image
from e2e.deadlines import DEADLINES_SECONDS
from e2e.installation import ROOT


def test_ranks_that_end_badly_are_told_apart(image: Callable[[str], Image], folder: Path) -> None:
    shutil.copy(ROOT / "tests" / "launcher" / "with_torch.py", folder)

    output = image("trainer").run(
        "python",
        f"{WRITABLE}/with_torch.py",
        writable=folder,
        limit_seconds=DEADLINES_SECONDS["ranks are tried"],
    )

    assert output.endswith("OK")
