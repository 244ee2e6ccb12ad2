"""One name for the compiler, with types: the event loop and the laws run as machine code."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar, cast

import numba

F = TypeVar("F", bound=Callable[..., object])


def compiled(function: F) -> F:
    """Compile a function over numbers and arrays; what was compiled is kept beside the source."""
    return cast("F", numba.njit(cache=True)(function))
