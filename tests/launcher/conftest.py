from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from e2e.cluster.ports import free_port
from lepton_launcher.archive import write_zipapp

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# It bounds a failure, not a speed: on two busy cores a gang of three, which is a dozen
# interpreters, takes half a minute to start.
DEADLINE_SECONDS = 60
ATTEMPT = {"attempt": 1, "nodeRank": 0, "numNodes": 1, "address": "127.0.0.1", "port": 29401}

TORCH = {
    "torch/__init__.py": "",
    "torch/distributed/__init__.py": "",
    "torch/distributed/elastic/__init__.py": "",
    "torch/distributed/elastic/multiprocessing/__init__.py": "",
    "torch/distributed/elastic/multiprocessing/errors.py": """
class ChildFailedError(Exception):
    def __init__(self, failures):
        self.failures = failures
""",
    "torch/distributed/elastic/multiprocessing/api.py": """
class PContext:
    def close(self, *arguments, **keywords): ...
""",
    "torch/distributed/launcher/__init__.py": "",
    "torch/distributed/launcher/api.py": """
import dataclasses, os, subprocess, time, types
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
@dataclasses.dataclass
class LaunchConfig:
    min_nodes: int
    max_nodes: int
    nproc_per_node: int
    run_id: str
    rdzv_backend: str
    rdzv_endpoint: str
    rdzv_configs: dict
    max_restarts: int
    monitor_interval: float
    log_dir: str
def launch_agent(config, program, arguments):
    rank = str(config.rdzv_configs["rank"])
    environment = {**os.environ, "RANK": rank, "LOCAL_RANK": "0"}
    code = subprocess.run([program, *arguments], env=environment).returncode
    if code:
        failed = types.SimpleNamespace(local_rank=0, exitcode=code, timestamp=int(time.time()))
        raise ChildFailedError({int(rank): failed})
""",
}


def wait_until(condition: Callable[[], Any], what: str) -> Any:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not (found := condition()):
        assert time.monotonic() < deadline, f"waited {DEADLINE_SECONDS} s for {what}"
        time.sleep(0.01)
    return found


class Pod:
    """A launcher in a process of its own; the test writes what sidecar and operator would."""

    def __init__(self, folder: Path, launcher: Path) -> None:
        self.folder = folder
        self.exchange = folder / "exchange"
        self.output = folder / "output"
        self.attempt_file = folder / "attempt"
        self.message_file = folder / "termination-log"
        self._launcher = launcher
        self._process: subprocess.Popen[bytes] | None = None
        self.exchange.mkdir()
        (folder / "tmp").mkdir()
        self.attempt_file.touch()

    def script(self, source: str) -> str:
        path = self.folder / "train.py"
        path.write_text(source)
        return str(path)

    def run(self, *entrypoint: str, options: tuple[str, ...] = (), through: Any = ()) -> Pod:
        files = {
            "--exchange": self.exchange,
            "--attempt-file": self.attempt_file,
            "--output": self.output,
            "--termination-message": self.message_file,
        }
        arguments = [str(part) for pair in files.items() for part in pair]
        command = [*through, sys.executable, str(self._launcher), "run", *arguments, *options]
        with (self.folder / "stdout").open("wb") as out, (self.folder / "stderr").open("wb") as err:
            self._process = subprocess.Popen(
                [*command, "--", *entrypoint],
                stdout=out,
                stderr=err,
                env={**os.environ, "TMPDIR": str(self.folder / "tmp")},
            )
        return self

    @property
    def process(self) -> subprocess.Popen[bytes]:
        assert self._process is not None
        return self._process

    @property
    def stderr(self) -> bytes:
        return (self.folder / "stderr").read_bytes()

    @property
    def stdout(self) -> bytes:
        return (self.folder / "stdout").read_bytes()

    def put(self, name: str, content: Any) -> None:
        text = content if isinstance(content, bytes) else json.dumps(content).encode()
        unfinished = self.exchange / f".{name}"
        unfinished.write_bytes(text)
        unfinished.replace(self.exchange / name)

    def begin(self, **told: Any) -> Pod:
        """The sidecar has found nothing, and the operator tells the attempt."""
        self.put("start.json", {"found": None})
        self.attempt_file.write_text(json.dumps({**ATTEMPT, **told}))
        return self

    def record(self) -> dict[str, Any]:
        path = self.exchange / "record.json"
        wait_until(lambda: path.exists() or self.process.poll() is not None, "record.json")
        record: dict[str, Any] = json.loads(path.read_bytes())
        return record

    def agree(self) -> Pod:
        """The sidecar answers with the launcher's own record."""
        self.put("answer.json", self.record())
        return self

    def wait(self) -> int:
        return self.process.wait(DEADLINE_SECONDS)

    def message(self) -> dict[str, Any]:
        """What the kubelet would read, once the launcher has ended."""
        self.wait()
        line = self.message_file.read_bytes()
        assert len(line) <= 2048
        message: dict[str, Any] = json.loads(line)
        return message

    def ask_to_leave(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    def wait_for_file(self, name: str) -> str:
        path = self.output / name
        return str(wait_until(lambda: path.exists() and path.read_text(), name))


@pytest.fixture(scope="session")
def launcher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("launcher") / "launcher.pyz"
    write_zipapp(path)
    return path


@pytest.fixture
def pod(tmp_path: Path, launcher: Path) -> Iterator[Pod]:
    made = Pod(tmp_path, launcher)
    yield made
    end(made)


@pytest.fixture
def gang(
    tmp_path: Path, launcher: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., list[Pod]]]:
    """Three launchers that know each other, each with one rank."""
    for name, source in TORCH.items():
        path = tmp_path / "site" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"))
    made: list[Pod] = []

    def start(source: str, *more: str) -> list[Pod]:
        told = {"numNodes": 3, "gangPort": free_port(), "token": "of this gang"}
        for rank in range(3):
            folder = tmp_path / str(rank)
            folder.mkdir()
            pod = Pod(folder, launcher)
            options = ("--num-nodes", "3", "--node-rank", str(rank), *more)
            pod.run(pod.script(source), options=options).begin(**told, nodeRank=rank)
            made.append(pod)
        return made

    yield start
    for pod in made:
        end(pod)


def end(made: Pod) -> None:
    """End a launcher that a test has left."""
    if made.process.poll() is None:
        # Without its PID 1 a pod's other processes end too; here nobody else would end the ranks.
        for pid in (made.process.pid, *_descendants(made.process.pid)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        made.process.wait()


def _descendants(pid: int) -> list[int]:
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except FileNotFoundError:
        return []
    return [each for child in map(int, children) for each in (child, *_descendants(child))]
