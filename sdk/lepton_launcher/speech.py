"""The launcher's own lines in the pod's log."""

from __future__ import annotations

import sys


def say(text: str) -> None:
    """Write one line; a log that is closed is no reason to fail."""
    try:
        print(f"lepton: {text}", file=sys.stderr, flush=True)
    except OSError:
        return
