"""The two kinds of store that tests run against: a folder, and a bucket of a real S3 server."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lepton_ai.store import Store, StoreAddress, open_store

COMMAND_SECONDS = 60


@dataclass(frozen=True)
class Ended:
    """What a command left behind."""

    code: int
    record: dict[str, Any]
    log: str


@dataclass(frozen=True)
class StoreUnderTest:
    """Where a store is, and the folder that lies under it."""

    location: str
    objects: Path
    work: Path

    def open(self, patience_seconds: float = 10) -> Store:
        if self.location.startswith("file://"):
            return open_store(StoreAddress(self.location), patience_seconds)
        return open_store(StoreAddress.from_folder(Path(self.location)), patience_seconds)

    @property
    def environment(self) -> dict[str, str]:
        message = str(self.work / "termination-log")
        return os.environ | {"LEPTON_STORE": self.location, "LEPTON_TERMINATION_LOG": message}

    def agent(self, *arguments: object) -> Ended:
        """Run one command of lepton-agent to its end."""
        message = self.work / "termination-log"
        message.unlink(missing_ok=True)
        done = subprocess.run(
            agent_command(*arguments),
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=COMMAND_SECONDS,
            check=False,
        )
        record = json.loads(message.read_bytes()) if message.exists() else {}
        return Ended(done.returncode, record, done.stderr)

    def json(self, path: str) -> Any:
        content = self.open().get(path)
        return None if content is None else json.loads(content)


def agent_command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "lepton_ai.agent", *map(str, arguments)]
