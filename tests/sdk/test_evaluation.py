from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from lepton_ai import datasets
from lepton_ai.datasets import InvalidDatasetError
from lepton_ai.evaluation import EvaluationFailedError, evaluate, metrics
from lepton_ai.onnx_model import inspect
from tests.fixtures.onnx_models import held_out_digits, model, tensor, write_digits_model

LOGITS = np.array([[2.0, 0.0, 0.0], [0.0, 3.0, 0.0], [0.0, 0.0, 1.0], [5.0, 0.0, 0.0]])
LABELS = np.array([0, 1, 2, 1])
# By hand: three of four are right; F1 of the classes is 2/3, 2/3 and 1.
ACCURACY, F1 = 0.75, 7 / 9
LOSS = float(np.mean(np.log(np.exp(LOGITS).sum(axis=1)) - LOGITS[np.arange(4), LABELS]))


def measured(outputs: Any, labels: Any) -> dict[str, float]:
    labels = np.asarray(labels)
    return metrics(np.asarray(outputs), datasets.from_arrays("test", np.zeros(len(labels)), labels))


@pytest.mark.parametrize(
    "labels",
    [
        pytest.param(LABELS, id="integers"),
        pytest.param(LABELS[:, None], id="a column of integers"),
        pytest.param(LABELS.astype(np.float32), id="whole numbers in floats"),
        pytest.param(np.eye(3)[LABELS], id="one-hot"),
    ],
)
def test_a_classifier_has_accuracy_f1_and_loss(labels: Any) -> None:
    assert measured(LOGITS, labels) == pytest.approx({"accuracy": ACCURACY, "f1": F1, "loss": LOSS})


def test_probabilities_have_the_loss_of_their_logits() -> None:
    powers = np.exp(LOGITS)
    probabilities = powers / powers.sum(axis=1, keepdims=True)
    assert measured(probabilities, LABELS)["loss"] == pytest.approx(LOSS, rel=1e-6)
    sure = measured([[1.0, 0.0], [1.0, 0.0]], [0, 1])
    assert sure["accuracy"] == 0.5
    assert np.isfinite(sure["loss"])


def test_one_column_between_zero_and_one_is_the_probability_of_class_one() -> None:
    found = measured([[0.9], [0.2], [0.6]], [1, 0, 0])
    assert found["accuracy"] == pytest.approx(2 / 3)
    assert found["loss"] == pytest.approx(-np.log([0.9, 0.8, 0.4]).mean())


def test_decisions_have_no_loss() -> None:
    assert measured([0, 1, 2, 0], LABELS) == pytest.approx({"accuracy": ACCURACY, "f1": F1})


@pytest.mark.parametrize("shape", [(4,), (4, 1), (2, 2)])
def test_a_regressor_has_squared_and_absolute_error(shape: tuple[int, ...]) -> None:
    outputs, values = np.array([1.5, 2.0, 3.0, 0.0]), np.array([1.0, 2.0, 5.0, 0.5])
    found = measured(outputs.reshape(shape), values.reshape(shape))
    assert found == pytest.approx({"mse": 4.5 / 4, "mae": 3.0 / 4})


@pytest.mark.parametrize(
    ("outputs", "labels", "sentence"),
    [
        pytest.param(LOGITS, [0, 1, 2, 3], "from 0 to 3, and the .* 0 to 2", id="above"),
        pytest.param(LOGITS, [0, 1, 2, -1], "run from -1 to 2", id="below"),
        pytest.param(LOGITS, ["a", "b", "a", "b"], "as integers from 0", id="texts"),
        pytest.param(LOGITS, np.zeros((4, 5)), "fits no output of shape", id="another width"),
        pytest.param(LOGITS, [0.5, 1, 2, 1], "fits no output of shape", id="fractions"),
    ],
)
def test_labels_that_do_not_fit_are_told(outputs: Any, labels: Any, sentence: str) -> None:
    with pytest.raises(InvalidDatasetError, match=sentence):
        measured(outputs, labels)


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_digits_model(tmp_path_factory.mktemp("reader") / "model.onnx")


def accuracy(file: Path, x: Any, y: Any) -> float:
    return evaluate(file, inspect(file).signature, datasets.from_arrays("test", x, y))["accuracy"]


def test_samples_are_reshaped_and_scaled_as_the_input_takes_them(reader: Path) -> None:
    x, y = held_out_digits()
    expected = accuracy(reader, x, y)
    assert expected >= 0.95
    assert accuracy(reader, x[:, None], y) == expected
    assert accuracy(reader, x[..., None], y) == expected
    assert accuracy(reader, x.astype(np.float64), y) == expected
    pixels = np.round(x * 255).astype(np.uint8)
    assert accuracy(reader, pixels, y) == pytest.approx(expected, abs=0.01)


def test_a_model_with_a_fixed_batch_is_fed_whole_batches(tmp_path: Path) -> None:
    fixed = model(
        [helper.make_node("Flatten", ["x"], ["y"])],
        inputs=[tensor("x", TensorProto.FLOAT, [4, 3])],
        outputs=[tensor("y", TensorProto.FLOAT, [4, 3])],
    )
    onnx.save(fixed, tmp_path / "model.onnx")
    x = np.eye(3, dtype=np.float32)[np.arange(10) % 3]
    assert accuracy(tmp_path / "model.onnx", x, np.arange(10) % 3) == 1


@pytest.mark.parametrize("shape", [(5, 8, 9), (5, 2, 8, 8), (5,)])
def test_samples_of_another_shape_are_told(reader: Path, shape: tuple[int, ...]) -> None:
    with pytest.raises(InvalidDatasetError, match=r"input 'image' takes \[8, 8\]"):
        accuracy(reader, np.zeros(shape, dtype=np.float32), np.zeros(5, dtype=np.int64))


def test_a_model_that_answers_nan_fails(reader: Path) -> None:
    x, y = held_out_digits()
    broken = x.copy()
    broken[0, 0, 0] = np.nan
    with pytest.raises(EvaluationFailedError, match=r"answers NaN or infinity 10 times over 360"):
        accuracy(reader, broken, y)


def test_two_inputs_are_told(tmp_path: Path) -> None:
    two = model(
        [helper.make_node("Add", ["a", "b"], ["c"])],
        inputs=[tensor(name, TensorProto.FLOAT, ["n", 2]) for name in "ab"],
        outputs=[tensor("c", TensorProto.FLOAT, ["n", 2])],
    )
    onnx.save(two, tmp_path / "model.onnx")
    with pytest.raises(InvalidDatasetError, match=r"2 inputs \(a, b\)"):
        accuracy(tmp_path / "model.onnx", np.zeros((3, 2)), np.zeros(3, dtype=np.int64))


def test_an_operator_that_fails_on_the_samples_is_told(tmp_path: Path) -> None:
    picks = model(
        [helper.make_node("Gather", ["table", "x"], ["y"])],
        inputs=[tensor("x", TensorProto.INT64, ["n"])],
        outputs=[tensor("y", TensorProto.FLOAT, ["n", 2])],
        constants={"table": np.eye(2, dtype=np.float32)},
    )
    onnx.save(picks, tmp_path / "model.onnx")
    with pytest.raises(EvaluationFailedError, match="The model fails on samples of shape"):
        accuracy(tmp_path / "model.onnx", np.array([0, 9]), np.array([0, 1]))
