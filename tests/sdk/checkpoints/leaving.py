"""A gang of real launchers, torchrun's agents and ranks that is asked to leave.

Runs where torch is: `python leaving.py` inside the trainer image. Each pod is a folder and a
launcher; the test writes what sidecar and operator would.
"""

# ruff: noqa: PT009

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import unittest
from collections.abc import Callable, Mapping
from pathlib import Path
from socket import create_server
from typing import Any

NODES = 3
LONGEST_SECONDS = 240.0  # bounds a failure: to start a gang took 95 s on busy cores
GRACE_SECONDS = 10 * LONGEST_SECONDS  # who would use it up is found out

SAVES = """
import time, torch
from torch import distributed as dist
import lepton_ai as lai
dist.init_process_group("gloo")
torch.manual_seed(0)
model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(4, 1))
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
with lai.checkpoints.Checkpointer(
    model=model, optimizer=optimizer, interval_seconds=1000
) as checkpointer:
    step = checkpointer.restore()
    print("begins at", step, flush=True)
    while step < 100_000:
        time.sleep(0.02)
        optimizer.zero_grad()
        model(torch.ones(2, 4)).sum().backward()
        optimizer.step()
        step += 1
        checkpointer.step(step)
"""
PLAIN = """
import os, pathlib, signal, sys, time, torch
from torch import distributed as dist
dist.init_process_group("gloo")
wants = []
signal.signal(signal.SIGUSR1, lambda *_: wants.append(1))
output = pathlib.Path(os.environ["LEPTON_OUTPUT_DIR"])
step = 0
while True:
    time.sleep(0.02)
    step += 1
    asked = torch.tensor(len(wants))
    dist.all_reduce(asked)
    pathlib.Path(os.environ["LEPTON_STEP_FILE"]).write_text(str(step))
    if asked == dist.get_world_size():
        (output / "saved").write_text(f"{step} {os.environ['LEPTON_GRACE_SECONDS']}")
        dist.destroy_process_group()
        sys.exit(0)
"""


def free_port() -> int:
    with create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
    return port


def wait_until(look: Callable[[], Any], what: str) -> Any:
    deadline = time.monotonic() + LONGEST_SECONDS
    while not (found := look()):
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {LONGEST_SECONDS:.0f} s for {what}")
        time.sleep(0.05)
    return found


