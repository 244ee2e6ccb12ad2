"""The operator as a process that can be killed at any moment, and is back at once."""

from __future__ import annotations

import asyncio
import json
import os
import re
import select
import signal
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from tests.resilience.proxy import Door, FaultProxy

SYSTEM_NAMESPACE = "lepton-system"
_READY_SECONDS = 60.0
_END_SECONDS = 10.0
_POLL_SECONDS = 0.02
_OK = 200
_LEADING = 'leader_election_master_status{name="lepton-operator"} 1.0'
_WORK = re.compile(r"^workqueue_(?:depth|unfinished_work_seconds)\{.*\} (.+)$", re.MULTILINE)

# A restarted container keeps its pod's UID, so the Lease is still its own (ADR: the identity).
_POD_UID = "11111111-2222-3333-4444-555555555555"


@dataclass(frozen=True, slots=True)
class Setup:
    """What every start has in common."""

    folder: Path
    settings: Path
    http_port: int
    token: str


class Operator:
    """One operator at a time, behind the proxy; each start has a log of its own."""

    def __init__(self, setup: Setup, proxy: FaultProxy, nursery: Process) -> None:
        self._setup = setup
        self._proxy = proxy
        self._nursery = nursery
        self._pid: int | None = None
        self._door: Door | None = None
        self._restarting: asyncio.Task[None] | None = None
        self.starts = 0
        self.ready_at = 0.0  # time.monotonic() of when the newest start had listed everything

    async def start(self) -> None:
        """Start it, and wait until it has listed everything."""
        self.starts += 1
        self._door = await self._proxy.open_door()
        order = {
            "arguments": self._arguments(self._door),
            "environment": {"POD_UID": _POD_UID, "POD_NAMESPACE": SYSTEM_NAMESPACE},
            "log": str(self._log(self.starts)),
        }
        self._pid = await self._fork(order)
        await self._wait_until_ready()

    def kill(self) -> None:
        """SIGKILL, and wait until it is dead: from here on nothing of it reaches the API server."""
        if self._pid is None:
            return
        with suppress(ProcessLookupError):
            handle = os.pidfd_open(self._pid)
            signal.pidfd_send_signal(handle, signal.SIGKILL)
            poll = select.poll()
            poll.register(handle, select.POLLIN)
            poll.poll(_END_SECONDS * 1000)
            os.close(handle)
        self._pid = None
        if self._door is not None:
            self._door.slam()

    @property
    def _url(self) -> str:
        return f"http://127.0.0.1:{self._setup.http_port}"

    @property
    def runs(self) -> bool:
        return self._pid is not None

    def kill_and_restart(self) -> None:
        """Kill it; the next one is started at once."""
        self.kill()
        self._restarting = asyncio.create_task(self.start())

    async def restarted(self) -> None:
        """Wait for the restart that is on its way, if there is one; raises what went wrong."""
        if self._restarting is not None:
            await self._restarting
            self._restarting = None

    async def is_idle(self) -> bool:
        """Whether it has nothing to do; what it was told before it is asked is in its queue."""
        if not self.runs:
            return True
        try:
            async with (
                aiohttp.ClientSession() as session,
                session.get(f"{self._url}/metrics") as metrics,
            ):
                return not any(map(float, _WORK.findall(await metrics.text())))
        except aiohttp.ClientError:
            return False

    def log_from_now(self) -> Log:
        """Return what is logged from now on, over all starts."""
        path = self._log(self.starts)
        return Log(self, self.starts, path.stat().st_size if path.exists() else 0)

    def logs(self, start: int) -> Iterator[Path]:
        """Yield the logs from this start on."""
        paths = (self._log(number) for number in range(start, self.starts + 1))
        yield from (path for path in paths if path.exists())

    async def _fork(self, order: Mapping[str, object]) -> int:
        nursery = self._nursery
        if nursery.stdin is None or nursery.stdout is None:
            raise RuntimeError("The nursery must be started with pipes.")
        nursery.stdin.write(json.dumps(order).encode() + b"\n")
        await nursery.stdin.drain()
        return int(await nursery.stdout.readline())

    async def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + _READY_SECONDS
        async with aiohttp.ClientSession() as session:
            while not await _leads(session, self._url):
                if time.monotonic() > deadline:
                    tail = Log(self, self.starts, 0).last_lines(30)
                    raise TimeoutError(f"No operator was ready after {_READY_SECONDS} s:\n{tail}")
                await asyncio.sleep(_POLL_SECONDS)
        self.ready_at = time.monotonic()

    def _arguments(self, door: Door) -> list[str]:
        kubeconfig = self._setup.folder / f"operator-{self.starts}.kubeconfig"
        kubeconfig.write_text(json.dumps(_kubeconfig(door.url, self._setup.token)))
        return ["run", "--settings", str(self._setup.settings), "--kubeconfig", str(kubeconfig)]

    def _log(self, number: int) -> Path:
        return self._setup.folder / f"operator-{number}.log"


@dataclass(frozen=True, slots=True)
class Log:
    """What an operator and those that took its place wrote, from a place in the first log on."""

    operator: Operator
    start: int
    offset: int

    def last_lines(self, count: int) -> str:
        return "\n".join(self._lines()[-count:])

    def errors(self) -> list[str]:
        return [line for line in self._lines() if " level=error " in line]

    def _lines(self) -> list[str]:
        text = b"\n".join(path.read_bytes() for path in self.operator.logs(self.start))
        return text[self.offset :].decode(errors="replace").splitlines()


async def nursery(module: str) -> Process:
    """Return a process that forks operators; it ends when its standard input is closed."""
    return await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "tests.resilience.nursery", module),
        stdin=PIPE,
        stdout=PIPE,
    )


async def _leads(session: aiohttp.ClientSession, url: str) -> bool:
    """Whether it holds the Lease and has listed everything; a standby that has is ready too."""
    try:
        async with session.get(f"{url}/metrics") as metrics:
            if _LEADING not in await metrics.text():
                return False
        async with session.get(f"{url}/readyz") as answer:
            return answer.status == _OK
    except aiohttp.ClientError:
        return False


def _kubeconfig(server: str, token: str) -> dict[str, object]:
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "proxy", "cluster": {"server": server}}],
        "users": [{"name": "operator", "user": {"token": token}}],
        "contexts": [{"name": "proxy", "context": {"cluster": "proxy", "user": "operator"}}],
        "current-context": "proxy",
    }
