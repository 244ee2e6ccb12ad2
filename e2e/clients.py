"""One client of a served digits model, over HTTP to the Service's own address."""

from __future__ import annotations

import http.client
import json
from dataclasses import dataclass
from functools import cache
from typing import Any

from e2e.kubectl import Kubectl
from tests.fixtures import onnx_models

_TIMEOUT_SECONDS = 10


@dataclass(frozen=True, slots=True)
class Client:
    """Asks one service, each time over a connection of its own."""

    host: str
    model: str

    def version(self) -> str:
        """Have a digit read; return the version that answered."""
        return str(self._call("POST", "/infer", digits_body())["model_version"])

    def read(self, path: str = "") -> dict[str, Any]:
        """Return what the server says of the model at this path below its own."""
        return self._call("GET", path)

    def _call(self, method: str, path: str, body: str | None = None) -> dict[str, Any]:
        connection = http.client.HTTPConnection(self.host, 8000, timeout=_TIMEOUT_SECONDS)
        headers = {"Content-Type": "application/json"}
        try:
            connection.request(method, f"/v2/models/{self.model}{path}", body, headers)
            answer = connection.getresponse()
            text = answer.read().decode()
        finally:
            connection.close()
        assert answer.status == http.HTTPStatus.OK, f"{answer.status}: {text[:200]}"
        found: dict[str, Any] = json.loads(text)
        return found


def client(namespace: Kubectl, service: str) -> Client:
    """Return a client of this InferenceService, by the address of its Service."""
    found = namespace.get("service", service)
    assert found is not None, f"there is no Service {service}"
    return Client(found["spec"]["clusterIP"], service)


@cache
def digits_body() -> str:
    """Return a request for one digit, as the Open Inference Protocol wants it."""
    images, _ = onnx_models.held_out_digits()
    data = images[:1]
    given = {
        "name": "image",
        "datatype": "FP32",
        "shape": list(data.shape),
        "data": data.ravel().tolist(),
    }
    return json.dumps({"inputs": [given]})
