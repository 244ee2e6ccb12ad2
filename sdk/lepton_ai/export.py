"""ONNX files that Triton loads, and that answer as the torch model does; needs torch."""

from __future__ import annotations

import copy
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lepton_ai.onnx_model import ONNX_DOMAINS, first_line, open_session

# The newest pair that every supported Triton loads: ONNX Runtime 1.19 refuses what onnx writes by
# default.
OPSET = 17
IR_VERSION = 9

BATCH_SIZES = (1, 2, 7, 32)
TOLERANCE = 1e-4


class ExportError(Exception):
    """The ONNX file does not do what the torch model does; nothing was written."""


def export_onnx(
    model: nn.Module,
    example: Tensor | Sequence[Tensor],
    path: Path,
    *,
    input_names: Sequence[str],
    output_names: Sequence[str],
    opset: int = OPSET,
    ir_version: int = IR_VERSION,
    batch_sizes: Sequence[int] = BATCH_SIZES,
    tolerance: float = TOLERANCE,
) -> float:
    """Write a torch model as an ONNX file; the first axis of each input and output is the batch.

    The file is run in ONNX Runtime at several batch sizes and appears under ``path`` only if its
    outputs are the model's: exporters freeze a batch size or drop an axis without an error. The
    model itself is left untouched (a copy is exported, on the CPU and in evaluation mode).

    Args:
        model: takes the example's tensors by position, gives a tensor or a tuple of them.
        example: one tensor for each input, shape (rows, ...), any dtype; real data, at least two
            rows. Rows are repeated where a batch size needs more.
        path: the file to write; an older one is replaced at once, as a whole.
        input_names: a name for each input, in order.
        output_names: a name for each output, in order.
        opset: the version of ONNX's operators.
        ir_version: the version of ONNX's file format.
        batch_sizes: the batch sizes to compare at, in rows.
        tolerance: the largest absolute difference allowed, relative to the output's largest
            magnitude at that batch size.

    Returns:
        The largest relative difference that was seen.

    Raises:
        ExportError: the outputs differ (the message says at which batch size and by how much), or
            the model gives something that is not finite.
        InvalidModelError: ONNX Runtime cannot load the file.
        ValueError: names or rows do not match.

    """
    examples = (example,) if isinstance(example, Tensor) else tuple(example)
    _check_arguments(examples, input_names)
    model = copy.deepcopy(model).cpu().eval()
    examples = tuple(tensor.detach().cpu() for tensor in examples)
    with _replacing(path) as partial:
        _trace(model, examples, partial, names=(input_names, output_names), opset=opset)
        _finish(partial, opset, ir_version)
        return _compare(model, examples, partial, batch_sizes, tolerance)


def _check_arguments(examples: tuple[Tensor, ...], input_names: Sequence[str]) -> None:
    if len(examples) != len(input_names):
        raise ValueError(
            f"The example has {len(examples)} inputs, but {len(input_names)} names were given for "
            "them. Give one name for each."
        )
    rows = {len(tensor) for tensor in examples}
    if len(rows) != 1 or min(rows) < 2:  # noqa: PLR2004
        raise ValueError(
            f"The example's inputs have {sorted(rows)} rows. Give the same number for each, at "
            "least two: exporters take a batch of one for a constant."
        )


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """Give a temporary name beside ``path``; rename it there only if the block succeeds."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _trace(
    model: nn.Module,
    examples: tuple[Tensor, ...],
    path: Path,
    *,
    names: tuple[Sequence[str], Sequence[str]],
    opset: int,
) -> None:
    input_names, output_names = names
    # torch.export's exporter starts at opset 18 and converts down, where that succeeds; the tracing
    # one speaks opset 17, needs no onnxscript and takes a tenth of the time. What tracing freezes
    # wrongly, the comparison finds.
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        torch.onnx.export(
            model,
            examples,
            str(path),
            input_names=list(input_names),
            output_names=list(output_names),
            dynamic_axes={name: {0: "batch"} for name in (*input_names, *output_names)},
            opset_version=opset,
            dynamo=False,
        )


def _finish(path: Path, opset: int, ir_version: int) -> None:
    proto = onnx.load(path)
    written = next(entry.version for entry in proto.opset_import if entry.domain in ONNX_DOMAINS)
    if written != opset:
        raise ExportError(
            f"The exporter wrote opset {written} where {opset} was asked for, which Triton may not "
            "load. Replace the operators that need it, or ask for that opset."
        )
    proto.ir_version = ir_version
    onnx.checker.check_model(proto, full_check=True)
    onnx.save(proto, path)


def _compare(
    model: nn.Module,
    examples: tuple[Tensor, ...],
    path: Path,
    batch_sizes: Sequence[int],
    tolerance: float,
) -> float:
    session = open_session(path, threads=1)
    names = [entry.name for entry in session.get_inputs()]
    worst = 0.0
    for batch_size in batch_sizes:
        batch = [_rows(tensor, batch_size) for tensor in examples]
        expected = _outputs(model, batch)
        feed = dict(zip(names, (tensor.numpy() for tensor in batch), strict=True))
        worst = max(worst, _difference(session, expected, feed, batch_size))
        if worst > tolerance:
            raise ExportError(
                f"At batch size {batch_size} the ONNX file differs from the torch model by "
                f"{worst:.2g} of its largest output, where {tolerance:.2g} is allowed. "
                "Look for Python control flow or shapes in forward that the trace has frozen."
            )
    return worst


def _rows(tensor: Tensor, count: int) -> Tensor:
    return tensor[torch.arange(count) % len(tensor)]


def _outputs(model: nn.Module, batch: Sequence[Tensor]) -> list[NDArray[Any]]:
    with torch.inference_mode():
        result = model(*batch)
    return [tensor.numpy() for tensor in ((result,) if isinstance(result, Tensor) else result)]


def _difference(
    session: Any, expected: list[NDArray[Any]], feed: dict[str, NDArray[Any]], batch_size: int
) -> float:
    try:
        given = session.run(None, feed)
    except Exception as error:  # ONNX Runtime's exceptions share no class below Exception
        raise ExportError(
            f"ONNX Runtime fails at batch size {batch_size}: {first_line(error)}"
        ) from error
    shapes = [array.shape for array in expected], [array.shape for array in given]
    if shapes[0] != shapes[1]:
        raise ExportError(
            f"At batch size {batch_size} the ONNX file gives outputs of shape {shapes[1]}, the "
            f"torch model {shapes[0]}. Look for a shape in forward that the trace has frozen."
        )
    pairs = zip(expected, given, strict=True)
    return max(_relative_difference(ours, theirs, batch_size) for ours, theirs in pairs)


def _relative_difference(ours: NDArray[Any], theirs: NDArray[Any], batch_size: int) -> float:
    ours, theirs = ours.astype(np.float64), theirs.astype(np.float64)
    if not (np.isfinite(ours).all() and np.isfinite(theirs).all()):
        raise ExportError(
            f"At batch size {batch_size} the model gives values that are not finite. "
            "Check that the training has converged, and that the example is real data."
        )
    magnitude = max(float(np.abs(ours).max(initial=0)), float(np.finfo(np.float32).tiny))
    return float(np.abs(ours - theirs).max(initial=0)) / magnitude
