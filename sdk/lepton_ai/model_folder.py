"""A folder that holds a model: which of its files belong to a version, and what they say."""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from lepton_ai import onnx_model
from lepton_ai.curves import DATA_FILE, PICTURE_FILE
from lepton_ai.record import InvalidModelError
from lepton_ai.store import file_sha256
from lepton_ai.versions import (
    HELD_OUT_FILE,
    METRICS_FILE,
    MODEL_FILE,
    SIGNATURE_FILE,
    TRAINABLE_FOLDER,
    Manifest,
    ModelFile,
    Signature,
    canonical_digest,
)
from lepton_ai.warm_up import with_examples

TOP_FILES = (MODEL_FILE, HELD_OUT_FILE, SIGNATURE_FILE, METRICS_FILE)
CURVE_FILES = (DATA_FILE, PICTURE_FILE)
CURVES_LIMIT_BYTES = 4 * 1024 * 1024
MOST_FILES = 10_000
MOST_METRICS = 64
JSON_LIMIT_BYTES = 1024 * 1024

logger = logging.getLogger(__name__)

LARGEST_SIZE = 1_000_000
Shape = Annotated[
    tuple[Annotated[int, Field(ge=1, le=LARGEST_SIZE)], ...], Field(min_length=1, max_length=16)
]
Text = Annotated[str, StringConstraints(min_length=1, max_length=1024)]


class SignatureFile(BaseModel):
    """What signature.json may say beyond what the ONNX file says itself; the rest is left aside."""

    model_config = ConfigDict(strict=True, extra="ignore")

    labels: Annotated[tuple[Text, ...], Field(min_length=1, max_length=100_000)] | None = None
    preprocessing: dict[Text, Text] | None = None
    examples: dict[Text, Shape] = Field(default_factory=dict)


def belongs_to_version(path: str) -> bool:
    """Whether a file of this relative path is part of a version; all others are left alone."""
    return path in TOP_FILES or path.startswith(f"{TRAINABLE_FOLDER}/")


def files(folder: Path) -> tuple[ModelFile, ...]:
    """Return the files of a version with their digests, sorted by path.

    A symbolic link may point to a file inside the folder; one that leads out of it is refused,
    because it could publish what this process can read and its owner cannot.
    """
    paths = sorted(_paths(folder))
    if len(paths) > MOST_FILES:
        raise InvalidModelError(
            f"The model consists of {len(paths)} files, and {MOST_FILES} are allowed. "
            f"Put what is in {TRAINABLE_FOLDER}/ into fewer files."
        )
    return tuple(_file(folder, path) for path in paths)


def _paths(folder: Path) -> Iterator[str]:
    # Whatever has the name of a file: a folder or a pipe is refused, not left out.
    yield from (name for name in TOP_FILES if os.path.lexists(folder / name))
    for place, _, names in os.walk(folder / TRAINABLE_FOLDER):
        yield from ((Path(place) / name).relative_to(folder).as_posix() for name in names)


def curves(folder: Path) -> tuple[ModelFile, ...]:
    """Return the files with a training's curves; none that is too large, or no plain file."""
    return tuple(filter(None, (_curve(folder, name) for name in CURVE_FILES)))


def _curve(folder: Path, name: str) -> ModelFile | None:
    if not os.path.lexists(folder / name):
        return None
    try:
        found = _file(folder, name)
    except InvalidModelError as error:
        logger.warning("%s The version goes without it.", error)
        return None
    if found.size_bytes > CURVES_LIMIT_BYTES:
        logger.warning("%s is too large to be kept: %d bytes", name, found.size_bytes)
        return None
    return found


def _file(folder: Path, path: str) -> ModelFile:
    file = folder / path
    if not file.resolve().is_relative_to(folder.resolve()) or not file.is_file():
        raise InvalidModelError(
            f"{path} is a link that leads out of the folder, or no file. "
            "Write the file itself there."
        )
    try:
        return ModelFile(path=path, sha256=file_sha256(file), size_bytes=file.stat().st_size)
    except PermissionError:
        raise InvalidModelError(
            f"{path} may not be read by user {os.getuid()}. Write it with a mode that lets it."
        ) from None


def source_digest(path: Path) -> str:
    """Return the digest that `source.digest` names.

    Of a file it is the sha256 of its bytes; of a folder the sha256 of the canonical JSON of the
    sorted list of [path, sha256] of the files that belong to a version.
    """
    if path.is_file():
        return f"sha256:{file_sha256(path)}"
    return canonical_digest([[file.path, file.sha256] for file in files(path)])


def read_manifest(folder: Path, limits: onnx_model.Limits) -> Manifest:
    """Check a model and describe it; raise InvalidModelError with a sentence."""
    parts = files(folder)  # before anything is read: this refuses links that lead out
    model = onnx_model.inspect(folder / MODEL_FILE, limits)
    said = _read_signature(folder / SIGNATURE_FILE)
    _check_labels(said, model.signature)
    signature = with_examples(folder, model.signature, said.examples).model_copy(
        update={"labels": said.labels, "preprocessing": said.preprocessing}
    )
    return Manifest(files=parts, signature=signature, opset=model.opset, ir=model.ir)


def _read_signature(file: Path) -> SignatureFile:
    if not file.is_file():
        return SignatureFile()
    try:
        return SignatureFile.model_validate_json(_read_start(file))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"]) or "the file"
        raise InvalidModelError(
            f"{SIGNATURE_FILE} cannot be read: {place}: {first['msg']}. It is a JSON object with "
            "labels (a list of texts), preprocessing (a text for each input) and examples (the "
            "shape of a request for each input), all optional."
        ) from None


def _check_labels(said: SignatureFile, signature: Signature) -> None:
    sizes = {tensor.shape[-1] for tensor in signature.outputs if len(tensor.shape) > 1} - {-1}
    if said.labels and sizes and len(said.labels) not in sizes:
        known = " or ".join(str(size) for size in sorted(sizes))
        raise InvalidModelError(
            f"{SIGNATURE_FILE} names {len(said.labels)} labels, and the model's output has {known} "
            "columns. Give one label for each column."
        )


def read_metrics(folder: Path) -> dict[str, float]:
    """Return the finite numbers of metrics.json; a broken file costs a warning, no model."""
    file = folder / METRICS_FILE
    if not file.is_file():
        return {}
    try:
        said = json.loads(_read_start(file))
    except (ValueError, RecursionError):
        said = None
    if not isinstance(said, dict):
        logger.warning("%s is not a JSON object of numbers: no metrics are recorded", METRICS_FILE)
        return {}
    usable = {name: value for name, value in said.items() if _is_finite(value)}
    return dict(list(usable.items())[:MOST_METRICS])


def _read_start(file: Path) -> bytes:
    with file.open("rb") as source:
        return source.read(JSON_LIMIT_BYTES)


def _is_finite(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
