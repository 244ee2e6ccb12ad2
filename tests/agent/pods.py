"""A training pod as its sidecar sees it; the test plays the launcher."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.request import urlopen

from e2e.cluster.ports import free_port
from tests.agent.stores import COMMAND_SECONDS, StoreUnderTest, agent_command

UID = "5b1f0f4e-6a53-4c1a-9d53-1f3f6f6a2b10"
IMAGE_ID = f"registry.example/trainer@sha256:{'ab' * 32}"
SUCCEEDED = {"outcome": "Succeeded", "reason": "Succeeded"}
KILL_SECONDS = 10

AnyFound = Any


def wait_until(condition: Callable[[], AnyFound], what: str) -> AnyFound:
    deadline = time.monotonic() + COMMAND_SECONDS
    while not (found := condition()):
        assert time.monotonic() < deadline, f"waited {COMMAND_SECONDS} s for {what}"
        time.sleep(0.01)
    return found


@dataclass
class SidecarPod:
    folder: Path
    process: subprocess.Popen[bytes]
    port: int

    @property
    def output(self) -> Path:
        return self.folder / "output"

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text()

    def read(self, name: str) -> Any:
        file = self.folder / "exchange" / name
        return json.loads(file.read_bytes()) if file.exists() else None

    def start(self) -> Any:
        """Return the finished record that the sidecar found."""
        return self._wait_for("start.json")["found"]

    def end(self, record: dict[str, Any]) -> None:
        """Hand over a record, as the launcher does."""
        unfinished = self.folder / "exchange" / ".record.json"
        unfinished.write_text(json.dumps(record))
        unfinished.rename(self.folder / "exchange" / "record.json")

    def get(self, path: str) -> str:
        """Return what the sidecar answers over HTTP; raises OSError until it does."""
        with urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=COMMAND_SECONDS) as answer:
            return str(answer.read().decode())

    def answer(self) -> Any:
        return self._wait_for("answer.json")

    def _wait_for(self, name: str) -> Any:
        def written() -> Any:
            assert self.process.poll() is None, self.log
            return self.read(name)

        return wait_until(written, name)


@contextmanager
def sidecar(
    store: StoreUnderTest,
    folder: Path,
    *,
    attempt: int = 1,
    rank: int = 0,
    model: str | None,
    patterns: Mapping[str, str] | None = None,
    checkpoint_uri: str | None = None,
) -> Iterator[SidecarPod]:
    (folder / "output").mkdir(parents=True, exist_ok=True)
    who = ["--namespace", "team", "--job", "digits", "--uid", UID]
    port = free_port()
    where = ["--port", port, "--attempt", attempt, "--rank", rank, "--shared", folder]
    (folder / "image-id").write_text(IMAGE_ID)
    given = ["--image", "trainer:1", "--entrypoint", '["-m","recipe"]']
    given += ["--image-id-file", str(folder / "image-id")]
    handed = ["--model", model, "--max-opset", 21, "--max-ir", 10, *given] if model else []
    told = ["--patterns", json.dumps(patterns)] if patterns else []
    told += ["--checkpoint-uri", checkpoint_uri] if checkpoint_uri else []
    command = agent_command("sidecar", *who, *where, *handed, *told)
    with (folder / "log").open("ab") as log:
        process = subprocess.Popen(command, env=store.environment, stdout=log, stderr=log)
    try:
        yield SidecarPod(folder, process, port)
    finally:
        process.kill()
        process.wait(KILL_SECONDS)
