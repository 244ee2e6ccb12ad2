"""Two names for the compiler, with types: the event loop and the laws run as machine code.

What was compiled is kept in the user's cache under a digest of this package's sources: numba's own
check looks at one file, not at those that it calls.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar, cast

import numba

F = TypeVar("F", bound=Callable[..., object])


# What the results of rivals and bounds depend on.
_SIMULATOR = (
    "arrivals", "bounds", "compiled", "prometheus", "queueing", "rivals", "run", "table", "world",
)  # fmt: skip


def sources_digest() -> str:
    """Return what the simulator's code is, in sixteen characters."""
    folder = Path(__file__).parent
    sources = b"".join((folder / f"{module}.py").read_bytes() for module in _SIMULATOR)
    return hashlib.sha256(sources).hexdigest()[:16]


def cache_folder() -> Path:
    """Return where machine code and results of this code are kept."""
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return root / "lepton-operator" / "autoscaling" / sources_digest()


numba.config.CACHE_DIR = str(cache_folder())


def compiled(function: F) -> F:
    """Compile a function over numbers and arrays."""
    return cast("F", numba.njit(cache=True)(function))


def inlined(function: F) -> F:
    """Compile into every caller what makes no array and no view of one.

    Such code needs no reference counts; keeping them for a tuple of arrays in each small function
    takes four fifths of the event loop's time.
    """
    return cast("F", numba.njit(cache=True, forceinline=True, _nrt=False)(function))
