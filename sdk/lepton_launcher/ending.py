"""How a process with torch in it ends soon: others wait until it is gone."""

from __future__ import annotations

import contextlib
import gc
import io

_BUFFERED = (io.TextIOWrapper, io.BufferedWriter, io.BufferedRandom)


def leave_out_garbage() -> None:
    """Leave out the interpreter's last collection: a second for the 300,000 objects of torch.

    What files still hold is written first, as that collection would have done for those in cycles.
    """
    for each in gc.get_objects():
        if type(each) in _BUFFERED and not each.closed:
            with contextlib.suppress(OSError, ValueError):
                each.flush()
    gc.freeze()
