"""How a process with torch in it ends soon: others wait until it is gone."""

from __future__ import annotations

import atexit
import contextlib
import gc
import io
import os
import sys
import threading

_BUFFERED = (io.TextIOWrapper, io.BufferedWriter, io.BufferedRandom)


def leave_out_garbage() -> None:
    """Leave out the interpreter's last collection: a second for the 300,000 objects of torch.

    What files still hold is written first, as that collection would have done for those in cycles.
    """
    _write_what_files_hold()
    gc.freeze()


def end_soon_after_an_error() -> None:
    """Once this process has failed, leave out its teardown too: seconds, on a busy machine.

    Threads are waited for and what was registered with atexit is done, as ever. To be called before
    anybody registers anything: what comes first there is done last.
    """
    told = sys.excepthook
    failed_by: list[BaseException] = []

    def tell(kind: type[BaseException], error: BaseException, trace: object) -> None:
        told(kind, error, trace)  # type: ignore[arg-type]
        if _ends_the_process(error):
            failed_by[:] = [error]

    sys.excepthook = tell
    atexit.register(lambda: _leave() if failed_by else None)


def _ends_the_process(error: BaseException) -> bool:
    """Whether nobody caught it: a script, or C code, may print an error this way and go on."""
    is_last = getattr(sys, "last_value", None) is error
    is_main = threading.current_thread() is threading.main_thread()
    trace = error.__traceback__
    is_outermost = trace is None or trace.tb_frame.f_back is None
    # After an interrupt Python ends by that signal.
    return is_last and is_main and is_outermost and not isinstance(error, KeyboardInterrupt)


def _leave() -> None:
    _write_what_files_hold()
    for each in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):  # it may be anything, or closed
            each.flush()
    import ctypes  # noqa: PLC0415 - of all ranks only those that failed need it

    ctypes.CDLL(None).fflush(None)  # what C libraries have printed
    os._exit(1)


def _write_what_files_hold() -> None:
    for each in gc.get_objects():
        if type(each) in _BUFFERED and not each.closed:
            with contextlib.suppress(OSError, ValueError):
                each.flush()