class Pod:
    """One node of the gang."""

    def __init__(
        self, folder: Path, told: Mapping[str, Any], environment: Mapping[str, str]
    ) -> None:
        self.folder = folder
        self.exchange, self.output = folder / "exchange", folder / "output"
        self.exchange.mkdir(parents=True)
        self._attempt = folder / "attempt"
        self._told = told
        self._attempt.write_text(json.dumps(told))
        (self.exchange / "start.json").write_text('{"found": null}')
        self._environment = {**os.environ, **environment, "TMPDIR": str(folder)}

    def start(self, script: Path, *options: str) -> None:
        self._log = (self.folder / "log").open("wb")
        files = {
            "--exchange": self.exchange,
            "--attempt-file": self._attempt,
            "--output": self.output,
            "--termination-message": self.folder / "message",
        }
        places = [str(part) for pair in files.items() for part in pair]
        who = [f"--num-nodes={NODES}", f"--node-rank={self._told['nodeRank']}"]
        number = f"--attempt={self._told['attempt']}"
        command = [sys.executable, "-m", "lepton_launcher", "run", *places, *who, number, *options]
        self.process = subprocess.Popen(
            [*command, "--", str(script)],
            stdout=self._log,
            stderr=subprocess.STDOUT,
            env=self._environment,
        )

    def log(self) -> str:
        return (self.folder / "log").read_text(errors="replace")

    def waits(self) -> bool:
        return "Waiting for the next one" in self.log()

    def step(self) -> int:
        try:
            told = json.loads((self.exchange / "progress.json").read_bytes())
        except (OSError, ValueError):
            return 0
        return int(told.get("step", 0))

    def ask_by_signal(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    def ask_in_the_annotation(self) -> None:
        self._attempt.write_text(json.dumps({**self._told, "leave": True}))

    def asked(self) -> Path | None:
        """Return what names the step to leave at, if the launcher has asked the ranks."""
        file = self.exchange / "save"
        return file if file.exists() else None

    def message(self) -> dict[str, Any]:
        """The record, which the sidecar would answer with."""
        record = self.exchange / "record.json"
        wait_until(record.exists, f"the record of {self.folder}: {self.log()}")
        (self.exchange / ".answer").write_bytes(record.read_bytes())
        (self.exchange / ".answer").replace(self.exchange / "answer.json")
        self.process.wait(LONGEST_SECONDS)
        found: dict[str, Any] = json.loads((self.folder / "message").read_bytes())
        return found

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            self.process.wait(LONGEST_SECONDS)
        self._log.close()


class LeavingTest(unittest.TestCase):
    def setUp(self) -> None:
        temporary = tempfile.TemporaryDirectory(prefix="lepton-test-", ignore_cleanup_errors=True)
        self.addCleanup(temporary.cleanup)
        self.folder = Path(temporary.name)

    def gang(self, number: int, source: str, *options: str) -> list[Pod]:
        """Start an attempt; return its pods."""
        script = self.folder / "train.py"
        script.write_text(source)
        meeting = {"attempt": number, "numNodes": NODES, "address": "127.0.0.1"}
        meeting |= {"port": free_port(), "gangPort": free_port(), "token": "a token"}
        environment = {
            "GLOO_SOCKET_IFNAME": "lo",
            "OMP_NUM_THREADS": "1",
            "LEPTON_CHECKPOINT_URI": (self.folder / "checkpoints").as_uri(),
        }
        pods = [
            Pod(self.folder / f"{number}-{rank}", {**meeting, "nodeRank": rank}, environment)
            for rank in range(NODES)
        ]
        for pod in pods:
            pod.start(script, *options)
            self.addCleanup(pod.end)
        return pods

    def manifests(self) -> list[int]:
        found = self.folder.glob("checkpoints/local/step-*/attempt-*/manifest.json")
        return sorted(json.loads(each.read_bytes())["step"] for each in found)

    def messages(self, pods: list[Pod], *asked: int) -> list[dict[str, Any]]:
        """What the pods end with: those that were not asked stay, until they are asked too."""
        told = {rank: pods[rank].message() for rank in asked}
        for rank in set(range(NODES)) - told.keys():
            wait_until(pods[rank].waits, f"node {rank} waits for another attempt")
            self.assertIsNone(pods[rank].process.poll())
            pods[rank].ask_in_the_annotation()
            told[rank] = pods[rank].message()
        return [told[rank] for rank in range(NODES)]

    def leave(self, pods: list[Pod], ask: Callable[[Pod], None], *asked: int) -> int:
        """Ask some pods once all train; return the step that all of them saved at."""
        wait_until(lambda: all(pod.step() > 30 for pod in pods), "steps")
        before = max(pod.step() for pod in pods)
        begun = time.monotonic()
        for rank in asked:
            ask(pods[rank])
        messages = self.messages(pods, *asked)
        self.assertLess(time.monotonic() - begun, LONGEST_SECONDS, "they waited for their end")
        self.assertEqual({each["reason"] for each in messages}, {"Saved"}, messages)
        (step,) = {each["step"] for each in messages}
        self.assertGreater(step, before)
        self.assertEqual({pod.process.returncode for pod in pods}, {75})
        # Whose ranks read it late, as on a busy machine, leave later; whose heard it from the other
        # ranks may have been asked by none.
        agreed = [json.loads(file.read_bytes())["step"] for pod in pods if (file := pod.asked())]
        self.assertGreaterEqual(step, min(agreed))
        return int(step)

    def test_sigterm_to_one_pod_or_a_word_to_some_has_all_save_at_one_step(self) -> None:
        for number, ask, asked in (
            (1, Pod.ask_by_signal, [1]),
            (2, Pod.ask_by_signal, [0]),
            (3, Pod.ask_in_the_annotation, [2, 0]),
        ):
            pods = self.gang(number, SAVES, f"--grace-seconds={GRACE_SECONDS}")
            before = self.manifests()
            step = self.leave(pods, ask, *asked)
            self.assertEqual(self.manifests()[-1], step)
            begins = f"begins at {before[-1] if before else 0}"
            self.assertIn(begins, pods[0].log())

    def test_a_plain_script_gets_its_signal_in_all_pods(self) -> None:
        pods = self.gang(1, PLAIN, "--leave-signal=SIGUSR1", "--grace-seconds=25")
        wait_until(lambda: all(pod.step() > 30 for pod in pods), "steps")
        pods[2].ask_by_signal()
        messages = self.messages(pods, 2)
        self.assertEqual({each["reason"] for each in messages}, {"Terminated"}, messages)
        saved = {(pod.output / "saved").read_text().split()[1] for pod in pods}
        self.assertEqual(saved, {"22"})


if __name__ == "__main__":
    unittest.main(verbosity=2)
