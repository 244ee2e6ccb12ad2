"""An operator with a bug: of a list it takes what is in it, and never what is missing from it.

That is what Kopf does by itself after a 410: an object that was deleted in the gap stays for ever.
"""

from __future__ import annotations

from collections.abc import Sequence

import lepton_operator.__main__ as operator
from lepton_operator.cache import Cache, Change, Listing


def main(arguments: Sequence[str]) -> int:
    def end_listing(_: Cache, listing: Listing) -> list[Change]:
        listing.seen.clear()
        return []

    Cache.end_listing = end_listing  # type: ignore[assignment, method-assign]
    return operator.main(arguments)
