"""The clients as processes beside a cluster: they reach a Service by its address.

k6 is three of them (k6.js), NVIDIA's tritonclient the fourth (triton_http.py).
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from google.protobuf.descriptor_pb2 import FileDescriptorSet
from tritonclient.grpc import model_config_pb2, service_pb2

from e2e.cluster import tool
from e2e.kubectl import Kubectl
from e2e.load import requests
from e2e.load.requests import Heard, Request
from e2e.waiting import WaitedTooLongError, wait_until
from tests.fixtures import onnx_models

HERE = Path(__file__).parent
CLIENTS = ("connection_a_request", "keep_alive", "grpc_channel", "tritonclient")
RATE = 28
"""Requests a second that each client begins."""
TIMEOUT_SECONDS = 10
_K6_QUIET = (
    "--quiet",
    "--no-color",
    "--summary-mode=disabled",
    "--no-thresholds",
    "--no-usage-report",
)


@dataclass(frozen=True, slots=True)
class Load:
    """Clients that run, and the files that they write."""

    files: tuple[Path, ...]
    processes: tuple[subprocess.Popen[bytes], ...]

    def so_far(self) -> list[Request]:
        """Return the requests that have ended.

        Raises:
            RuntimeError: if a client has ended; its own words are in this process's output.
        """
        for process in self.processes:
            if process.poll() is not None:
                raise RuntimeError(f"{process.args!r} ended with code {process.returncode}")
        return requests.read(self.files)

    def until_now(self) -> Heard:
        """Return what became of the requests that were begun before now, once all have ended."""
        now = time.time()
        # What never ends is counted.
        with suppress(WaitedTooLongError):
            wait_until(
                lambda: self._heard(now),
                lambda found: found is not None and found.lost == 0,
                "all requests end",
            )
        found = self._heard(now)
        assert found is not None, "a client begins no requests any more"
        return found

    def _heard(self, moment: float) -> Heard | None:
        return requests.heard(self.so_far(), CLIENTS, moment)

    def _all_answered(self) -> bool:
        good = {each.client for each in self.so_far() if not each.error}
        return good == set(CLIENTS)


@contextmanager
def load(kubectl: Kubectl, service: str, rate: int = RATE) -> Iterator[Load]:
    """Clients that ask a served digits model, from their first answers to the end of the block.

    Each begins so many requests a second.
    """
    with tempfile.TemporaryDirectory(prefix="lepton-load-") as folder:
        running = _started(kubectl, service, rate, Path(folder))
        try:
            wait_until(running._all_answered, bool, "clients ask", service)
            yield running
        finally:
            for process in running.processes:
                process.kill()
                process.wait()


def _started(kubectl: Kubectl, service: str, rate: int, folder: Path) -> Load:
    asked = folder / "asked.json"
    asked.write_text(json.dumps(_asked(kubectl, service, rate, folder)))
    k6, triton = folder / "k6.jsonl", folder / "tritonclient.jsonl"
    processes = (
        start_k6(HERE / "k6.js", asked, k6),
        _start(sys.executable, "-m", "e2e.load.triton_http", str(asked), str(triton)),
    )
    return Load((k6, triton), processes)


def start_k6(script: Path, asked: Path, said: Path) -> subprocess.Popen[bytes]:
    """Start k6 with a script that reads what is asked; what it logs goes to a file as it is."""
    logs = ("--log-format", "raw", "--console-output", str(said))
    # It would listen for commands, at a port that another one may have.
    alone = ("--address", "", *_K6_QUIET, "--env", f"ASKED={asked}")
    return _start(str(tool("k6")), "run", *alone, *logs, str(script))


def _start(*argv: str) -> subprocess.Popen[bytes]:
    """Start a client that does not outlive this process."""
    return subprocess.Popen(["setpriv", "--pdeathsig=KILL", "--", *argv])


def _asked(kubectl: Kubectl, service: str, rate: int, folder: Path) -> dict[str, object]:
    protoset = folder / "open-inference-protocol.protoset"
    protoset.write_bytes(_protoset())
    more = {"rate": rate, "timeout_seconds": TIMEOUT_SECONDS, "protoset": str(protoset)}
    return question(kubectl, service) | more


def question(kubectl: Kubectl, service: str) -> dict[str, object]:
    """Return where a served digits model is asked, and for which digit."""
    found = kubectl.get("service", service)
    assert found is not None, f"there is no Service {service}"
    images, _ = onnx_models.held_out_digits()
    return {
        "host": found["spec"]["clusterIP"],
        "model": service,
        "shape": list(images[:1].shape),
        "data": images[:1].ravel().tolist(),
    }


def _protoset() -> bytes:
    """Return the Open Inference Protocol as tritonclient has it, in the form that k6 reads."""
    made = FileDescriptorSet()
    for module in (model_config_pb2, service_pb2):
        module.DESCRIPTOR.CopyToProto(made.file.add())
    content: bytes = made.SerializeToString()
    return content
