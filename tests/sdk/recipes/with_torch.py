"""What can only be tested where torch is: `python with_torch.py` inside the trainer image.

Its name keeps it out of the default run, whose environment has no torch; the image has no pytest.
"""

# ruff: noqa: PT009, PT027

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from torch import Tensor, nn

from lepton_ai.export import ExportError, export_onnx
from lepton_ai.models.digits import DigitsNet, Probabilities
from lepton_ai.models.trainable import load_trainable, save_trainable

IMAGES = torch.rand(8, 1, 28, 28, generator=torch.Generator().manual_seed(1))


class FrozenBatch(nn.Module):  # type: ignore[misc]
    """Reads the batch size as a number, which a trace then keeps."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) + torch.arange(int(x.shape[0]))[:, None]


class MixedBatch(nn.Module):  # type: ignore[misc]
    """Decides by the data, of which a trace sees one case."""

    def forward(self, x: Tensor) -> Tensor:
        return x * 2 if len(x) > 4 else x


class Infinite(nn.Module):  # type: ignore[misc]
    def forward(self, x: Tensor) -> Tensor:
        return x / 0


class SumAndDifference(nn.Module):  # type: ignore[misc]
    def forward(self, left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
        return left + right, left - right


def rendezvous() -> tuple[str, str]:
    """Meet on the loopback address: torchrun's --standalone needs a host name that resolves."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return "--master-addr=127.0.0.1", f"--master-port={server.getsockname()[1]}"


class FolderTest(unittest.TestCase):
    def setUp(self) -> None:
        temporary = tempfile.TemporaryDirectory(prefix="lepton-test-")
        self.addCleanup(temporary.cleanup)
        self.folder = Path(temporary.name)
        self.file = self.folder / "model.onnx"

    def export(self, model: nn.Module, example: Tensor = IMAGES) -> float:
        return export_onnx(model, example, self.file, input_names=["x"], output_names=["y"])


class TestExport(FolderTest):
    def test_the_file_is_as_old_as_triton_needs_with_our_names_and_a_dynamic_batch(self) -> None:
        difference = self.export(Probabilities(DigitsNet()))

        self.assertLess(difference, 1e-5)
        proto = onnx.load(self.file)
        self.assertEqual(proto.ir_version, 9)
        self.assertEqual(
            [(entry.domain, entry.version) for entry in proto.opset_import], [("", 17)]
        )
        session = onnxruntime.InferenceSession(str(self.file))
        self.assertEqual(
            [(entry.name, entry.shape) for entry in session.get_inputs()],
            [("x", ["batch", 1, 28, 28])],
        )
        self.assertEqual(
            [(entry.name, entry.shape) for entry in session.get_outputs()], [("y", ["batch", 10])]
        )

    def test_several_inputs_and_outputs_keep_their_order(self) -> None:
        export_onnx(
            SumAndDifference(),
            (torch.ones(2, 3), torch.full((2, 3), 5.0)),
            self.file,
            input_names=["left", "right"],
            output_names=["sum", "difference"],
        )

        session = onnxruntime.InferenceSession(str(self.file))
        feed = {"left": np.ones((4, 3), np.float32), "right": np.zeros((4, 3), np.float32)}
        self.assertEqual(session.run(["difference"], feed)[0].tolist(), np.ones((4, 3)).tolist())

    def test_a_frozen_batch_size_is_refused_by_its_number(self) -> None:
        with self.assertRaisesRegex(ExportError, "batch size 1"):
            self.export(FrozenBatch())

        self.assertEqual(list(self.folder.iterdir()), [])

    def test_a_branch_that_the_trace_did_not_take_is_refused_with_the_difference(self) -> None:
        with self.assertRaisesRegex(ExportError, "At batch size 1 .* differs .* by 1 "):
            self.export(MixedBatch())

    def test_a_model_that_diverged_is_refused(self) -> None:
        with self.assertRaisesRegex(ExportError, "not finite"):
            self.export(Infinite())

    def test_a_refused_export_leaves_the_older_file(self) -> None:
        self.file.write_bytes(b"older")

        with self.assertRaises(ExportError):
            self.export(FrozenBatch())

        self.assertEqual(self.file.read_bytes(), b"older")

    def test_the_model_stays_as_it_was(self) -> None:
        model = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(784, 2)).train()

        self.export(model)

        self.assertTrue(model.training)

    def test_an_example_of_one_row_is_refused(self) -> None:
        with self.assertRaisesRegex(ValueError, "at least two"):
            self.export(DigitsNet(), IMAGES[:1])


class TestTrainable(FolderTest):
    def test_a_network_comes_back_with_its_weights(self) -> None:
        network = DigitsNet(channels=8, hidden=16)

        save_trainable(network, self.folder / "trainable")
        again = load_trainable(self.folder / "trainable")

        self.assertEqual(again.arguments, network.arguments)
        for name, weights in network.state_dict().items():
            self.assertTrue(torch.equal(weights, again.state_dict()[name]), name)

    def test_anyone_may_read_what_the_training_wrote(self) -> None:
        save_trainable(DigitsNet(), self.folder)

        for file in self.folder.iterdir():
            self.assertEqual(file.stat().st_mode & 0o044, 0o044, file)

    def test_an_unknown_architecture_is_named(self) -> None:
        (self.folder / "architecture.json").write_text('{"architecture": "Other", "arguments": {}}')

        with self.assertRaisesRegex(ValueError, "'Other', but .* knows only DigitsNet"):
            load_trainable(self.folder)


class TestDigits(FolderTest):
    def train(self, name: str, ranks: int) -> Path:
        """Train one epoch, alone or under torchrun; return the folder that it left."""
        torchrun = ["-m", "torch.distributed.run", "--nproc-per-node", str(ranks), *rendezvous()]
        completed = subprocess.run(
            [
                sys.executable,
                *(torchrun if ranks > 1 else []),
                *("-m", "lepton_ai.recipes.digits", "--epochs=1"),
            ],
            env={**os.environ, "LEPTON_OUTPUT_DIR": str(self.folder / name)},
            capture_output=True,
            text=True,
            timeout=300,  # bounds a failure: torch alone takes a minute on busy cores
            check=False,
        )
        self.assertEqual(completed.returncode, 0, completed.stderr)
        return self.folder / name

    def test_the_number_of_ranks_changes_rounding_only_and_a_repetition_nothing(self) -> None:
        alone, pair, again = self.train("1", 1), self.train("2", 2), self.train("again", 2)

        weights = [load_trainable(folder / "trainable").state_dict() for folder in (alone, pair)]
        for name, ours in weights[0].items():
            self.assertLess(float((ours - weights[1][name]).abs().max()), 1e-4, name)
        for file in ("model.onnx", "heldout.npz", "metrics.json", "trainable/model.safetensors"):
            self.assertEqual((pair / file).read_bytes(), (again / file).read_bytes(), file)

    def test_the_onnx_file_answers_the_held_out_digits_as_the_metrics_say(self) -> None:
        folder = self.train("alone", 1)

        session = onnxruntime.InferenceSession(str(folder / "model.onnx"))
        with np.load(folder / "heldout.npz", allow_pickle=False) as arrays:
            x, y = arrays["x"], arrays["y"]
        read = session.run(["probabilities"], {"image": x})[0].argmax(axis=1)
        metrics = json.loads((folder / "metrics.json").read_text())
        self.assertEqual(metrics["samples"], len(y))
        self.assertAlmostEqual(metrics["accuracy"], float((read == y).mean()), delta=1e-3)


if __name__ == "__main__":
    unittest.main(verbosity=2)
