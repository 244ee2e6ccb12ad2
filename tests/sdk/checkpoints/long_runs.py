"""Longer trainings: `python long_runs.py` inside the trainer image, as with_torch.py."""

# ruff: noqa: PT009

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import unittest
from dataclasses import replace
from pathlib import Path

from training import DIED, Options, losses, run

from lepton_ai.checkpoints.interval import PRIOR, SaveCost, best_interval

STEPS = 200
NUMBER = r"([\d.e+-]+)"
SAID = re.compile(
    rf"Saved each {NUMBER} s \(Daly\): a save costs {NUMBER} s .* a failure is expected each "
    rf"{NUMBER} s"
)


class FolderTest(unittest.TestCase):
    def setUp(self) -> None:
        temporary = tempfile.TemporaryDirectory(prefix="lepton-test-", ignore_cleanup_errors=True)
        self.addCleanup(temporary.cleanup)
        self.folder = Path(temporary.name)


class TestInterruptions(FolderTest):
    def options(self, name: str, interval_seconds: float = 0.0) -> Options:
        (self.folder / name).mkdir()
        return Options(self.folder / name, steps=STEPS, interval_seconds=interval_seconds)

    def test_three_ranks_interrupted_five_times_keep_to_the_uninterrupted_curve(self) -> None:
        whole = self.options("whole", interval_seconds=1000)
        broken = self.options("broken")

        self.assertEqual(run(whole, 3), [0] * 3)
        for die_at in (25, 60, 95, 130, 165):
            self.assertEqual(run(replace(broken, die_at=die_at), 3), [DIED] * 3)
        self.assertEqual(run(broken, 3), [0] * 3)

        largest = 0.0
        for rank in range(3):
            expected, found = losses(whole, rank), losses(broken, rank)
            for step in map(str, range(1, STEPS + 1)):
                (loss, rows), (again, rows_again) = parts(expected[step]), parts(found[step])
                self.assertEqual(rows, rows_again)
                largest = max(largest, abs(again - loss) / abs(loss))
        print(f"largest relative difference of a loss in {STEPS} steps: {largest:.1e}")
        self.assertLessEqual(largest, 1e-5)


class TestInterval(FolderTest):
    def test_a_job_that_failed_twice_saves_as_often_as_the_law_then_says(self) -> None:
        script = Path(__file__).with_name("failing_twice.py")
        places = {
            "LEPTON_CHECKPOINT_URI": (self.folder / "checkpoints").as_uri(),
            "LEPTON_OUTPUT_DIR": str(self.folder / "output"),
        }
        ended = subprocess.run(
            [
                *(sys.executable, "-m", "lepton_launcher", "run", "--alone"),
                *("--nproc-per-node=2", "--max-restarts=2", "--", str(script)),
            ],
            env={**os.environ, **places},
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )
        self.assertEqual(ended.returncode, 0, ended.stderr)

        first, last = (tuple(map(float, each)) for each in SAID.findall(ended.stderr))

        print(f"interval, cost, time between failures in s: {first}, after two failures {last}")
        self.assertAlmostEqual(first[2], PRIOR.mtbf_seconds(1), delta=0.01 * first[2])
        self.assertAlmostEqual(last[2], PRIOR.after(2, 0).mtbf_seconds(1), delta=0.01 * last[2])
        for seconds, cost_seconds, mtbf_seconds in (first, last):
            asked = best_interval(SaveCost(cost_seconds, 0, 0), mtbf_seconds).seconds
            self.assertAlmostEqual(seconds, asked, delta=0.01 * asked)
        self.assertNotEqual(first[0], last[0])


def parts(line: str) -> tuple[float, str]:
    loss, rows = line.split(" ", 1)
    return float.fromhex(loss), rows


if __name__ == "__main__":
    unittest.main(verbosity=2)
