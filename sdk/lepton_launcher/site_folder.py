"""The folder that goes first on a rank's PYTHONPATH: our sitecustomize, and this package."""

from __future__ import annotations

import importlib.resources
import os
from pathlib import Path

_SITE_MODULE = "sitecustomize.py"


def write_site_folder(folder: Path) -> None:
    """Write it from wherever this package was loaded, which may be inside an archive."""
    package = folder / "lepton_launcher"
    package.mkdir(parents=True)
    for source in importlib.resources.files("lepton_launcher").iterdir():
        if source.name.endswith(".py"):
            target = folder if source.name == _SITE_MODULE else package
            (target / source.name).write_bytes(source.read_bytes())


def python_path(folder: Path) -> str:
    """PYTHONPATH with the folder before whatever it holds now."""
    return os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))
