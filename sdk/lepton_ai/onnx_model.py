"""What an ONNX file says of itself: its signature, and whether Triton will load it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from lepton_ai.record import InvalidModelError
from lepton_ai.versions import Signature, Tensor

ONNX_DOMAINS = ("", "ai.onnx")
SAME_WORDS = ("bool", "string", "float16", "bfloat16")
INTEGERS = tuple(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64))
DTYPES = {"float": "float32", "double": "float64"} | {word: word for word in SAME_WORDS + INTEGERS}
"""NumPy's word for each tensor type of ONNX Runtime that Triton serves."""

MADE_UP_NAME = re.compile(r".*_dynamic_axes_[0-9]+|unk__[0-9]+")
"""Names of sizes by torch.onnx.export and tf2onnx: another for each input, whatever it means."""


@dataclass(frozen=True)
class Limits:
    """The newest opset and IR version that the serving Triton loads; None is no limit."""

    opset: int | None = None
    ir: int | None = None


@dataclass(frozen=True)
class OnnxModel:
    """A file that was found loadable."""

    signature: Signature
    opset: int
    ir: int


def inspect(file: Path, limits: Limits | None = None) -> OnnxModel:
    """Read an ONNX file and load it in ONNX Runtime; raise InvalidModelError with a sentence."""
    limits = limits or Limits()
    model = _parse(file)
    opset, ir = _opset(model), int(model.ir_version)
    _check_age(opset, ir, limits)
    _check_single_file(model)
    return OnnxModel(_signature(open_session(file)), opset, ir)


def open_session(file: Path, threads: int = 1) -> onnxruntime.InferenceSession:
    """Load a model on the CPU, to be run by so many threads."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(
            str(file), sess_options=options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # noqa: BLE001  # ONNX Runtime's have no base class of their own
        raise InvalidModelError(
            f"ONNX Runtime {onnxruntime.__version__} cannot load {file.name}: "
            f"{first_line(error)} Export the model again, and try it in ONNX Runtime first."
        ) from None


def first_line(error: BaseException) -> str:
    """Return an error's first line, cut to 300 characters, as a sentence."""
    line = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
    return line[:300].rstrip(". ") + "."


def _parse(file: Path) -> onnx.ModelProto:
    try:
        model = onnx.load(str(file), load_external_data=False)
    except (DecodeError, ValueError):
        raise _not_onnx(file) from None
    # Random bytes can be a valid, empty message.
    if not model.ir_version or not model.opset_import or not model.graph.node:
        raise _not_onnx(file)
    return model


def _not_onnx(file: Path) -> InvalidModelError:
    return InvalidModelError(
        f"{file.name} ({file.stat().st_size} bytes) is not an ONNX file. "
        "Write it with torch.onnx.export or lepton_ai.export."
    )


def _opset(model: onnx.ModelProto) -> int:
    versions = [entry.version for entry in model.opset_import if entry.domain in ONNX_DOMAINS]
    return int(max(versions, default=0))


def _check_age(opset: int, ir: int, limits: Limits) -> None:
    if limits.opset is not None and opset > limits.opset:
        raise InvalidModelError(
            f"The model uses ONNX opset {opset}, and the Triton that would serve it loads at most "
            f"opset {limits.opset}. Export it with opset_version={limits.opset} or less."
        )
    if limits.ir is not None and ir > limits.ir:
        raise InvalidModelError(
            f"The model's file has ONNX IR version {ir}, and the Triton that would serve it loads "
            f"at most IR version {limits.ir}. Set model.ir_version = {limits.ir} and save it again."
        )


def _check_single_file(model: onnx.ModelProto) -> None:
    tensors = _stored_tensors(model.graph)
    outside = next((t for t in tensors if t.data_location == onnx.TensorProto.EXTERNAL), None)
    if outside is not None:
        raise InvalidModelError(
            f"The model keeps the weights of '{outside.name}' in another file. A version is one "
            "file: save it with onnx.save_model(model, 'model.onnx', save_as_external_data=False)."
        )


def _stored_tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            for inner in (attribute.g, *attribute.graphs):
                yield from _stored_tensors(inner)


def refusal(file: Path, shapes: Mapping[str, Sequence[int]]) -> str | None:
    """Ask the model for an answer to zeros of these shapes; return its error, None if it answers.

    Triton warms a model up with the same.
    """
    session = open_session(file)
    dtypes = {each.name: _dtype(each) for each in session.get_inputs()}
    try:
        session.run(None, {name: _zeros(dtypes[name], shape) for name, shape in shapes.items()})
    except Exception as error:  # noqa: BLE001  # ONNX Runtime's have no base class of their own
        return first_line(error)
    return None


def _zeros(dtype: str, shape: Sequence[int]) -> NDArray[Any]:
    if dtype == "string":
        return np.full(shape, "", dtype=object)
    return np.zeros(shape, dtype=dtype)


def _signature(session: onnxruntime.InferenceSession) -> Signature:
    inputs, outputs = session.get_inputs(), session.get_outputs()
    return Signature(
        inputs=tuple(_tensor(value) for value in inputs),
        outputs=tuple(_tensor(value) for value in outputs),
        batched=None if len(_batch_names(inputs)) <= 1 else False,
    )


def _batch_names(inputs: Iterable[Any]) -> set[str]:
    """Return the names of the inputs' first sizes; exporters that were told none make some up."""
    names = {value.shape[0] for value in inputs if value.shape}
    return {name for name in names if isinstance(name, str) and not MADE_UP_NAME.fullmatch(name)}


def _tensor(value: Any) -> Tensor:
    if not (value.type.startswith("tensor(") and value.type.endswith(")")):
        raise InvalidModelError(
            f"'{value.name}' is a {value.type}, and Triton serves tensors only. Export the model "
            "without it (scikit-learn: options={'zipmap': False})."
        )
    if not value.shape:
        raise InvalidModelError(
            f"'{value.name}' is a scalar, or the file does not say its shape. Triton serves "
            "tensors of at least one dimension: export the model with the batch as the first one."
        )
    shape = tuple(size if isinstance(size, int) and size >= 0 else -1 for size in value.shape)
    return Tensor(name=value.name, dtype=_dtype(value), shape=shape)


def _dtype(value: Any) -> str:
    """Return NumPy's word for ONNX Runtime's `tensor(float)`."""
    word = value.type.removeprefix("tensor(").removesuffix(")")
    if word not in DTYPES:
        raise InvalidModelError(
            f"'{value.name}' holds {word} values, which Triton has no type for. "
            "Cast it to float32 inside the model."
        )
    return DTYPES[word]
