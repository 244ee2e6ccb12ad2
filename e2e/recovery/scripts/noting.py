"""What a rank notes on the shared volume, and the faults that it commits when it is told to.

Each rank notes what it does, with the time of day, in a file of its own; the machine's nodes share
one clock. Standard library only, so that any image's Python runs it.
"""

from __future__ import annotations

import ctypes
import json
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

FOLDER = Path(os.environ["TRAINING_FOLDER"])
OPTIONS: Mapping[str, float] = json.loads(os.environ["TRAINING_OPTIONS"])
RANK = int(os.environ["RANK"])
_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
_CHUNK_BYTES = 64 << 20


def note(event: str, **facts: Any) -> None:
    """Append a line to this rank's events: whole, whatever ends the process next."""
    start = {name: int(os.environ[f"LEPTON_{name.upper()}"]) for name in ("attempt", "generation")}
    line = {"at": time.time(), "event": event, **start, **facts}
    with (FOLDER / f"events-{RANK}.jsonl").open("a") as file:
        file.write(json.dumps(line) + "\n")


def note_start() -> None:
    """Note when this process began, and those that it waited for: PID 1 and torchrun's agent."""
    begun = {"at": os.getpid(), "launcher": 1, "agent": os.getppid()}
    note("started", **{name: _began_at(pid) for name, pid in begun.items()})


def is_faulty(step: int) -> bool:
    """Whether this rank was told to do something else in this step; then it has done it."""
    once = FOLDER / "faults" / str(RANK)
    again = FOLDER / "faults" / f"{RANK}-again"
    each_time = FOLDER / "faults" / f"{RANK}-{step}"
    if again.exists():
        again.rename(each_time)
    if once.exists():
        kind = once.read_text()
        once.unlink()
    elif each_time.exists():
        kind = each_time.read_text()
    else:
        return False
    note("fault", step=step)
    FAULTS[kind]()
    return True


def wait_for_end_of_step(began: float) -> None:
    """Make a step that began then (monotonic seconds) as long as steps are."""
    time.sleep(max(0.0, began + OPTIONS["step_seconds"] - time.monotonic()))


def _began_at(pid: int) -> float:
    """Return when a process began: proc(5), field 22."""
    ticks = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) + ticks / _TICKS_PER_SECOND


def _hold_the_interpreter() -> None:
    library = ctypes.PyDLL(None)  # its calls keep the interpreter's lock
    while True:
        library.sleep(3600)


def _skip_a_collective() -> None:
    """Nothing, while all others wait for this rank."""


def _exhaust_memory() -> None:
    held = []
    while True:
        held.append(b"x" * _CHUNK_BYTES)


def _raise_an_error() -> None:
    raise ValueError("the batch has no samples")


FAULTS: Mapping[str, Callable[[], None]] = {
    "hold_the_interpreter": _hold_the_interpreter,
    "skip_a_collective": _skip_a_collective,
    "exhaust_memory": _exhaust_memory,
    "raise_an_error": _raise_an_error,
}
