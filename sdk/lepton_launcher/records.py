"""What a pod has to say when it ends: one line of JSON that always fits a termination message."""

from __future__ import annotations

import json
import math
import os
import re
import signal
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

Record = dict[str, Any]

LIMIT_BYTES = 2048
METRICS_FILE = "metrics.json"
"""What a script may leave in its output folder: a flat object of numbers."""
_MESSAGE_CHARACTERS = 1024
_SHORTEST_MESSAGE = 80
_METRICS_FILE_BYTES = 65536
_METRICS = 16
_METRIC_NAME_CHARACTERS = 48
_ESSENTIAL = (
    *("outcome", "reason", "message", "rank", "exitCode", "signal", "model"),
    *("attempt", "step", "furthest", "restarts", "repeated", "saved", "silentNode"),
)
_TERMINAL_COLOUR = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]")
_HIGHEST_EXIT_CODE = 255


def succeeded(metrics: dict[str, float]) -> Record:
    """Every rank of this pod ended with 0."""
    record: Record = {"outcome": "Succeeded", "reason": "Succeeded"}
    return {**record, "metrics": metrics} if metrics else record


def user_error(message: str, **facts: Any) -> Record:
    """The run ended by itself, and not well; `facts` are fields of the record."""
    return {"outcome": "Failed", "reason": "UserError", "message": message, **facts}


def out_of_memory(failed: Record) -> Record:
    """The same failure, of a rank that the kernel ended for its memory."""
    message = f"{failed['message']} The container's memory was used up."
    return {**failed, "reason": "OutOfMemory", "message": message}


def hang(message: str, **facts: Any) -> Record:
    """The ranks made no progress any more, and were ended for it."""
    return {"outcome": "Failed", "reason": "Hang", "message": message, **facts}


def partitioned(message: str, silent_node: int) -> Record:
    """The launchers of the gang lost each other, and the ranks were ended for it."""
    return {
        "outcome": "Failed",
        "reason": "Partitioned",
        "message": message,
        "silentNode": silent_node,
    }


def terminated(message: str) -> Record:
    """The pod was asked to leave before its ranks had ended."""
    return {
        "outcome": "Failed",
        "reason": "Terminated",
        "message": message,
        "signal": int(signal.SIGTERM),
    }


def saved(step: int) -> Record:
    """The ranks saved the step and left, as they were asked to: no success, and no failure."""
    message = f"Saved at step {step} and left, as it was asked to."
    return {"outcome": "Failed", "reason": "Saved", "message": message, "step": step}


def with_spent(record: Record, spent: Record) -> Record:
    """The record of the last generation, with what is to be told of those before it."""
    furthest = max(record.get("furthest", 0), spent.get("furthest", 0))
    reached = {"furthest": furthest} if furthest else {}
    told = {name: value for name, value in spent.items() if name != "saved" or not furthest}
    return {**record, **told, **reached}


def is_record(value: object) -> bool:
    """Whether a value that somebody else wrote can be taken for a record."""
    return (
        isinstance(value, dict)
        and value.get("outcome") in ("Succeeded", "Failed")
        and isinstance(value.get("reason"), str)
        and bool(value["reason"])
    )


def exit_code(record: Record) -> int:
    """0 only for a success; else the rank's own code, 128 + its signal, 75 if it saved, or 1."""
    if record["outcome"] == "Succeeded":
        return 0
    if record.get("reason") == "Saved":
        return os.EX_TEMPFAIL
    code, number = record.get("exitCode"), record.get("signal")
    if isinstance(code, int) and 0 < code <= _HIGHEST_EXIT_CODE:
        return code
    if isinstance(number, int) and 0 < number < signal.NSIG:
        return 128 + number
    return 1


def signal_name(number: int) -> str:
    """SIGKILL for 9; the bare number where the system has no name for it."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def plain_text(text: str) -> str:
    """The text as one printable line: no control characters, colours or broken characters."""
    whole = text.encode("utf-8", "replace").decode("utf-8")
    uncoloured = _TERMINAL_COLOUR.sub("", whole)
    return "".join(c if c.isprintable() else " " * c.isspace() for c in uncoloured)


def read_metrics(path: Path) -> dict[str, float]:
    """The numbers in a flat JSON object; nothing if it is missing or anything else."""
    try:
        with open(path, "rb", opener=_open_without_waiting) as file:
            found = json.loads(file.read(_METRICS_FILE_BYTES) or b"")
    except (OSError, ValueError, RecursionError):
        return {}
    if not isinstance(found, dict) or not all(_is_finite(value) for value in found.values()):
        return {}
    kept = list(found.items())[:_METRICS]
    return {plain_text(name)[:_METRIC_NAME_CHARACTERS]: value for name, value in kept}


def _open_without_waiting(path: str, flags: int) -> int:
    # A script may have left a pipe there, which would wait for somebody to write.
    return os.open(path, flags | os.O_NONBLOCK)


def to_line(record: Record) -> bytes:
    """The record as JSON of at most LIMIT_BYTES: details go before the beginning of its message."""
    fitting: Record = _plain(record)
    message = fitting.get("message")
    whole = message[:_MESSAGE_CHARACTERS] if isinstance(message, str) else ""

    def with_message(characters: int) -> Record:
        return {**fitting, "message": whole[:characters]} if whole else fitting

    for key in [key for key in fitting if key not in _ESSENTIAL]:
        if len(_encode(with_message(_SHORTEST_MESSAGE))) > LIMIT_BYTES:
            del fitting[key]
    line = _encode(with_message(_most_that_fits(with_message, len(whole))))
    if len(line) <= LIMIT_BYTES:
        return line
    return _encode({"outcome": fitting["outcome"], "reason": fitting["reason"][:64]})


def _most_that_fits(shorten: Callable[[int], Record], most: int) -> int:
    """The largest size up to `most` that fits the limit; 0 if none does."""
    low, high = 0, most
    while low < high:
        middle = (low + high + 1) // 2
        if len(_encode(shorten(middle))) <= LIMIT_BYTES:
            low = middle
        else:
            high = middle - 1
    return low


def _encode(record: Record) -> bytes:
    return json.dumps(record, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()


def _plain(value: Any) -> Any:
    if isinstance(value, str):
        return plain_text(value)
    if isinstance(value, dict):
        return {plain_text(str(key)): _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _is_finite(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:
        return False
