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
HAND_OVER_SECONDS = 0.03
"""What passes at most between two requests of which one waited for the other, on a busy machine."""


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
        self._free_since = time.monotonic()

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answer each request after its own time, of which the hand-over is a part."""
        return [self._answer(request) for request in requests]

    def _answer(self, request: Any) -> Any:
        now = time.monotonic()
        waited = now - self._free_since < HAND_OVER_SECONDS
        self._free_since = (self._free_since if waited else now) + SERVICE_SECONDS
        time.sleep(max(0.0, self._free_since - now))
        asked = request.requested_output_names()
        return pb_utils.InferenceResponse(
            output_tensors=[pb_utils.Tensor(name, self._zeros[name]) for name in asked]
        )
