"""Clients of a served digits model: a connection a request, from threads of this process.

They reach the Service's own address over the cluster's network, bounded in rate and in time.
"""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from e2e.kubectl import Kubectl
from tests.fixtures import onnx_models

THREADS = 4
PAUSE_SECONDS = 0.02
LONGEST_SECONDS = 300
_TIMEOUT_SECONDS = 10


@dataclass(slots=True)
class Told:
    """What the clients saw."""

    requests: int = 0
    failed: int = 0
    worst_ms: float = 0.0
    model_versions: set[str] = field(default_factory=set)
    failures: list[str] = field(default_factory=list)


@dataclass(slots=True)
class ServingClients:
    """Threads that ask one service, each request over a connection of its own."""

    host: str
    model: str
    told: Told = field(default_factory=Told)
    _ending: threading.Event = field(default_factory=threading.Event)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _threads: list[threading.Thread] = field(default_factory=list)

    def once(self) -> Told:
        self._ask(digits_body())
        return self.told

    def read(self, path: str = "") -> dict[str, Any]:
        """Return what the server says of the model at this path below its own."""
        found = self._call("GET", path)
        assert isinstance(found, dict)
        return found

    def start(self) -> None:
        """Ask from now on, until `stop`; returns when the first answers have come."""
        self._threads = [threading.Thread(target=self._go_on, daemon=True) for _ in range(THREADS)]
        for thread in self._threads:
            thread.start()
        end = time.monotonic() + _TIMEOUT_SECONDS
        while self.told.requests < THREADS and time.monotonic() < end:
            time.sleep(PAUSE_SECONDS)

    def stop(self) -> Told:
        self._ending.set()
        for thread in self._threads:
            thread.join()
        return self.told

    def _go_on(self) -> None:
        body, end = digits_body(), time.monotonic() + LONGEST_SECONDS
        while not self._ending.is_set() and time.monotonic() < end:
            self._ask(body)
            self._ending.wait(PAUSE_SECONDS)

    def _ask(self, body: str) -> None:
        began, version, failure = time.monotonic(), "", ""
        try:
            version = self._infer(body)
        except (OSError, http.client.HTTPException, ValueError, KeyError) as error:
            failure = f"{time.strftime('%H:%M:%S')} {type(error).__name__}: {error}"
        elapsed_ms = (time.monotonic() - began) * 1000
        with self._lock:
            self.told.requests += 1
            self.told.worst_ms = max(self.told.worst_ms, round(elapsed_ms, 1))
            if failure:
                self.told.failed += 1
                self.told.failures.append(failure)
            else:
                self.told.model_versions.add(version)

    def _infer(self, body: str) -> str:
        return str(self._call("POST", "/infer", body)["model_version"])

    def _call(self, method: str, path: str, body: str | None = None) -> Any:
        connection = http.client.HTTPConnection(self.host, 8000, timeout=_TIMEOUT_SECONDS)
        headers = {"Content-Type": "application/json"}
        try:
            connection.request(method, f"/v2/models/{self.model}{path}", body, headers)
            answer = connection.getresponse()
            text = answer.read().decode()
            if answer.status != http.HTTPStatus.OK:
                raise ValueError(f"{answer.status}: {text[:200]}")
            return json.loads(text)
        finally:
            connection.close()


@contextmanager
def serving_clients(namespace: Kubectl, service: str) -> Iterator[ServingClients]:
    """Clients of this InferenceService, by the address of its Service."""
    found = namespace.get("service", service)
    assert found is not None, f"there is no Service {service}"
    clients = ServingClients(found["spec"]["clusterIP"], service)
    try:
        yield clients
    finally:
        clients.stop()


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
