"""A Triton model repository: one folder a model, with config.pbtxt and numbered versions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lepton_ai.record import CannotBatchError
from lepton_ai.versions import MODEL_FILE, Signature, Tensor

CONFIG_FILE = "config.pbtxt"
LONGEST_WAIT_MICROSECONDS = 86_400_000_000
"""A day: a request may say how long it is worth computing, but only less than the default."""
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


@dataclass(frozen=True)
class Serving:
    """How a model is to be served, beyond what its signature says; 0 and None are Triton's own."""

    max_batch_size: int
    must_batch: bool = False
    preferred_batch_sizes: tuple[int, ...] = ()
    max_queue_delay_microseconds: int = 0
    instances: int | None = None
    response_cache: bool = False
    priority_levels: int = 0


def model_config(
    model: str, version: int, signature: Signature, serving: Serving
) -> dict[str, Any]:
    """Return the ModelConfig of one version of an ONNX model.

    Triton batches only models whose every tensor has a dynamic first dimension; the others get
    `max_batch_size` 0 and their whole shapes, or CannotBatchError where they must be batched.
    """
    if serving.must_batch and not signature.is_batched:
        raise CannotBatchError(_why_not(signature))
    batches = serving.max_batch_size > 0 and signature.is_batched
    config: dict[str, Any] = {
        "name": model,
        "backend": "onnxruntime",
        "default_model_filename": MODEL_FILE,
        "max_batch_size": serving.max_batch_size if batches else 0,
        "input": [_tensor(tensor, batches=batches) for tensor in signature.inputs],
        "output": [_tensor(tensor, batches=batches) for tensor in signature.outputs],
        "version_policy": {"specific": {"versions": [version]}},
    }
    # The dynamic batcher orders by priority too, one request at a time if there are no batches.
    if (batches and serving.max_batch_size > 1) or serving.priority_levels:
        config["dynamic_batching"] = _dynamic_batching(serving)
    if serving.instances:
        config["instance_group"] = [{"count": serving.instances}]
    if serving.response_cache:
        config["response_cache"] = {"enable": True}
    if can_be_warmed_up(signature, batches=batches):
        sizes = sorted({1, serving.max_batch_size}) if batches else [1]
        config["model_warmup"] = [_warmup(signature, size, batches=batches) for size in sizes]
    return config


def _why_not(signature: Signature) -> str:
    tensors = (*signature.inputs, *signature.outputs)
    fixed = next((tensor for tensor in tensors if tensor.shape[:1] != (-1,)), None)
    if fixed is None:
        reason = "the first sizes of its inputs have different names, so they are no common batch"
    elif not fixed.shape:
        reason = f"{fixed.name!r} is a scalar"
    else:
        reason = f"the first size of {fixed.name!r} is always {fixed.shape[0]}"
    return (
        f"The model cannot be batched: {reason}. Export it with one dynamic first dimension for "
        "all inputs and outputs, or take spec.batching away: it is then served one request at a "
        "time."
    )


def _dynamic_batching(serving: Serving) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if serving.preferred_batch_sizes:
        found["preferred_batch_size"] = list(serving.preferred_batch_sizes)
    if serving.max_queue_delay_microseconds:
        found["max_queue_delay_microseconds"] = serving.max_queue_delay_microseconds
    if serving.priority_levels:
        found |= _priorities(serving.priority_levels)
    return found


def _priorities(levels: int) -> dict[str, Any]:
    """Return levels, and leave for requests to say how long they are worth computing.

    Each of these, and a bound on the queue, keeps Triton from putting the next batch together while
    one is computed (PriorityQueue::SupportPrefetching), and what then wakes the batcher may be lost
    until another request comes, or for half a second: so only who asks for levels gets that. The
    queue is bounded at the door.
    """
    policy = {
        "timeout_action": Enum("REJECT"),
        "default_timeout_microseconds": LONGEST_WAIT_MICROSECONDS,
        "allow_timeout_override": True,
    }
    return {
        "default_queue_policy": policy,
        "priority_levels": levels,
        "default_priority_level": levels // 2 + 1,
    }


def can_be_warmed_up(signature: Signature, *, batches: bool) -> bool:
    """Whether it is known what a request looks like; a guessed size could stop the load."""
    return all(-1 not in _request_dims(tensor, batches=batches) for tensor in signature.inputs)


def _request_dims(tensor: Tensor, *, batches: bool) -> tuple[int, ...]:
    shape = tensor.example or tensor.shape
    return shape[1:] if batches else shape


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
                    "dims": list(_request_dims(tensor, batches=batches)) or [1],
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
