"""A Triton model repository: one folder a model, with config.pbtxt and numbered versions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lepton_ai.versions import MODEL_FILE, Signature, Tensor

CONFIG_FILE = "config.pbtxt"
TRITON_TYPES = {
    "bool": "TYPE_BOOL",
    "string": "TYPE_STRING",
    "float16": "TYPE_FP16",
    "bfloat16": "TYPE_BF16",
    "float32": "TYPE_FP32",
    "float64": "TYPE_FP64",
} | {
    f"{sign}int{bits}": f"TYPE_{sign.upper()}INT{bits}"
    for sign in ("", "u")
    for bits in (8, 16, 32, 64)
}


@dataclass(frozen=True)
class Enum:
    """A name that protobuf's text format writes without quotes."""

    name: str


def model_folder(repository: Path, model: str) -> Path:
    return repository / model


def write_config(repository: Path, model: str, config: Mapping[str, Any]) -> Path:
    """Write a model's config.pbtxt; it is never seen half written."""
    file = model_folder(repository, model) / CONFIG_FILE
    partial = file.with_name(f".{CONFIG_FILE}.partial")
    partial.write_text(text_format(config))
    partial.replace(file)
    return file


def model_config(
    model: str, version: int, signature: Signature, max_batch_size: int
) -> dict[str, Any]:
    """Return the ModelConfig of one version of an ONNX model.

    Triton batches only models whose every tensor has a dynamic first dimension; the others get
    `max_batch_size` 0 and their whole shapes.
    """
    batches = max_batch_size > 0 and is_batched(signature)
    config: dict[str, Any] = {
        "name": model,
        "backend": "onnxruntime",
        "default_model_filename": MODEL_FILE,
        "max_batch_size": max_batch_size if batches else 0,
        "input": [_tensor(tensor, batches=batches) for tensor in signature.inputs],
        "output": [_tensor(tensor, batches=batches) for tensor in signature.outputs],
        "version_policy": {"specific": {"versions": [version]}},
    }
    if batches:
        config["dynamic_batching"] = {}
    if can_be_warmed_up(signature, batches=batches):
        sizes = (1, max_batch_size) if batches and max_batch_size > 1 else (1,)
        config["model_warmup"] = [_warmup(signature, size, batches=batches) for size in sizes]
    return config


def is_batched(signature: Signature) -> bool:
    """Whether the first dimension of every tensor is free, which Triton takes for the batch."""
    tensors = (*signature.inputs, *signature.outputs)
    return all(tensor.shape[:1] == (-1,) for tensor in tensors)


def can_be_warmed_up(signature: Signature, *, batches: bool) -> bool:
    """Whether the shapes say what a request looks like; a guessed size could stop the load."""
    return all(-1 not in _dims(tensor, batches=batches) for tensor in signature.inputs)


def _dims(tensor: Tensor, *, batches: bool) -> tuple[int, ...]:
    return tensor.shape[1:] if batches else tensor.shape


def _tensor(tensor: Tensor, *, batches: bool) -> dict[str, Any]:
    dims = _dims(tensor, batches=batches)
    described: dict[str, Any] = {
        "name": tensor.name,
        "data_type": Enum(TRITON_TYPES[tensor.dtype]),
        "dims": list(dims) or [1],
    }
    # Triton allows no empty dims: one value a sample is declared [1] and reshaped.
    return described if dims else {**described, "reshape": {"shape": []}}


def _warmup(signature: Signature, batch_size: int, *, batches: bool) -> dict[str, Any]:
    return {
        "name": f"zeros, batch {batch_size}",
        "batch_size": batch_size,
        "inputs": [
            {
                "key": tensor.name,
                "value": {
                    "data_type": Enum(TRITON_TYPES[tensor.dtype]),
                    "dims": list(_dims(tensor, batches=batches)) or [1],
                    "zero_data": True,
                },
            }
            for tensor in signature.inputs
        ],
    }


def text_format(message: Mapping[str, Any]) -> str:
    """Write nested dicts in protobuf's text format; a list is a repeated field."""
    return "".join(f"{line}\n" for line in _lines(message))


def _lines(message: Mapping[str, Any], indent: str = "") -> Iterator[str]:
    for name, value in message.items():
        for item in (
            value if isinstance(value, Sequence) and not isinstance(value, str) else (value,)
        ):
            if isinstance(item, Mapping):
                yield f"{indent}{name} {{"
                yield from _lines(item, indent + "  ")
                yield f"{indent}}}"
            else:
                yield f"{indent}{name}: {_scalar(item)}"


def _scalar(value: Enum | str | float) -> str:
    if isinstance(value, Enum):
        return value.name
    if isinstance(value, bool):
        return str(value).lower()
    return _quoted(value) if isinstance(value, str) else str(value)


def _quoted(text: str) -> str:
    """Quote as C does; every byte that is not plain ASCII, and both quotes, as octal."""
    plain = frozenset(range(0x20, 0x7F)) - {ord('"'), ord("'"), ord("\\")}
    body = "".join(chr(byte) if byte in plain else f"\\{byte:03o}" for byte in text.encode())
    return f'"{body}"'
