"""Data sets by name or address, as arrays x and y; and splits that are the same everywhere."""

from __future__ import annotations

import hashlib
import os
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lepton_ai.recipes.sharding import stratified_split
from lepton_ai.record import FailureError, Reason

HELD_OUT_SHARE = 0.2
# Not a run's seed: models of different runs are compared on the same samples.
SPLIT_SEED = 2_000
NAMES = ("digits", "mnist")

Array = NDArray[Any]


class DatasetNotFoundError(FailureError):
    reason = Reason.NO_DATA


class InvalidDatasetError(FailureError):
    reason = Reason.INVALID_DATASET


@dataclass(frozen=True)
class Dataset:
    """Samples and their labels; the digest is of a file's bytes, or of the arrays themselves."""

    name: str
    x: Array
    y: Array
    digest: str

    def __len__(self) -> int:
        return len(self.x)

    def split(self, held_out_share: float = HELD_OUT_SHARE) -> tuple[Dataset, Dataset]:
        """Return a part for training and a held-out part: the same two wherever it is called.

        The labels are classes; each is held out in its own proportion.
        """
        held_out = max(1, round(len(self) * held_out_share))
        training_rows, held_out_rows = stratified_split(self.y, held_out, SPLIT_SEED)
        return self._part(training_rows), self._part(held_out_rows)

    def _part(self, rows: NDArray[np.int64]) -> Dataset:
        return from_arrays(self.name, self.x[rows], self.y[rows])


def load(name: str) -> Dataset:
    """Load a data set by its name, or from the path or file:// URL of an .npz with x and y.

    Images come as they are stored, [samples, rows, columns]: `mnist` as uint8, `digits` as float32
    between 0 and 1; labels as int64.
    """
    if name == "digits":
        return _scikit_learn_digits()
    if name == "mnist":
        return _mnist()
    path = Path(name.removeprefix("file://"))
    if path.suffix != ".npz":
        raise DatasetNotFoundError(
            f"There is no data set named '{name}'. Known are {', '.join(NAMES)}; anything else is "
            "the address of an .npz with x and y."
        )
    return read_npz(path, name)


def from_arrays(name: str, x: Array, y: Array) -> Dataset:
    """Return a data set whose digest is that of its dtypes, shapes and values."""
    digest = hashlib.sha256()
    for array in (x, y):
        digest.update(f"{array.dtype.str}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return Dataset(name, x, y, f"sha256:{digest.hexdigest()}")


def read_npz(file: Path, name: str, digest: str | None = None) -> Dataset:
    """Read x and y from an .npz; nothing in it is ever unpickled."""
    if not file.is_file():
        raise DatasetNotFoundError(
            f"There is no file {file} to read the data set from. Check the address."
        )
    x, y = _checked(name, *_arrays(file, name))
    with file.open("rb") as source:
        of_bytes = "sha256:" + hashlib.file_digest(source, "sha256").hexdigest()
    return Dataset(name, x, y, digest or of_bytes)


def _arrays(file: Path, name: str) -> tuple[Array | None, Array | None]:
    try:
        with zipfile.ZipFile(file), np.load(file, allow_pickle=False) as arrays:
            return arrays.get("x"), arrays.get("y")
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise InvalidDatasetError(
            f"The data set {name} cannot be read ({_reason(error)}). "
            "Write it with numpy.savez(file, x=..., y=...)."
        ) from None


def _reason(error: Exception) -> str:
    if "allow_pickle" in str(error):
        return "it holds Python objects, which are never loaded"
    return str(error).partition("\n")[0].rstrip(".")[:200]


def _checked(name: str, x: Array | None, y: Array | None) -> tuple[Array, Array]:
    if x is None:
        raise InvalidDatasetError(f"The data set {name} has no samples: there is no array x in it.")
    if y is None:
        raise InvalidDatasetError(
            f"The data set {name} has no labels: there is no array y in it. "
            "Write it with numpy.savez(file, x=..., y=...)."
        )
    if x.ndim == 0 or y.ndim == 0 or len(x) != len(y):
        raise InvalidDatasetError(
            f"The data set {name} has x of shape {x.shape} and y of shape {y.shape}. "
            "Each sample needs one label: make the first dimensions equal."
        )
    if len(x) == 0:
        raise InvalidDatasetError(f"The data set {name} is empty. Give it at least one sample.")
    return x, y


def _scikit_learn_digits() -> Dataset:
    """1,797 handwritten digits of 8x8 pixels, as scikit-learn ships them."""
    try:
        from sklearn.datasets import load_digits  # noqa: PLC0415  # only this data set needs it
    except ImportError:
        raise DatasetNotFoundError(
            "The data set digits comes with scikit-learn, which is not installed here. "
            "Install lepton-operator[sdk], or choose another data set."
        ) from None
    x, y = load_digits(return_X_y=True)
    images = (x.reshape(-1, 8, 8) / 16.0).astype(np.float32)
    return from_arrays("digits", images, y.astype(np.int64))


def _mnist() -> Dataset:
    """MNIST digits of 28x28 uint8 pixels, from an .npz that the images of this project carry."""
    folder = Path(os.environ.get("LEPTON_DATASETS") or "/opt/lepton/datasets")
    file = folder / "mnist.npz"
    if not file.is_file():
        raise DatasetNotFoundError(
            f"The data set mnist is not here: {file} does not exist. The images of this project "
            "carry it; elsewhere set LEPTON_DATASETS to the folder that has mnist.npz."
        )
    raw = read_npz(file, "mnist")
    if raw.x.dtype != np.uint8 or raw.x.shape[1:] != (28, 28):
        raise InvalidDatasetError(
            f"{file} has x of {raw.x.dtype} and shape {raw.x.shape}, not uint8 of [n, 28, 28]. "
            "Make the file again."
        )
    return from_arrays("mnist", raw.x, raw.y.astype(np.int64))
