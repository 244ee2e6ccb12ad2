"""The duties of PID 1: hear signals, reap every child, leave no process behind."""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

Found = TypeVar("Found")

_POLL_SECONDS = 0.02
_LOOK_SECONDS = 0.2
_KILL_SECONDS = 5.0
_PR_SET_CHILD_SUBREAPER = 36


class Signals:
    """Signals as wake-ups of one select call, so that an idle launcher takes no CPU time."""

    def __init__(self) -> None:
        # Two fields: a signal may come while the main thread is in any line of these methods.
        self._asked_at: float | None = None
        self._asked_for_others_at: float | None = None
        self._is_told: Callable[[], bool] = lambda: False
        self._looked_at = 0.0
        self._wakeups, self._write = os.pipe()
        os.set_blocking(self._wakeups, False)
        os.set_blocking(self._write, False)

    @property
    def asked_to_leave_at(self) -> float | None:
        """Since when this process is asked to leave (monotonic seconds)."""
        if self._asked_at is None and time.monotonic() - self._looked_at > _LOOK_SECONDS:
            self._looked_at = time.monotonic()
            if self._is_told():
                self.ask_to_leave()
        asked = (self._asked_for_others_at, self._asked_at)
        return min((each for each in asked if each is not None), default=None)

    def also_heed(self, is_told: Callable[[], bool]) -> None:
        """Take it for a request to leave, too, when this becomes true."""
        self._is_told = is_told

    def ask_to_leave(self, *, for_others: bool = False) -> None:
        """Do as if a signal had come; `for_others`: another pod of the gang leaves."""
        if for_others:
            self._asked_for_others_at = self._asked_for_others_at or time.monotonic()
        else:
            self._asked_at = self._asked_at or time.monotonic()

    @property
    def is_asked_for_others(self) -> bool:
        """Whether the ranks are to leave, and this pod need not."""
        return self._asked_for_others_at is not None and self._asked_at is None

    def stay(self) -> None:
        """The ranks have left: what was asked for others is done."""
        self._asked_for_others_at = None

    def listen(self) -> None:
        """Take over SIGTERM, SIGINT and SIGHUP (all ask to leave) and SIGCHLD."""
        signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, lambda _number, _frame: self.ask_to_leave())
        signal.signal(signal.SIGCHLD, lambda _number, _frame: None)

    def pause(self, timeout_seconds: float | None) -> None:
        """Return at the next signal, at once if one came since the last pause, or in time."""
        select.select([self._wakeups], [], [], timeout_seconds)
        with contextlib.suppress(BlockingIOError):
            os.read(self._wakeups, 4096)


class Children:
    """The child that runs the ranks, and every orphan that the kernel hands to this process."""

    def __init__(self, signals: Signals) -> None:
        self._signals = signals
        self._child: subprocess.Popen[bytes] | None = None
        if sys.platform == "linux":
            # Orphans come to PID 1 by themselves; below another init they must be asked for.
            ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)

    @property
    def status(self) -> int | None:
        """The child's exit code, minus its signal if one killed it, None while it lives."""
        return self._child.returncode if self._child else None

    def start(self, command: list[str], environment: dict[str, str]) -> None:
        """Start the child in a session of its own: a terminal's Ctrl-C reaches only us."""
        self._child = subprocess.Popen(command, env=environment, start_new_session=True)

    def terminate(self) -> None:
        """Ask the child's whole process group to leave."""
        if self._child and self.status is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._child.pid, signal.SIGTERM)

    def reap(self) -> None:
        """Collect every child that has ended, ours or adopted."""
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    return
                if self._child and pid == self._child.pid:
                    self._child.returncode = _exit_status(status)

    def kill_all(self) -> None:
        """Kill whatever lives below this process; orphans are adopted and killed in turn."""
        if self._child and self.status is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._child.pid, signal.SIGKILL)
        deadline = time.monotonic() + _KILL_SECONDS
        self.reap()
        while time.monotonic() < deadline and (children := _children_of(os.getpid())):
            for pid in children:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)
            self._signals.pause(_POLL_SECONDS)
            self.reap()

    def wait_for(
        self, look: Callable[[], Found | None], until: Callable[[], float]
    ) -> Found | None:
        """What `look` finds; None once the monotonic time that `until` tells has come."""
        while (found := look()) is None and time.monotonic() < until():
            self._signals.pause(_POLL_SECONDS)
            self.reap()
        return found


def _exit_status(status: int) -> int:
    return -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)


def _children_of(parent: int) -> list[int]:
    """Direct children, by /proc; none where there is no /proc."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, IndexError):
            # The second field is the command in brackets, and may itself hold brackets and spaces.
            after_command = (folder / "stat").read_bytes().rpartition(b")")[2].split()
            if int(after_command[1]) == parent:
                found.append(int(folder.name))
    return found
