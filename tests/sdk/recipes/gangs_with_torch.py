"""The recipes to copy, in gangs: `python gangs_with_torch.py` inside the trainer image."""

# ruff: noqa: PT009

from __future__ import annotations

import importlib
import json
import logging
import os
import random
import re
import sys
import tempfile
import unittest
from collections.abc import Mapping
from multiprocessing import get_context
from pathlib import Path
from socket import create_server

import numpy as np

RECIPES = ("data_parallel", "sharded", "gradient_accumulation", "mixed_precision")
PROCESSES = get_context("forkserver")
PROCESSES.set_forkserver_preload([f"lepton_ai.recipes.{each}" for each in RECIPES])


def train(recipe: str, ranks: int, epochs: int, folder: Path) -> str:
    """Run a recipe in so many processes, which save each second; return what was said."""
    with create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    started = [
        PROCESSES.Process(target=be_rank, args=(recipe, epochs, gang_of(rank, ranks, port), folder))
        for rank in range(ranks)
    ]
    for each in started:
        each.start()
    for each in started:
        each.join(120)
    said = (folder / "said-0").read_text()
    assert [each.exitcode for each in started] == [0] * ranks, said
    return said


def gang_of(rank: int, ranks: int, port: int) -> dict[str, str]:
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "GLOO_SOCKET_IFNAME": "lo"}
    return {"RANK": str(rank), "WORLD_SIZE": str(ranks), **meeting}


def be_rank(recipe: str, epochs: int, gang: Mapping[str, str], folder: Path) -> None:
    sys.stdout = sys.stderr = (folder / f"said-{gang['RANK']}").open("w", buffering=1)
    logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(message)s")
    place = {"LEPTON_CHECKPOINT_URI": folder.as_uri(), "LEPTON_CHECKPOINT_INTERVAL": "1"}
    os.environ.update({**gang, **place})
    random.seed(0)  # a checkpoint holds the states of all random numbers
    np.random.seed(0)  # noqa: NPY002
    importlib.import_module(f"lepton_ai.recipes.{recipe}").main(epochs)


def last_checkpoint(folder: Path) -> tuple[int, int, list[str]]:
    """Return the step of the newest one, its ranks, and the digests of what they saved."""
    manifest = json.loads(max(folder.glob("local/step-*/attempt-*/manifest.json")).read_text())
    files = [each for each in manifest["files"] if each["path"].startswith("rank-")]
    return manifest["step"], manifest["worldSize"], sorted(each["sha256"] for each in files)


def accuracy(said: str) -> float:
    (found,) = re.findall(r"held-out accuracy ([\d.]+) on 359 digits", said)
    return float(found)


class TestGangs(unittest.TestCase):
    def setUp(self) -> None:
        temporary = tempfile.TemporaryDirectory(prefix="lepton-test-", ignore_cleanup_errors=True)
        self.addCleanup(temporary.cleanup)
        self.folder = Path(temporary.name)

    def place(self, name: str) -> Path:
        (self.folder / name).mkdir()
        return self.folder / name

    def test_each_recipe_goes_on_bit_for_bit_in_two_ranks_and_also_in_three(self) -> None:
        for recipe in RECIPES:
            with self.subTest(recipe):
                whole, broken = self.place(f"{recipe}-whole"), self.place(f"{recipe}-broken")
                expected = train(recipe, 2, 2, whole)
                train(recipe, 2, 1, broken)

                again = train(recipe, 2, 2, broken)

                self.assertIn("Training goes on from step", again)
                self.assertEqual(last_checkpoint(whole), last_checkpoint(broken))
                self.assertEqual(accuracy(expected), accuracy(again))

                wider = train(recipe, 3, 4, broken)

                self.assertEqual(last_checkpoint(broken)[1], 3)
                self.assertGreater(accuracy(wider), 0.8)
                print(f"{recipe}: {accuracy(wider)}")


if __name__ == "__main__":
    unittest.main(verbosity=2)
