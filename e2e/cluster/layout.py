"""Where a cluster's files lie, and the locks that keep two callers apart."""

from __future__ import annotations

import fcntl
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CLUSTERS = Path("/var/lib/lepton-operator/clusters")
SOCKETS = Path("/run/lepton")
"""Paths of Unix sockets end at 107 bytes, so they start here and not in the state folder."""
LOCKS = SOCKETS / ".locks"

_NAME = re.compile(r"[a-z]([a-z0-9-]{0,18}[a-z0-9])?")


class ClusterError(Exception):
    """Its message is a sentence: what is wrong, why, and what to do next."""


class PartEndedError(ClusterError):
    """A process of the cluster ended while others waited for it; another start may mend that."""


def cache_folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "lepton-operator"


@dataclass(frozen=True)
class Layout:
    name: str
    state: Path
    run: Path

    @classmethod
    def of(cls, name: str) -> Layout:
        if not _NAME.fullmatch(name):
            raise ClusterError(
                f"{name!r} cannot be a cluster's name: it takes 1 to 20 small letters, digits and "
                "hyphens, beginning with a letter."
            )
        return cls(name, CLUSTERS / name, SOCKETS / name)

    @property
    def spec(self) -> Path:
        return self.state / "spec.json"

    @property
    def kubeconfig(self) -> Path:
        return self.state / "kubeconfig"

    @property
    def logs(self) -> Path:
        return self.state / "logs"

    @property
    def pki(self) -> Path:
        return self.state / "pki"

    @property
    def config(self) -> Path:
        return self.state / "config"

    @property
    def records(self) -> Path:
        return self.state / "processes"

    @property
    def nodes(self) -> Path:
        return self.state / "nodes"

    @property
    def store(self) -> Path:
        return self.state / "store"

    @property
    def audit_log(self) -> Path:
        return self.logs / "audit.log"

    def audit_events(self) -> Iterator[dict[str, Any]]:
        """Yield every write that the API server has logged, as an audit.k8s.io/v1 Event.

        The last line may just be half written: it is left for the next look.
        """
        with self.audit_log.open() as lines:
            for line in lines:
                if not line.endswith("\n"):
                    return
                yield json.loads(line)

    def make_folders(self) -> None:
        for folder in (self.state, self.pki):
            folder.mkdir(parents=True, exist_ok=True)
            folder.chmod(0o700 if folder == self.pki else 0o755)
        for folder in (self.logs, self.config, self.records, self.nodes, self.store, self.run):
            folder.mkdir(parents=True, exist_ok=True)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """One `up` or `down` of a cluster at a time."""
        with lock(LOCKS / f"{self.name}.lock"):
            yield


def names() -> list[str]:
    """The clusters that have a state folder, whole or not."""
    return sorted(folder.name for folder in CLUSTERS.glob("[a-z]*") if folder.is_dir())


@contextmanager
def lock(path: Path, waiting: str = "") -> Iterator[None]:
    """Hold the lock of a file; it ends with the process, so a kill leaves none behind."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if waiting:
                print(waiting, flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def write(path: Path, text: str, mode: int = 0o600) -> None:
    """Write a file at once or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text)
    temporary.chmod(mode)
    temporary.rename(path)
