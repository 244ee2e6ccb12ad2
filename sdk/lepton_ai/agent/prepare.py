"""The first container of a training pod: leaves the launcher, or says why the pod cannot run."""

from __future__ import annotations

import argparse
from pathlib import Path

from lepton_ai.record import Record
from lepton_ai.store import open_store
from lepton_launcher.archive import write_zipapp

PATIENCE_SECONDS = 10.0


def run(options: argparse.Namespace) -> Record:
    """Write the launcher and the folders that the pod's containers share."""
    if options.patterns:
        # RE2 is loaded by the few pods that have patterns.
        from lepton_ai.agent import marks  # noqa: PLC0415

        marks.check(options.patterns)
    if options.needs_store:
        open_store(patience_seconds=PATIENCE_SECONDS).check()
    if options.checkpoint_uri:
        # So is what checkpoints need.
        from lepton_ai.checkpoints.bucket import address_of  # noqa: PLC0415

        open_store(address_of(options.checkpoint_uri), PATIENCE_SECONDS).check()
    launcher: Path = options.launcher
    for name in ("exchange", "output"):
        (launcher.parent / name).mkdir(parents=True, exist_ok=True)
    partial = launcher.with_name(f".{launcher.name}.partial")
    write_zipapp(partial)
    partial.replace(launcher)
    return Record.succeeded(f"The launcher is at {launcher}.")
