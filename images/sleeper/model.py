"""A Triton backend in the place of `onnxruntime`: it answers zeros after 100 ms, one by one.

Everything before it is the real server: its protocols, its scheduler, its queue.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

SERVICE_SECONDS = 0.1


class TritonPythonModel:
    """One instance of a model."""

    def initialize(self, args: Mapping[str, str]) -> None:
        """Take the outputs from the configuration; a size that it leaves open is 1."""
        config = json.loads(args["model_config"])
        batch = [1] if int(config.get("max_batch_size", 0)) > 0 else []
        self._zeros = {
            output["name"]: np.zeros(
                [max(1, int(size)) for size in (*batch, *output["dims"])],
                pb_utils.triton_string_to_numpy(output["data_type"]),
            )
            for output in config["output"]
        }

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answer each request after its own time."""
        return [self._answer(request) for request in requests]

    def _answer(self, request: Any) -> Any:
        time.sleep(SERVICE_SECONDS)
        asked = request.requested_output_names()
        return pb_utils.InferenceResponse(
            output_tensors=[pb_utils.Tensor(name, self._zeros[name]) for name in asked]
        )
