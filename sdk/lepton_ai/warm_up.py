"""What a request looks like, for models that leave more open than the batch.

Triton asks a model for an answer before it calls it ready; where sizes are dynamic somebody must
say which. A shape that the model does not answer would keep a good model from loading, so each is
tried here, when the version is made: in a process of its own, `python -m lepton_ai.warm_up MODEL
SHAPES`, since a computation on zeros may never end, or end the process.
"""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from lepton_ai import onnx_model
from lepton_ai.record import InvalidModelError
from lepton_ai.versions import HELD_OUT_FILE, MODEL_FILE, SIGNATURE_FILE, Signature, Tensor

Shape = tuple[int, ...]

LIMIT_SECONDS = 60

logger = logging.getLogger(__name__)


def with_examples(folder: Path, signature: Signature, said: Mapping[str, Shape]) -> Signature:
    """Return the signature with shapes that the model answers, where it leaves some open.

    They are those of signature.json, else of a held-out sample, else 1 for each open size. Only
    what somebody said is an error if it does not fit.
    """
    _check(signature, said)
    guessed = said or _held_out(folder, signature)
    if not said and all(-1 not in _open(tensor, signature) for tensor in signature.inputs):
        return signature
    shapes = {each.name: guessed.get(each.name) or _ones(each) for each in signature.inputs}
    refused = _refusal(folder / MODEL_FILE, shapes)
    if refused is None:
        inputs = (
            each.model_copy(update={"example": shapes[each.name]}) for each in signature.inputs
        )
        return signature.model_copy(update={"inputs": tuple(inputs)})
    if said:
        raise InvalidModelError(
            f"{SIGNATURE_FILE} gives examples, and the model does not answer zeros of these "
            f"shapes: {refused} Give the shape of a request that it answers."
        )
    logger.warning(
        "The model does not answer zeros of the shapes %s, so it is served without a warm-up: %s "
        'Give the shape of a request in %s, such as {"examples": {"tokens": [1, 128]}}.',
        shapes,
        refused,
        SIGNATURE_FILE,
    )
    return signature


def _refusal(file: Path, shapes: Mapping[str, Shape]) -> str | None:
    """Return why the model does not answer zeros of these shapes; None if it does."""
    argv = (sys.executable, "-m", "lepton_ai.warm_up", str(file), json.dumps(shapes))
    try:
        done = subprocess.run(
            argv, capture_output=True, text=True, check=False, timeout=LIMIT_SECONDS
        )
    except subprocess.TimeoutExpired:
        return f"it had not answered after {LIMIT_SECONDS} s."
    if done.returncode:
        return f"ONNX Runtime ended with {done.returncode} (a signal, if that is below zero)."
    return done.stdout.strip() or None


def _check(signature: Signature, said: Mapping[str, Shape]) -> None:
    tensors = {tensor.name: tensor for tensor in signature.inputs}
    for name, shape in said.items():
        if name not in tensors:
            raise InvalidModelError(
                f"{SIGNATURE_FILE} gives an example for {name!r}, and the model's inputs are "
                f"{', '.join(tensors)}. Name one of them."
            )
        if not _fits(shape, tensors[name]):
            raise InvalidModelError(
                f"{SIGNATURE_FILE} gives the example {list(shape)} for {name!r}, whose shape is "
                f"{list(tensors[name].shape)} (-1 is any size). Give a shape that fits."
            )


def _fits(shape: Shape, tensor: Tensor) -> bool:
    pairs = zip(shape, tensor.shape, strict=False)
    return len(shape) == len(tensor.shape) and all(wanted in (-1, size) for size, wanted in pairs)


def _open(tensor: Tensor, signature: Signature) -> Shape:
    """Return the sizes that no batch size fills in."""
    return tensor.shape[1:] if signature.is_batched else tensor.shape


def _ones(tensor: Tensor) -> Shape:
    return tuple(1 if size == -1 else size for size in tensor.shape)


def _held_out(folder: Path, signature: Signature) -> dict[str, Shape]:
    """Return the shape of one held-out sample, which a model of one input is evaluated on."""
    file = folder / HELD_OUT_FILE
    if len(signature.inputs) != 1 or not file.is_file():
        return {}
    tensor = signature.inputs[0]
    try:
        shape = (1, *_shape_in(file, "x.npy")[1:])
    except (KeyError, ValueError, zipfile.BadZipFile):  # evaluating it says what is wrong
        return {}
    return {tensor.name: shape} if _fits(shape, tensor) else {}


def _shape_in(file: Path, member: str) -> Shape:
    """Return the shape of an array in an .npz; only its header is read."""
    with zipfile.ZipFile(file) as archive, archive.open(member) as array:
        version = np.lib.format.read_magic(array)
        if version == (1, 0):
            return np.lib.format.read_array_header_1_0(array)[0]
        return np.lib.format.read_array_header_2_0(array)[0]


def main(arguments: Sequence[str]) -> int:
    """Print why a model does not answer zeros; nothing if it does."""
    file, shapes = arguments
    print(onnx_model.refusal(Path(file), json.loads(shapes)) or "")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
