from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lepton_ai import datasets
from lepton_ai.datasets import DatasetNotFoundError, InvalidDatasetError

CLASSES = 10
SAMPLES = 1_000


def write_mnist(folder: Path) -> None:
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (SAMPLES, 28, 28), dtype=np.uint8)
    np.savez(folder / "mnist.npz", x=images, y=np.arange(SAMPLES, dtype=np.uint8) % CLASSES)


@pytest.fixture
def mnist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> datasets.Dataset:
    write_mnist(tmp_path)
    monkeypatch.setenv("LEPTON_DATASETS", str(tmp_path))
    return datasets.load("mnist")


def test_mnist_is_read_from_its_folder_as_it_is_stored(mnist: datasets.Dataset) -> None:
    assert (mnist.x.dtype, mnist.x.shape) == (np.dtype(np.uint8), (SAMPLES, 28, 28))
    assert (mnist.y.dtype, mnist.y.shape) == (np.dtype(np.int64), (SAMPLES,))


def test_what_is_missing_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEPTON_DATASETS", str(tmp_path))
    with pytest.raises(DatasetNotFoundError, match=r"mnist\.npz does not exist.*LEPTON_DATASETS"):
        datasets.load("mnist")
    with pytest.raises(DatasetNotFoundError, match="Known are digits, mnist"):
        datasets.load("imagenet")
    with pytest.raises(DatasetNotFoundError, match="There is no file /nowhere"):
        datasets.load("/nowhere/data.npz")


def test_digits_come_with_scikit_learn_or_say_so() -> None:
    if importlib.util.find_spec("sklearn"):
        digits = datasets.load("digits")
        assert (digits.x.shape, digits.x.dtype) == ((1797, 8, 8), np.dtype(np.float32))
        assert digits.x.max() == 1
    else:
        with pytest.raises(DatasetNotFoundError, match="comes with scikit-learn"):
            datasets.load("digits")


def test_a_split_is_the_same_each_time_and_holds_out_each_class_alike(
    mnist: datasets.Dataset,
) -> None:
    training, held_out = mnist.split()
    again, held_out_again = mnist.split()
    assert (training.digest, held_out.digest) == (again.digest, held_out_again.digest)
    assert (len(training), len(held_out)) == (800, 200)
    assert np.bincount(held_out.y).tolist() == [20] * CLASSES
    seen = {image.tobytes() for image in training.x}
    assert not any(image.tobytes() in seen for image in held_out.x)


def test_the_digest_is_that_of_the_values() -> None:
    x, y = np.arange(6, dtype=np.float32).reshape(3, 2), np.arange(3)
    digest = datasets.from_arrays("a", x, y).digest
    assert datasets.from_arrays("b", x.copy(order="F"), y).digest == digest
    assert datasets.from_arrays("a", x + 1, y).digest != digest
    assert datasets.from_arrays("a", x.reshape(3, 2, 1), y).digest != digest
    assert datasets.from_arrays("a", x.astype(np.float64), y).digest != digest


@pytest.mark.parametrize(
    ("arrays", "sentence"),
    [
        pytest.param({"y": [1]}, "has no samples", id="no x"),
        pytest.param({"x": [1]}, "has no labels", id="no y"),
        pytest.param({"x": [], "y": []}, "is empty", id="no samples"),
        pytest.param(
            {"x": [1, 2], "y": [1]}, "make the first dimensions equal", id="labels for some"
        ),
        pytest.param({"x": 1, "y": 1}, "make the first dimensions equal", id="no arrays"),
        pytest.param({"x": [None], "y": [1]}, "Python objects", id="pickles"),
    ],
)
def test_a_file_that_is_no_data_set_is_told(
    tmp_path: Path, arrays: dict[str, Any], sentence: str
) -> None:
    made = {name: np.array(each) for name, each in arrays.items()}
    np.savez(tmp_path / "data.npz", allow_pickle=True, **made)
    with pytest.raises(InvalidDatasetError, match=sentence):
        datasets.load(str(tmp_path / "data.npz"))


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x03\x04 half of one"])
def test_a_file_that_is_no_npz_is_told(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "data.npz").write_bytes(content)
    with pytest.raises(InvalidDatasetError, match="cannot be read"):
        datasets.load(f"file://{tmp_path}/data.npz")
