"""What can only be tested where torch is: `python with_torch.py` inside the trainer image.

Its name keeps it out of the default run, whose environment has no torch; the image has no pytest.
"""

# ruff: noqa: PT009, PT027

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import unittest
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from training import BATCH_SIZE, DIED, Network, Options, losses, run, said

from lepton_ai import lineage
from lepton_ai.checkpoints import Checkpointer, CheckpointError, GlobalSampler
from lepton_ai.checkpoints import checkpointer as checkpointer_module
from lepton_ai.curves import Curves
from lepton_launcher import board as launcher_board


class FolderTest(unittest.TestCase):
    def setUp(self) -> None:
        temporary = tempfile.TemporaryDirectory(prefix="lepton-test-", ignore_cleanup_errors=True)
        self.addCleanup(temporary.cleanup)
        self.folder = Path(temporary.name)

    def options(self, name: str, **known: Any) -> Options:
        (self.folder / name).mkdir()
        return Options(self.folder / name, **known)

    def manifests(self, options: Options) -> list[dict[str, Any]]:
        found = sorted(options.folder.glob("checkpoints/local/step-*/attempt-*/manifest.json"))
        return [json.loads(each.read_bytes()) for each in found]


class TestInterruptions(FolderTest):
    def test_two_ranks_interrupted_five_times_equal_the_uninterrupted_run_bit_for_bit(self) -> None:
        whole = self.options("whole", interval_seconds=1000)
        broken = self.options("broken")

        self.assertEqual(run(whole, 2), [0, 0])
        for die_at in (5, 9, 14, 20, 26):
            self.assertEqual(run(replace(broken, die_at=die_at), 2), [DIED, DIED])
        self.assertEqual(run(broken, 2), [0, 0])

        for rank in (0, 1):
            self.assertEqual(losses(whole, rank), losses(broken, rank))
        self.assertIn("Training goes on from step", said(broken))
        curve = (whole.output / "curves.jsonl").read_bytes()
        self.assertEqual(len(curve.splitlines()), 30)
        self.assertEqual(curve, (broken.output / "curves.jsonl").read_bytes())
        self.assertTrue((broken.output / "curves.png").read_bytes().startswith(b"\x89PNG"))

    def test_the_lineage_names_the_last_checkpoint_by_its_manifest(self) -> None:
        options = self.options("saved")
        self.assertEqual(run(options, 2), [0, 0])

        told = lineage.read(options.output).checkpoint

        newest = max(options.folder.glob("checkpoints/local/step-*/attempt-*/manifest.json"))
        digest = hashlib.sha256(newest.read_bytes()).hexdigest()
        self.assertEqual(told, lineage.Checkpoint(step=30, digest=f"sha256:{digest}"))

    def test_a_sharded_model_goes_on_bit_for_bit_and_in_another_number_of_ranks(self) -> None:
        whole = self.options("whole", sharded=True, interval_seconds=1000)
        broken = self.options("broken", sharded=True)
        self.assertEqual(run(whole, 2), [0, 0])

        self.assertEqual(run(replace(broken, die_at=17), 2), [DIED, DIED])
        self.assertEqual(run(broken, 2), [0, 0])

        self.assertEqual(losses(whole), losses(broken))
        self.assertEqual(run(replace(broken, steps=33), 3), [0, 0, 0])
        self.assertIn("Training goes on from step 30", said(broken))

    def test_another_number_of_ranks_goes_on_with_the_same_samples(self) -> None:
        pair = self.options("pair", steps=8)
        whole = self.options("whole", steps=14)
        self.assertEqual(run(pair, 2), [0, 0])
        self.assertEqual(run(whole), [0])

        self.assertEqual(run(replace(pair, steps=14), 3), [0, 0, 0])

        self.assertIn("Training goes on from step 8", said(pair))
        for step in range(9, 15):
            rows = [rows_of(losses(pair, rank)[str(step)]) for rank in range(3)]
            together = sorted(row for part in rows for row in part)
            self.assertEqual(together, sorted(rows_of(losses(whole)[str(step)])))
        self.assertEqual(self.manifests(pair)[-1]["worldSize"], 3)

    def test_ranks_that_are_asked_to_save_and_leave_do_so_at_the_agreed_step(self) -> None:
        options = self.options("asked", interval_seconds=1000, request_save_at=10)

        self.assertEqual(run(options, 2), [0, 0])

        self.assertEqual([each["step"] for each in self.manifests(options)], [12])
        self.assertNotIn("end", losses(options))
        self.assertEqual(run(options, 2), [0, 0])
        self.assertIn("Training goes on from step 12", said(options))
        self.assertIn("end", losses(options))


