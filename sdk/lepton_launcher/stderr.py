"""What a rank writes to stderr: passed on as it comes, and its end remembered."""

from __future__ import annotations

import contextlib
import os
import re
import threading
import time
from collections import deque
from typing import TYPE_CHECKING

from lepton_launcher.records import plain_text

if TYPE_CHECKING:
    from pathlib import Path

_CHUNK_BYTES = 65536
_LINES = 200
_LINE_BYTES = 4096
_TRACEBACK = "Traceback (most recent call last):"
_RANK_PREFIX = re.compile(r"^\[rank\d+\]: ?")
# glog's lines, which torch's C++ threads write while a process that has failed is torn down.
_TORCH_LOG = re.compile(r"^\[[WIEF]\d{4} |^\[rank\d+\]:\[[WIEF]\d{4} ")
# What warnings.warn prints; the line of source that follows it is indented.
_WARNING = re.compile(r"^\S.*:\d+: \w*Warning: ")
_LINES_OF_AN_ERROR = 30
PEER_LOST = (
    r"(?i)connection (closed|reset) by peer|broken pipe|remote process exited|ncclRemoteError"
    r"|DistNetworkError|timed out waiting \d+ms"
)
"""How gloo, NCCL and torch's store tell that another rank is gone: for Python's re, and RE2."""


class RankStderr(threading.Thread):
    """The reading end of the named pipe that is one rank's stderr.

    A pipe and not a file: a rank that writes without end fills no disk.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(name=path.name, daemon=True)
        self._path = path
        self._lines: deque[bytes] = deque(maxlen=_LINES)
        self._open_line = b""
        self._traceback_at = float("inf")
        self._ended_at = float("inf")
        self.heard_at = 0.0
        os.mkfifo(path, 0o600)

    @property
    def failed_at(self) -> float:
        """When the last traceback began, or else the rank ended (monotonic seconds)."""
        return min(self._traceback_at, self._ended_at)

    def run(self) -> None:
        """Pass everything on until the rank and all that inherited its stderr have closed it."""
        pipe = os.open(self._path, os.O_RDONLY)
        with os.fdopen(pipe, "rb", buffering=0) as reader:
            while True:
                chunk = reader.read(_CHUNK_BYTES)
                if not chunk:
                    break
                self.heard_at = time.monotonic()
                self._remember(chunk)
                _pass_on(chunk)
        self._close_line()
        self._ended_at = time.monotonic()

    def close(self, timeout_seconds: float = 2) -> None:
        """Wait for the rest; a rank that never opened its pipe is not waited for."""
        with contextlib.suppress(OSError):
            os.close(os.open(self._path, os.O_WRONLY | os.O_NONBLOCK))
        self.join(timeout_seconds)

    def tail(self, limit_bytes: int) -> bytes:
        """The last lines, in at most so many bytes."""
        return b"\n".join(self._lines)[-limit_bytes:]

    def last_error_line(self) -> str:
        """What went wrong, in the rank's own words; empty if it wrote nothing."""
        return last_error_line([line.decode("utf-8", "replace") for line in self._lines])

    def _remember(self, chunk: bytes) -> None:
        first, *rest = re.split(rb"[\r\n]", chunk)
        self._open_line = (self._open_line + first[:_LINE_BYTES])[:_LINE_BYTES]
        for piece in rest:
            self._close_line()
            self._open_line = piece[:_LINE_BYTES]

    def _close_line(self) -> None:
        if self._open_line.strip():
            self._lines.append(self._open_line)
            if _TRACEBACK.encode() in self._open_line:
                self._traceback_at = time.monotonic()
        self._open_line = b""


def last_error_line(lines: list[str]) -> str:
    """The exception's line of a traceback at the end of these lines, else the last line.

    An exception's text may go on for lines that say less (CUDA's ends with advice on debugging),
    and torch logs broken connections after it; neither is the error, nor is a warning.
    """
    texts = _without_warnings([line for line in lines if not _TORCH_LOG.match(line)])
    starts = [index for index, text in enumerate(texts) if _TRACEBACK in text]
    after = texts[starts[-1] + 1 :] if starts else []
    error = [index for index, text in enumerate(after) if not text.startswith(" ")]
    if error and len(after) - error[0] <= _LINES_OF_AN_ERROR:
        said = after[error[0]].strip()
        following = after[error[0] + 1 : error[0] + 2]
        return " ".join([said, *(text.strip() for text in following if said.endswith(":"))])
    return texts[-1].strip() if texts else ""


def blames_a_peer(error_line: str) -> bool:
    """Whether a rank failed because another one was gone: then the other one is the cause."""
    return bool(re.search(PEER_LOST, error_line))


def _without_warnings(lines: list[str]) -> list[str]:
    kept: list[str] = []
    in_warning = False
    for line in lines:
        text = plain_text(_RANK_PREFIX.sub("", line))
        in_warning = bool(_WARNING.match(text)) or (in_warning and text.startswith(" "))
        if text.strip() and not in_warning:
            kept.append(text)
    return kept


def _pass_on(chunk: bytes) -> None:
    """Write to our own stderr; a rank must not stop because nobody listens there."""
    rest = memoryview(chunk)
    with contextlib.suppress(OSError):
        while rest:
            rest = rest[os.write(2, rest) :]
