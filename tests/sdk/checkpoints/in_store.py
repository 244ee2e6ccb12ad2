"""Checkpoints in an object store: `python in_store.py s3://bucket/prefix`, with LEPTON_STORE set.

Runs inside the trainer image, as with_torch.py does.
"""

from __future__ import annotations

import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from training import DIED, Options, losses, run, said


def main(uri: str) -> None:
    """Fail unless two ranks that were interrupted twice end as they would have without."""
    with tempfile.TemporaryDirectory(prefix="lepton-test-") as name:
        whole, broken = Path(name, "whole"), Path(name, "broken")
        for folder in (whole, broken):
            folder.mkdir()
        assert run(Options(whole, interval_seconds=1000), 2) == [0, 0]
        options = Options(broken, uri=uri)
        for die_at in (12, 24):
            assert run(replace(options, die_at=die_at), 2) == [DIED, DIED], said(options)
        assert run(options, 2) == [0, 0], said(options)
        assert losses(Options(whole)) == losses(options), said(options)
        assert "Training goes on from step" in said(options), said(options)
    print("OK")


if __name__ == "__main__":
    main(sys.argv[1])
