"""A gRPC stream that its client does not end: a message a second, each answered."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from tritonclient import grpc
from tritonclient.utils import InferenceServerException

from e2e.kubectl import Kubectl
from tests.fixtures import onnx_models

PAUSE_SECONDS = 1.0


@dataclass(slots=True)
class Stream:
    """What its client has seen. `ended`: when it was cut (Unix time); `error`: by what word."""

    answers: int = 0
    ended: float | None = None
    error: str = ""
    _answered: threading.Event = field(default_factory=threading.Event)

    def heard(self, result: object, error: object) -> None:
        """Take in what tritonclient hands over, by these names."""
        if result is not None:
            self.answers += 1
            self._answered.set()
        elif self.ended is None:
            self.ended, self.error = time.time(), str(error)

    def wait(self) -> None:
        """Wait for the first answer: from then on a pod holds the stream."""
        assert self._answered.wait(timeout=30), "the stream was never answered"


@contextmanager
def open_stream(kubectl: Kubectl, service: str) -> Iterator[Stream]:
    """Keep a stream open to a served digits model, until it is cut or the block ends."""
    found = kubectl.get("service", service)
    assert found is not None, f"there is no Service {service}"
    client = grpc.InferenceServerClient(f"{found['spec']['clusterIP']}:8001")
    stream, stop = Stream(), threading.Event()
    client.start_stream(stream.heard)
    sending = threading.Thread(target=_send, args=(client, service, stream, stop), daemon=True)
    sending.start()
    try:
        stream.wait()
        yield stream
    finally:
        stop.set()
        sending.join()
        client.stop_stream(cancel_requests=True)
        client.close()


def _send(client: Any, service: str, stream: Stream, stop: threading.Event) -> None:
    images, _ = onnx_models.held_out_digits()
    image = grpc.InferInput("image", images[:1].shape, "FP32")
    image.set_data_from_numpy(images[:1].astype(np.float32))
    while stream.ended is None and not stop.is_set():
        with suppress(InferenceServerException):  # it was cut at this very moment
            client.async_stream_infer(service, [image])
        stop.wait(PAUSE_SECONDS)
