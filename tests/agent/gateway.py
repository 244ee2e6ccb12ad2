"""A real S3 server over a folder, as the embedded store runs it."""

from __future__ import annotations

import os
import resource
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from e2e.cluster.tools import tool

ACCESS_KEY = "lepton-tests"
SECRET_KEY = "0123456789abcdef0123456789abcdef"
START_SECONDS = 20


@dataclass(frozen=True)
class Gateway:
    port: int
    folder: Path

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def make_bucket(self, name: str) -> Path:
        bucket = self.folder / "data" / name
        bucket.mkdir(parents=True)
        return bucket

    def refuse_writes_above(self, size_bytes: int) -> None:
        """Let the server meet a full disk: no file of its grows beyond this; -1: as it was."""
        limits = (size_bytes, resource.RLIM_INFINITY)
        resource.prlimit(int((self.folder / "pid").read_text()), resource.RLIMIT_FSIZE, limits)

    @contextmanager
    def running(self) -> Iterator[Gateway]:
        process = self._start()
        try:
            self._wait_until_it_answers(process)
            (self.folder / "pid").write_text(str(process.pid))
            yield self
        finally:
            process.terminate()
            process.wait(START_SECONDS)

    def _start(self) -> subprocess.Popen[bytes]:
        for name in ("data", "iam"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        keys = {"ROOT_ACCESS_KEY": ACCESS_KEY, "ROOT_SECRET_KEY": SECRET_KEY}
        address = ["--port", f"127.0.0.1:{self.port}", "--iam-dir", str(self.folder / "iam")]
        with (self.folder / "log").open("ab") as log:
            return subprocess.Popen(
                [str(tool("versitygw")), *address, "posix", str(self.folder / "data")],
                env=os.environ | keys,
                stdout=log,
                stderr=log,
            )

    def _wait_until_it_answers(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            assert process.poll() is None, (self.folder / "log").read_text()
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.02)
        raise AssertionError((self.folder / "log").read_text())


def write_secret(folder: Path, **keys: str) -> Path:
    """Write what a mounted Secret looks like: one file a key."""
    folder.mkdir(parents=True)
    for name, value in keys.items():
        (folder / name).write_text(value)
    return folder
