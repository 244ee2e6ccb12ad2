"""How good a model is on labelled data, measured in ONNX Runtime."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from lepton_ai.datasets import Array, Dataset, InvalidDatasetError
from lepton_ai.onnx_model import first_line, open_session
from lepton_ai.recipes.ranks import available_cores
from lepton_ai.record import FailureError, Reason
from lepton_ai.versions import Signature, Tensor

BATCH_SIZE = 256
PROGRESS_INTERVAL_SECONDS = 2.0
HIGHEST_PIXEL = 255
MATRIX = 2

logger = logging.getLogger(__name__)


class EvaluationFailedError(FailureError):
    reason = Reason.EVALUATION_FAILED


def evaluate(file: Path, signature: Signature, dataset: Dataset) -> dict[str, float]:
    """Return the metrics of a model on a data set.

    Classifiers (integer or one-hot labels; a single output is the probability of class 1):
    `accuracy`, `f1` (macro average) and `loss` (cross entropy, in nats). Regressors (labels shaped
    as the output): `mse` and `mae`.
    """
    samples = fit_to_input(dataset, signature)
    outputs = predict(file, signature, samples)
    unusable = int(np.count_nonzero(~np.isfinite(outputs)))
    if unusable:
        raise EvaluationFailedError(
            f"The model answers NaN or infinity {unusable} times over {len(samples)} samples. "
            "Look whether training diverged, and how the samples are scaled."
        )
    return metrics(outputs, dataset)


def predict(file: Path, signature: Signature, samples: Array) -> Array:
    """Return the model's first output for all samples, batch by batch."""
    session = open_session(file, available_cores())
    fixed = signature.inputs[0].shape[0] if signature.inputs[0].shape else -1
    batch_size = fixed if fixed > 0 else BATCH_SIZE
    outputs = []
    due = time.monotonic() + PROGRESS_INTERVAL_SECONDS
    for start, batch in _batches(samples, batch_size, padded=fixed > 0):
        outputs.append(_run(session, signature, batch)[: len(samples) - start])
        if time.monotonic() >= due:
            due = time.monotonic() + PROGRESS_INTERVAL_SECONDS
            logger.info("evaluated %d of %d samples", start + len(batch), len(samples))
    return np.concatenate(outputs)


def _batches(samples: Array, batch_size: int, *, padded: bool) -> Iterator[tuple[int, Array]]:
    for start in range(0, len(samples), batch_size):
        batch = samples[start : start + batch_size]
        missing = batch_size - len(batch) if padded else 0
        filling = [(0, missing)] + [(0, 0)] * (batch.ndim - 1)
        yield start, np.pad(batch, filling, mode="edge") if missing else batch


def _run(session: onnxruntime.InferenceSession, signature: Signature, batch: Array) -> Array:
    try:
        answer = session.run([signature.outputs[0].name], {signature.inputs[0].name: batch})[0]
    except Exception as error:  # noqa: BLE001  # ONNX Runtime's have no base class of their own
        raise EvaluationFailedError(
            f"The model fails on samples of shape {list(batch.shape)}: {first_line(error)} "
            "Run it in ONNX Runtime on such an array."
        ) from None
    if answer.shape[:1] != batch.shape[:1] or answer.dtype.kind not in "fiub":
        raise EvaluationFailedError(
            f"The model answers {len(batch)} samples with {answer.dtype} of shape "
            f"{list(answer.shape)}. Its first output must be numbers, one row a sample."
        )
    return np.asarray(answer)


def fit_to_input(dataset: Dataset, signature: Signature) -> Array:
    """Return the samples with the dtype and shape of the model's only input.

    Dimensions of size 1 are added or left out and samples are flattened where that alone makes
    the shapes equal: [n, 28, 28] fits [n, 1, 28, 28] and [n, 784]. Pixels (uint8) become 0 to 1
    where the model takes floats.
    """
    if len(signature.inputs) != 1:
        names = ", ".join(tensor.name for tensor in signature.inputs)
        raise InvalidDatasetError(
            f"The model has {len(signature.inputs)} inputs ({names}), and the data set "
            f"{dataset.name} one x. Only models with one input can be evaluated yet."
        )
    wanted = signature.inputs[0]
    if wanted.dtype == "string" or dataset.x.dtype.kind not in "fiub":
        raise InvalidDatasetError(
            f"The data set {dataset.name} has x of {dataset.x.dtype}, and the model's input "
            f"'{wanted.name}' takes {wanted.dtype}. Only numbers can be evaluated yet."
        )
    samples = _reshaped(dataset, wanted)
    if samples.dtype == np.uint8 and wanted.dtype.startswith("float"):
        return (samples / np.float32(HIGHEST_PIXEL)).astype(wanted.dtype, copy=False)
    return samples.astype(wanted.dtype, copy=False)


