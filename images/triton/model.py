"""A Triton backend named `onnxruntime`, for servers that carry only the Python backend.

A model repository whose config.pbtxt says `backend: "onnxruntime"`, with `<version>/model.onnx`,
runs here as on NVIDIA's own image: Triton batches the requests, ONNX Runtime computes them in one
call. The parameters are those of NVIDIA's backend: `intra_op_thread_count`,
`inter_op_thread_count`, `execution_mode` (0 sequential, 1 parallel) and
`optimization.graph.level` (-1 basic, 1 or absent all). Computes on the CPU.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import triton_python_backend_utils as pb_utils
from numpy.typing import NDArray

_DEFAULT_FILE = "model.onnx"
_BASIC_GRAPH_LEVEL = -1
_TYPES = {
    "TYPE_BOOL": "tensor(bool)",
    "TYPE_UINT8": "tensor(uint8)",
    "TYPE_UINT16": "tensor(uint16)",
    "TYPE_UINT32": "tensor(uint32)",
    "TYPE_UINT64": "tensor(uint64)",
    "TYPE_INT8": "tensor(int8)",
    "TYPE_INT16": "tensor(int16)",
    "TYPE_INT32": "tensor(int32)",
    "TYPE_INT64": "tensor(int64)",
    "TYPE_FP16": "tensor(float16)",
    "TYPE_FP32": "tensor(float)",
    "TYPE_FP64": "tensor(double)",
    "TYPE_STRING": "tensor(string)",
}
"""Triton's names of element types, and ONNX Runtime's."""

Tensors = dict[str, NDArray[Any]]


class TritonPythonModel:
    """One instance of a model, in a process of its own."""

    def initialize(self, args: Mapping[str, str]) -> None:
        """Load the file; what is wrong with it fails the load of the model, and is in the log."""
        config = json.loads(args["model_config"])
        file = Path(
            args["model_repository"],
            args["model_version"],
            config.get("default_model_filename") or _DEFAULT_FILE,
        )
        self._batches = int(config.get("max_batch_size", 0)) > 0
        self._session = _load(file, config)
        self._inputs = [tensor["name"] for tensor in config["input"]]
        self._outputs = [tensor["name"] for tensor in config["output"]]
        _check("input", config["input"], self._session.get_inputs(), file)
        _check("output", config["output"], self._session.get_outputs(), file)

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answer requests that Triton's batcher has put together, in one run if it batches."""
        given = [self._read(request) for request in requests]
        try:
            results = self._run_together(given) if self._batches else self._run_each(given)
        except Exception as error:  # noqa: BLE001  ONNX Runtime's errors have no class in common
            return [_refusal(error) for _ in requests]
        return [
            _response(request, result) for request, result in zip(requests, results, strict=True)
        ]

    def _read(self, request: Any) -> Tensors:
        """An optional input that the request leaves out is left out of the run too."""
        found = {name: pb_utils.get_input_tensor_by_name(request, name) for name in self._inputs}
        return {name: tensor.as_numpy() for name, tensor in found.items() if tensor is not None}

    def _run_together(self, given: list[Tensors]) -> list[Tensors]:
        joined = {name: np.concatenate([one[name] for one in given]) for name in given[0]}
        results = self._run(joined)
        sizes = [len(next(iter(one.values()))) for one in given]
        parts = {name: np.split(value, np.cumsum(sizes)[:-1]) for name, value in results.items()}
        return [{name: parts[name][index] for name in parts} for index in range(len(given))]

    def _run_each(self, given: list[Tensors]) -> list[Tensors]:
        return [self._run(one) for one in given]

    def _run(self, feed: Tensors) -> Tensors:
        return dict(zip(self._outputs, self._session.run(self._outputs, feed), strict=True))


def _load(file: Path, config: Mapping[str, Any]) -> ort.InferenceSession:
    try:
        return ort.InferenceSession(
            str(file), sess_options=_options(config), providers=["CPUExecutionProvider"]
        )
    except Exception as error:
        raise pb_utils.TritonModelException(
            f"ONNX Runtime {ort.__version__} cannot load {file}: {error}"
        ) from error


def _options(config: Mapping[str, Any]) -> ort.SessionOptions:
    parameters = {
        name: value["string_value"] for name, value in config.get("parameters", {}).items()
    }
    options = ort.SessionOptions()
    options.intra_op_num_threads = _integer(parameters, "intra_op_thread_count")
    options.inter_op_num_threads = _integer(parameters, "inter_op_thread_count")
    if _integer(parameters, "execution_mode") == 1:
        options.execution_mode = ort.ExecutionMode.ORT_PARALLEL
    graph = config.get("optimization", {}).get("graph", {})
    if int(graph.get("level", 0)) == _BASIC_GRAPH_LEVEL:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    return options


def _integer(parameters: Mapping[str, str], name: str) -> int:
    text = parameters.get(name, "0")
    try:
        return int(text)
    except ValueError:
        raise pb_utils.TritonModelException(
            f"The parameter {name} in config.pbtxt is {text!r}; it takes a whole number."
        ) from None


def _check(kind: str, configured: Sequence[Any], actual: Sequence[ort.NodeArg], file: Path) -> None:
    """Say at load time, not at the first request, that config.pbtxt means another model."""
    types = {tensor.name: tensor.type for tensor in actual}
    for tensor in configured:
        name, wanted = tensor["name"], _TYPES.get(tensor["data_type"], tensor["data_type"])
        if name not in types:
            raise pb_utils.TritonModelException(
                f"config.pbtxt names the {kind} {name!r}, but {file} has {', '.join(types)}."
            )
        if types[name] != wanted:
            raise pb_utils.TritonModelException(
                f"config.pbtxt says that the {kind} {name!r} is a {wanted}, but in {file} it is a "
                f"{types[name]}."
            )


def _response(request: Any, result: Tensors) -> Any:
    """With the outputs that the request asks for."""
    asked = request.requested_output_names()
    return pb_utils.InferenceResponse(
        output_tensors=[pb_utils.Tensor(name, result[name]) for name in asked]
    )


def _refusal(error: Exception) -> Any:
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(str(error)))
