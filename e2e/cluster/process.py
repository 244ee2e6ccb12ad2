"""Processes that outlive the command that starts them."""

from __future__ import annotations

import json
import os
import select
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from e2e.cluster.cgroup import Cgroup
from e2e.cluster.layout import PartEndedError, write

_END_SECONDS = 10.0
DIE_WITH_PARENT = ("setpriv", "--pdeathsig=KILL", "--")
"""Before a command that must not go on alone when the one that runs it is killed."""
_ENTER_GROUPS = 'while [ "$1" != -- ]; do echo $$ > "$1"; shift; done; shift; exec "$@"'


@dataclass(frozen=True)
class Daemon:
    """A process that is known by its pid together with its start time.

    A pid alone may by now be somebody else's; with the time it started, and the boot that this
    time counts from, it is unique.
    """

    name: str
    argv: tuple[str, ...]
    log: Path
    record: Path
    cgroup: Cgroup | None = None
    environment: dict[str, str] = field(default_factory=dict)
    prefix: tuple[str, ...] = ()

    def ensure(self) -> bool:
        """Start it unless it runs with just these arguments; true if it was started."""
        recorded = self._recorded()
        if self.running():
            if recorded.get("argv") == [*self.prefix, *self.argv]:
                return False
            self.stop()
        self._kill_leftovers()
        self._start()
        return True

    def running(self) -> bool:
        recorded = self._recorded()
        return (
            bool(recorded)
            and recorded["boot"] == boot_id()
            and recorded["started"] is not None  # else it ended before it was looked at
            and recorded["started"] == started_ticks(recorded["pid"])
        )

    def began(self) -> datetime:
        """The second in which it was started last."""
        return datetime.fromtimestamp(int(self.record.stat().st_mtime), UTC)

    @property
    def pid(self) -> int | None:
        return int(self._recorded()["pid"]) if self.running() else None

    def stop(self, grace_seconds: float = _END_SECONDS) -> None:
        """SIGTERM, then SIGKILL for what has not ended after the grace."""
        with self._held() as handle:
            if handle is not None:
                signal.pidfd_send_signal(handle, signal.SIGTERM)
                if not _ended(handle, grace_seconds):
                    signal.pidfd_send_signal(handle, signal.SIGKILL)
                    _ended(handle, grace_seconds)
        self._forget()

    def kill(self) -> None:
        with self._held() as handle:
            if handle is not None:
                signal.pidfd_send_signal(handle, signal.SIGKILL)
                _ended(handle, _END_SECONDS)
        self._forget()

    def check(self) -> None:
        """Raise PartEndedError, with the end of the log, unless it runs."""
        if not self.running():
            raise PartEndedError(
                f"{self.name} ended while it started; its log ({self.log}) ends with:\n"
                f"{self.last_lines()}"
            )

    def last_lines(self, count: int = 8) -> str:
        """The end of its log, for an error message."""
        if not self.log.exists():
            return "(no log)"
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-count:])

    def _start(self) -> None:
        self.log.parent.mkdir(parents=True, exist_ok=True)
        if self.cgroup:
            self.cgroup.create()
        argv = [*self.prefix, *self.argv]
        groups = self.cgroup.member_files() if self.cgroup else []
        log_flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        pid = os.posix_spawn(
            "/bin/sh",
            ["sh", "-c", _ENTER_GROUPS, "sh", *groups, "--", *argv],
            {"PATH": os.environ["PATH"], "HOME": "/root", **self.environment},
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, str(self.log), log_flags, 0o644),
                (os.POSIX_SPAWN_DUP2, 1, 2),
            ],
            setsid=True,
        )
        record = {"pid": pid, "started": started_ticks(pid), "boot": boot_id(), "argv": argv}
        write(self.record, json.dumps(record))

    def _recorded(self) -> dict[str, Any]:
        with suppress(FileNotFoundError, json.JSONDecodeError):
            return dict(json.loads(self.record.read_text()))
        return {}

    def _kill_leftovers(self) -> None:
        """End what would hold its ports and locks against a new one.

        A caller that was killed between start and record left a process without a record, and one
        that was just killed takes a moment to end.
        """
        deadline = time.monotonic() + _END_SECONDS
        while (leftovers := self._leftovers()) and time.monotonic() < deadline:
            for pid in leftovers:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.01)

    def _leftovers(self) -> list[int]:
        """Of its group those that run its program, or run none any more because they are ending."""
        program = Path(self.argv[0]).resolve()
        members = self.cgroup.processes() if self.cgroup else set()
        return [pid for pid in members if _program(pid) in {program, None}]

    @contextmanager
    def _held(self) -> Iterator[int | None]:
        """A pidfd of the process: it goes on meaning this process whatever becomes of its pid."""
        handle = None
        recorded = self._recorded()
        if recorded:
            with suppress(ProcessLookupError):
                handle = os.pidfd_open(recorded["pid"])
        try:
            yield handle if self.running() else None
        finally:
            if handle is not None:
                os.close(handle)

    def _forget(self) -> None:
        recorded = self._recorded()
        if recorded:
            with suppress(ChildProcessError):
                os.waitpid(recorded["pid"], os.WNOHANG)
        self.record.unlink(missing_ok=True)


def _program(pid: int) -> Path | None:
    try:
        return Path(f"/proc/{pid}/exe").readlink()
    except OSError:
        return None


def boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def started_ticks(pid: int) -> int | None:
    """When a process started, in clock ticks since boot; None if there is no such process."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    state, *rest = stat.rpartition(")")[2].split()
    return None if state in "ZX" else int(rest[18])


def _ended(handle: int, seconds: float) -> bool:
    poll = select.poll()
    poll.register(handle, select.POLLIN)
    return bool(poll.poll(seconds * 1000))
