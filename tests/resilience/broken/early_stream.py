"""An operator with a bug: it serves doors before it knows anything, and what it lacks they lose.

Undisturbed it works. One that was started again takes every service from the doors for a while.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import lepton_operator.__main__ as operator
from lepton_operator.door.catalogue import Shelf
from lepton_operator.door.feed import Feed
from lepton_operator.door.resources import Kind

_LATE_SECONDS = 5.0
"""Within which its doors are back, however busy the machine is."""


def main(arguments: Sequence[str]) -> int:
    begin_well = Feed.begin

    def begin(self: Feed) -> None:
        asyncio.get_running_loop().call_later(_LATE_SECONDS, begin_well, self)

    def is_gone(_shelf: Shelf, kind: Kind, _name: str) -> bool:
        return kind is not Kind.RUNTIME

    Feed.begin = begin  # type: ignore[method-assign]
    Shelf.is_gone = is_gone  # type: ignore[assignment, method-assign]
    return operator.main(arguments)