class TestSaving(FolderTest):
    def test_a_training_goes_through_fifty_saves_in_the_background(self) -> None:
        options = self.options("fifty", steps=1_000_000, samples=500, saves=50)

        self.assertEqual(run(options, 2), [0, 0])

        completed = re.findall(r"The checkpoint of step (\d+) is complete", said(options))
        self.assertGreaterEqual(len(completed), 50)
        self.assertNotIn("could not be saved", said(options))
        kept = self.manifests(options)
        self.assertEqual([str(each["step"]) for each in kept], completed[-3:])
        self.assertEqual(kept[-1]["dataPosition"]["samples"], kept[-1]["step"] * BATCH_SIZE)

    def test_a_full_volume_loses_nothing_and_training_goes_on(self) -> None:
        options = self.options("full", steps=60, width=1024, full_from=20)

        self.assertEqual(run(options, 2), [0, 0])

        failed = [int(each) for each in re.findall(r"step (\d+) could not be saved", said(options))]
        self.assertTrue(failed)
        self.assertIn("File too large", said(options))
        self.assertRegex(said(options), r"The last good one is of step \d+; training goes on")
        steps = [each["step"] for each in self.manifests(options)]
        self.assertEqual(steps[-1], 60)
        self.assertFalse(set(steps) & set(failed))
        folders = {each.name for each in options.folder.glob("checkpoints/local/step-*")}
        self.assertEqual(len(folders), len(steps), "what failed saves have left is removed")

    def test_an_attempt_that_was_closed_ends_and_removes_nothing(self) -> None:
        options = self.options("closed", steps=30, usurped_at=10)

        self.assertEqual(run(options, 2), [1, 1])

        self.assertIn("Attempt 0-0 is closed: attempt 7-0 has begun", said(options))
        self.assertTrue(all(each["step"] <= 12 for each in self.manifests(options)))


class Counter:
    """Something with a state."""

    def __init__(self) -> None:
        self.count = 0

    def state_dict(self) -> int:
        return self.count

    def load_state_dict(self, state: int) -> None:
        self.count = state


