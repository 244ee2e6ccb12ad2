"""What a training leaves behind: the files of a model version, beside ``model.onnx``."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

DEFAULT_FOLDER = "output"


def output_folder(environment: Mapping[str, str]) -> Path:
    """Return LEPTON_OUTPUT_DIR, or ``./output`` where no launcher has set it; the folder exists."""
    folder = Path(environment.get("LEPTON_OUTPUT_DIR") or DEFAULT_FOLDER)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def write_heldout(folder: Path, x: NDArray[Any], y: NDArray[np.int64]) -> None:
    """Write ``heldout.npz``: inputs exactly as the model takes them, and their labels.

    Equal arrays give equal bytes, so equal held-out data have one digest.
    """
    np.savez_compressed(folder / "heldout.npz", x=x, y=y)


def write_signature(folder: Path, labels: Sequence[str], preprocessing: Mapping[str, str]) -> None:
    """Write ``signature.json``: what the ONNX file itself cannot say.

    Args:
        folder: the output folder.
        labels: the name of each class, in the order of the model's outputs.
        preprocessing: for each input, a sentence that says what a client must send.

    """
    _write_json(
        folder / "signature.json", {"labels": list(labels), "preprocessing": dict(preprocessing)}
    )


def write_metrics(folder: Path, metrics: Mapping[str, float]) -> None:
    """Write ``metrics.json``: flat numbers, measured on the held-out data."""
    _write_json(folder / "metrics.json", dict(metrics))


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")