def _reshaped(dataset: Dataset, wanted: Tensor) -> Array:
    sample, dims = dataset.x.shape[1:], wanted.shape[1:]
    if len(sample) == len(dims) and all(d in (-1, s) for s, d in zip(sample, dims, strict=True)):
        return dataset.x
    known = -1 not in dims
    squeezed = [size for size in sample if size != 1] == [size for size in dims if size != 1]
    flat = len(dims) == 1 and dims[0] == math.prod(sample)
    if known and (squeezed or flat):
        return dataset.x.reshape(-1, *dims)
    raise InvalidDatasetError(
        f"The samples of {dataset.name} have the shape {list(sample)}, and the model's input "
        f"'{wanted.name}' takes {list(dims)}. Evaluate on data of the shape it was trained on."
    )


def metrics(outputs: Array, dataset: Dataset) -> dict[str, float]:
    """Compare outputs with labels; raise InvalidDatasetError if they do not fit each other."""
    labels = dataset.y
    if labels.dtype.kind not in "fiub":
        raise InvalidDatasetError(
            f"The labels of {dataset.name} are {labels.dtype}. Give classes as integers from 0."
        )
    outputs, labels = _without_trailing_ones(outputs), _without_trailing_ones(labels)
    if outputs.ndim == MATRIX:
        classes = _class_numbers(labels, outputs.shape[1])
        if classes is not None:
            return _of_classifier(outputs, _checked_classes(classes, outputs.shape[1], dataset))
    if outputs.shape != labels.shape:
        raise InvalidDatasetError(
            f"The labels of {dataset.name} have the shape {list(dataset.y.shape)}, which fits no "
            f"output of shape {list(outputs.shape)}: neither classes, nor one-hot, nor values."
        )
    if labels.dtype.kind in "iub" and outputs.dtype.kind in "iub":
        return _of_decisions(outputs, labels)
    if _are_chances(outputs) and bool(np.all((labels == 0) | (labels == 1))):
        return _of_classifier(np.stack([1 - outputs, outputs], axis=1), labels.astype(np.int64))
    difference = outputs.astype(np.float64) - labels.astype(np.float64)
    return {"mse": float(np.mean(difference**2)), "mae": float(np.mean(np.abs(difference)))}


def _are_chances(outputs: Array) -> bool:
    """Whether each sample got one number that can be the probability of class 1."""
    return outputs.ndim == 1 and bool(np.all((outputs >= 0) & (outputs <= 1)))


def _without_trailing_ones(array: Array) -> Array:
    """[n, 1] is read as [n]."""
    return array[:, 0] if array.ndim == MATRIX and array.shape[1] == 1 else array


def _class_numbers(labels: Array, classes: int) -> Array | None:
    """Return labels as class numbers, from whole numbers or one-hot rows."""
    if labels.ndim == 1:
        whole = labels.dtype.kind in "iub" or bool(np.all(labels == np.floor(labels)))
        return labels.astype(np.int64) if whole else None
    is_one_hot = (
        labels.shape[1:] == (classes,)
        and bool(np.all((labels == 0) | (labels == 1)))
        and bool(np.all(labels.sum(axis=1) == 1))
    )
    return labels.argmax(axis=1) if is_one_hot else None


def _checked_classes(labels: Array, classes: int, dataset: Dataset) -> NDArray[np.int64]:
    lowest, highest = int(labels.min()), int(labels.max())
    if lowest < 0 or highest >= classes:
        raise InvalidDatasetError(
            f"The labels of {dataset.name} run from {lowest} to {highest}, and the model knows the "
            f"classes 0 to {classes - 1}. Evaluate on data of the same classes."
        )
    return labels


def _of_classifier(outputs: Array, labels: NDArray[np.int64]) -> dict[str, float]:
    decided = _of_decisions(outputs.argmax(axis=1), labels)
    return {**decided, "loss": cross_entropy(outputs, labels)}


def _of_decisions(decided: Array, labels: Array) -> dict[str, float]:
    return {"accuracy": float(np.mean(decided == labels)), "f1": macro_f1(decided, labels)}


def macro_f1(decided: Array, labels: Array) -> float:
    """F1 averaged over the classes that occur, each with the same weight (scikit-learn's macro)."""

    def f1(label: Any) -> float:
        hits = np.count_nonzero((decided == label) & (labels == label))
        marked = np.count_nonzero(decided == label) + np.count_nonzero(labels == label)
        return float(2 * hits / marked)

    return float(np.mean([f1(label) for label in np.union1d(decided, labels)]))


def cross_entropy(outputs: Array, labels: NDArray[np.int64]) -> float:
    """Mean negative log-likelihood in nats, of probabilities or of logits."""
    rows = outputs.astype(np.float64)
    are_probabilities = bool(np.all(rows >= 0)) and np.allclose(rows.sum(axis=1), 1, atol=1e-3)
    if are_probabilities:
        logarithms = np.log(np.maximum(rows, np.finfo(np.float32).tiny))
    else:
        shifted = rows - rows.max(axis=1, keepdims=True)
        logarithms = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return float(-np.mean(logarithms[np.arange(len(labels)), labels]))