class Board:
    """Keeps what a rank reports, line by line."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def enter(self, phase: str) -> None:
        self.lines.append(phase)

    def resume(self, step: int) -> None:
        self.lines.append(f"resumed from {step}")

    def finish_step(
        self,
        step: int,
        *,
        total_steps: int | None,
        samples: int | None,
        metrics: Mapping[str, float] | None,
    ) -> None:
        self.lines.append(f"step {step} of {total_steps}, {samples} samples, {metrics}")

    def finish_checkpoint(self, step: int, seconds: float) -> None:
        assert seconds >= 0
        self.lines.append(f"checkpoint {step}")

    def offer_to_save(self) -> None:
        self.lines.append("offers to save")

    def leave(self) -> None:
        self.lines.append("leaves")


Break = Callable[[Path], None]


def edited(**changes: Any) -> Break:
    def edit(checkpoint: Path) -> None:
        file = checkpoint / "manifest.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))

    return edit


def without(name: str) -> Break:
    return lambda checkpoint: (checkpoint / name).unlink()


def written(name: str, content: bytes) -> Break:
    def write(checkpoint: Path) -> None:
        (checkpoint / name).write_bytes(content)

    return write


def changed(name: str, change: Callable[[bytes], bytes]) -> Break:
    def apply(checkpoint: Path) -> None:
        (checkpoint / name).write_bytes(change((checkpoint / name).read_bytes()))

    return apply


def flipped(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


def forged(checkpoint: Path) -> None:
    """Garbage that its manifest vouches for."""
    garbage = b"no metadata"
    (checkpoint / ".metadata").write_bytes(garbage)
    files = json.loads((checkpoint / "manifest.json").read_text())["files"]
    for each in files:
        if each["path"] == ".metadata":
            each |= {"sha256": hashlib.sha256(garbage).hexdigest(), "sizeBytes": len(garbage)}
    edited(files=files)(checkpoint)


def late(checkpoint: Path) -> None:
    """Step 40 by the attempt that ended at step 10, instead of step 30."""
    moved = checkpoint.parent.parent / "step-000000040" / "attempt-0-0"
    moved.parent.mkdir()
    checkpoint.rename(moved)
    edited(step=40, attempt=0)(moved)


ONE_FILE = {"sha256": "0" * 64, "sizeBytes": 1}
BROKEN: dict[str, tuple[Break, str]] = {
    "half written": (without("manifest.json"), "has no manifest: its save never ended"),
    "empty manifest": (written("manifest.json", b""), "no readable manifest"),
    "cut manifest": (
        changed("manifest.json", lambda content: content[: len(content) // 2]),
        "no readable manifest",
    ),
    "manifest that is no text": (written("manifest.json", b"\xff\xfe\x00"), "no readable manifest"),
    "manifest of something else": (written("manifest.json", b"{}"), "step: Field required"),
    "manifest of another step": (edited(step=29), "has the manifest of step 29"),
    "file outside": (
        edited(files=[{"path": "../../../secret", **ONE_FILE}]),
        "no readable manifest",
    ),
    "file lost": (without("rank-0.distcp"), "lacks its file rank-0.distcp"),
    "file cut": (
        changed("rank-0.distcp", lambda content: content[:-1]),
        "is damaged: rank-0.distcp has",
    ),
    "file longer": (changed("rank-0.distcp", lambda content: content + b"x"), "has"),
    "bit flipped": (changed("rank-0.distcp", flipped), "the sha256 of rank-0.distcp"),
    "bit flipped in the index": (changed(".metadata", flipped), "the sha256 of .metadata"),
    "another model": (edited(modelFingerprint="0" * 64), "is of another model"),
    "too late": (late, "was completed after that attempt was closed"),
    "vouched for, and garbage": (forged, "cannot be loaded"),
}


class TestRestoring(FolderTest):
    def checkpointer(self, counter: Counter, model: nn.Module | None = None) -> Checkpointer:
        model = model or Network(4)
        return Checkpointer(
            model=model,
            optimizer=torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9),
            sampler=GlobalSampler(100, 10, epochs=10),
            uri=(self.folder / "checkpoints").as_uri(),
            interval_seconds=1000,
            counter=counter,
        )

    @property
    def run_folder(self) -> Path:
        return self.folder / "checkpoints" / "local"

    def three_checkpoints(self) -> None:
        for _ in range(3):
            counter = Counter()
            with self.checkpointer(counter) as checkpointer:
                step = checkpointer.restore() + 10
                counter.count = step
                checkpointer.step(step)

    def test_each_kind_of_broken_checkpoint_gets_its_sentence_and_the_one_before_is_loaded(
        self,
    ) -> None:
        self.three_checkpoints()
        shutil.copytree(self.run_folder, self.folder / "good")
        for kind, (damage, sentence) in BROKEN.items():
            with self.subTest(kind):
                shutil.rmtree(self.run_folder)
                shutil.copytree(self.folder / "good", self.run_folder)
                damage(self.run_folder / "step-000000030" / "attempt-2-0")
                counter = Counter()
                checkpointer = self.checkpointer(counter)

                with self.assertLogs(checkpointer_module.__name__, "WARNING") as logs:
                    step = checkpointer.restore()

                self.assertEqual((step, counter.count), (20, 20))
                self.assertIn(sentence, logs.output[0])

    def test_a_run_with_nothing_but_broken_checkpoints_does_not_begin_anew(self) -> None:
        self.three_checkpoints()
        for file in self.run_folder.glob("step-*/*/rank-0.distcp"):
            file.write_bytes(flipped(file.read_bytes()))

        with self.assertRaisesRegex(CheckpointError, "None of the .* Remove them, or give another"):
            self.checkpointer(Counter()).restore()

        self.assertEqual(len(list(self.run_folder.glob("step-*"))), 3)

    def test_the_checkpoints_of_another_model_are_refused_and_stay(self) -> None:
        self.three_checkpoints()

        with self.assertRaisesRegex(CheckpointError, "is of another model"):
            self.checkpointer(Counter(), Network(5)).restore()

        self.assertEqual(len(list(self.run_folder.glob("step-*"))), 3)

    def report(self, step: int, board: Board | None = None, batches: int = 1) -> None:
        """Train up to this step, and tell of it."""
        with Checkpointer(
            model=Network(4),
            sampler=GlobalSampler(100, 10, epochs=2),
            uri=(self.folder / "checkpoints").as_uri(),
            board=board,
        ) as checkpointer:
            checkpointer.restore()
            checkpointer.step(step, batches=batches, metrics={"loss": 0.5})

    def test_a_rank_reports_its_phases_its_steps_and_its_checkpoints(self) -> None:
        first, second = Board(), Board()
        self.report(1, first)
        self.report(2, second)

        ending = ["checkpointing", "checkpoint {}", "done"]
        told = "step {0} of 20, {0}0 samples, {{'loss': 0.5}}"
        self.assertEqual(
            first.lines,
            [line.format(1) for line in ("restoring", "offers to save", "training", told, *ending)],
        )
        self.assertEqual(
            second.lines,
            [
                line.format(2)
                for line in ("restoring", "offers to save", "resumed from 1", "training", told)
            ]
            + [line.format(2) for line in ending],
        )

    def test_steps_of_several_batches_are_fewer(self) -> None:
        board = Board()
        self.report(1, board, batches=4)
        self.assertIn("step 1 of 5, 40 samples, {'loss': 0.5}", board.lines)

    def test_a_rank_of_the_launcher_reports_to_it(self) -> None:
        path = self.folder / "board"
        launcher_board.create(path, os.getpid())
        self.addCleanup(launcher_board.of_this_process.cache_clear)
        self.addCleanup(os.environ.pop, launcher_board.BOARD_VARIABLE)
        launcher_board.of_this_process.cache_clear()
        os.environ[launcher_board.BOARD_VARIABLE] = str(path)
        self.report(1)
        self.report(2)

        reading = launcher_board.read(path)
        assert reading is not None
        stood = reading.standing
        self.assertEqual((stood.phase, stood.step, stood.total_steps), ("done", 2, 20))
        self.assertEqual((stood.resumed_step, stood.checkpoint_step, stood.samples), (1, 2, 20))
        self.assertTrue(stood.is_reported)

    def test_a_step_before_restoring_is_a_mistake_with_a_sentence(self) -> None:
        with self.assertRaisesRegex(RuntimeError, "Call restore"):
            self.checkpointer(Counter()).step(1)


class TestPicture(FolderTest):
    def test_it_is_drawn_whatever_the_metrics_are_called(self) -> None:
        curves = Curves()
        for step in range(3):
            curves.add(step, {"loss": step, "$\\frac{": 2.0, "_private": 3.0, "": 4.0})

        with self.assertNoLogs("lepton_ai.curves"):
            curves.write(self.folder)

        self.assertTrue((self.folder / "curves.png").read_bytes().startswith(b"\x89PNG"))


class TestGuide(FolderTest):
    def test_the_example_runs_as_it_is_written_and_again(self) -> None:
        here = Path(__file__).resolve()
        guide = here.with_name("checkpoints.md")
        if not guide.exists():
            guide = here.parents[3] / "docs" / "checkpoints.md"
        example = re.search(r"```python\n(.*?)```", guide.read_text(), re.DOTALL)
        assert example is not None
        for done in (0, 40):
            completed = subprocess.run(
                [sys.executable, "-c", example[1]],
                cwd=self.folder,
                capture_output=True,
                text=True,
                timeout=300,  # bounds a failure: torch alone takes a minute on busy cores
                check=False,
            )
            self.assertEqual(completed.returncode, 0, completed.stderr)
            self.assertIn(f"{done} steps are done already", completed.stdout)
            self.assertIn("trained for 40 steps", completed.stdout)
            self.assertEqual(completed.stderr, "")


def rows_of(line: str) -> list[int]:
    rows: list[int] = json.loads(line.split(" ", 1)[1])
    return rows


if __name__ == "__main__":
    unittest.main(verbosity=2)
