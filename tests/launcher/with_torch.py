"""Ranks that torchrun's agent starts, and that end badly: `python with_torch.py` where torch is.

Its name keeps it out of the default run, whose environment has no torch; the image has no pytest.
"""

# ruff: noqa: PT009 - as above

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
import unittest
from pathlib import Path
from typing import Any

ATTEMPT = {"attempt": 1, "nodeRank": 0, "numNodes": 1, "address": "127.0.0.1", "port": 29561}
GRACE_SECONDS = 40
PEERS_SECONDS = 30  # torch's own patience; ours is five, and then a busy machine's
TRAINS = """
import os, signal, sys, time
import torch
import torch.distributed as d
d.init_process_group("gloo")
rank = d.get_rank()
model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(4, 1))
optimizer = torch.optim.SGD(model.parameters(), lr=0.125)
def train(steps):
    for _ in range(steps):
        model(torch.ones(2, 4)).sum().backward()
        optimizer.step()
        time.sleep(0.01)
"""


class TestRanks(unittest.TestCase):
    def setUp(self) -> None:
        temporary = tempfile.TemporaryDirectory(prefix="lepton-test-", ignore_cleanup_errors=True)
        self.addCleanup(temporary.cleanup)
        self.folder = Path(temporary.name)

    def run_ranks(self, then: str, *options: str) -> dict[str, Any]:
        """The record of a pod of two ranks that train, and then do this."""
        exchange, script = self.folder / "exchange", self.folder / "train.py"
        exchange.mkdir()
        (exchange / "start.json").write_text(json.dumps({"found": None}))
        (self.folder / "attempt").write_text(json.dumps(ATTEMPT))
        script.write_text(TRAINS + then)
        files = {
            "--exchange": exchange,
            "--attempt-file": self.folder / "attempt",
            "--output": self.folder / "output",
            "--termination-message": self.folder / "termination-log",
        }
        ours = [f"{name}={path}" for name, path in files.items()]
        launcher = [sys.executable, "-m", "lepton_launcher", "run", "--nproc-per-node=2", *ours]
        grace = f"--grace-seconds={GRACE_SECONDS}"
        process = subprocess.Popen([*launcher, grace, *options, "--", str(script)])
        record = exchange / "record.json"
        while not record.exists():
            self.assertIsNone(process.poll(), "it ended without a record")
            time.sleep(0.05)
        record.rename(exchange / "answer.json")
        process.wait(GRACE_SECONDS)
        found: dict[str, Any] = json.loads((self.folder / "termination-log").read_bytes())
        return found

    def progress(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.folder / "exchange/progress.json").read_bytes())
        return found

    def test_the_rank_that_exits_1_is_named_though_the_others_exit_0(self) -> None:
        for failing in (0, 1):
            with self.subTest(failing=failing):
                self.setUp()
                record = self.run_ranks(f"train(5)\nsys.exit(rank == {failing})")
                self.assertEqual((record["outcome"], record["reason"]), ("Failed", "UserError"))
                self.assertEqual((record["rank"], record["exitCode"]), (failing, 1))
                self.assertIn("Exit code 1, without an error on stderr", record["message"])

    def test_a_rank_that_ignores_sigterm_does_not_hold_up_the_end(self) -> None:
        then = """
signal.signal(signal.SIGTERM, signal.SIG_IGN)
train(5)
open(f"{os.environ['LEPTON_OUTPUT_DIR']}/{rank}", "w").close()
if rank:
    raise ValueError("rank 1 fails")
time.sleep(600)
"""
        record = self.run_ranks(then)
        ended = time.time()
        self.assertEqual((record["rank"], record["message"]), (1, "ValueError: rank 1 fails"))
        failed = (self.folder / "output" / "1").stat().st_mtime
        self.assertLess(ended - failed, PEERS_SECONDS)

    def test_ranks_that_close_their_streams_and_fork_end_as_they_end(self) -> None:
        then = """
train(5)
for stream in (0, 1, 2):
    os.close(stream)
if os.fork() == 0:
    os.setsid()
    time.sleep(600)
os._exit(0)
"""
        record = self.run_ranks(then)
        self.assertEqual(record["outcome"], "Succeeded")

    def test_steps_and_learning_rate_of_a_plain_script_are_told(self) -> None:
        record = self.run_ranks("train(30)")
        self.assertEqual((record["outcome"], record["step"]), ("Succeeded", 30))
        told = self.progress()
        self.assertEqual((told["step"], told["learningRate"]), (30, 0.125))
        self.assertNotIn("furthest", told)

    def test_a_rank_that_skips_a_collective_is_seen_in_the_flight_record(self) -> None:
        then = """
train(40)
if rank == 0:
    d.all_reduce(torch.ones(4))
else:
    d.barrier()
    d.barrier()
"""
        record = self.run_ranks(then, "--hang-timeout-seconds=3")
        self.assertEqual((record["reason"], record["stacks"]), ("Hang", "1-0-0.txt"))
        self.assertIn("every rank waits in a collective", record["message"])
        last = []
        for rank in (0, 1):
            flight = self.folder / "exchange" / "stacks" / f"1-0-{rank}.flight.json"
            entries = json.loads(flight.read_bytes())["torch"]["entries"]
            last.append([each["profiling_name"] for each in entries if not each["retired"]])
        self.assertNotEqual(*last)


if __name__ == "__main__":
    unittest.main(verbosity=2)
