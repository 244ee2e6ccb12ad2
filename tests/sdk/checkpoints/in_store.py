"""Checkpoints in an object store: `python in_store.py s3://bucket/prefix`, with LEPTON_STORE set.

Runs inside the trainer image, as with_torch.py does. With a folder as well, it tries a store that
refuses writes: files named `refuse` and `accept` there ask for it, and go when it does so.
"""

from __future__ import annotations

import re
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from training import DIED, Options, ask_of_the_store, losses, run, said


def refused(uri: str, folder: Path) -> None:
    """Fail unless a store that refuses in the middle of saves costs nothing but these saves."""
    whole = Options(folder / "whole", width=1024, interval_seconds=1000)
    options = Options(folder, width=1024, uri=uri, refused_from=15)
    (folder / "whole").mkdir()
    assert run(whole, 2) == [0, 0]
    assert run(options, 2) == [0, 0], said(options)
    assert "could not be saved" in said(options), said(options)
    assert "The last good one is of step" in said(options), said(options)
    told = options.exchange / "checkpoint-problem"
    assert "could not be saved" in told.read_text()
    ask_of_the_store(folder, "accept")
    for rank in (0, 1):
        (folder / f"losses-{rank}").unlink()
    (folder / "said-0").unlink()
    assert run(replace(options, refused_from=0), 2) == [0, 0], said(options)
    resumed = re.search(r"Training goes on from step (\d+)", said(options))
    assert resumed, said(options)
    assert 0 < int(resumed[1]) < options.steps, said(options)
    assert not told.exists(), told.read_text()
    after = losses(options)
    assert after.items() <= losses(whole).items(), said(options)
    print("OK")


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
    if sys.argv[2:]:
        refused(sys.argv[1], Path(sys.argv[2]))
    else:
        main(sys.argv[1])
