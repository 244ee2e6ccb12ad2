"""Records what a real Triton tells of itself: `python -m e2e.record_triton`.

Each form is a server of its own (the image `sleeper`: 100 ms a request, no CPU) with two models, of
which `digits` batches; its /metrics are kept as they are, and beside them its statistics API, which
tells the same by other means. All of it is written to tests/recordings/triton.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from e2e.chroot import WRITABLE, Image, mounted
from e2e.cluster.ports import free_ports
from e2e.waiting import wait_until
from images.build import build

FOLDER = Path(__file__).parents[1] / "tests" / "recordings" / "triton"
FORMS: Mapping[str, tuple[str, ...]] = {
    "plain": (),
    "summaries": ("--metrics-config=summary_latencies=true",),
    "cache": ("--cache-config=local,size=1048576",),
}
_CONFIG = """
name: "{name}"
backend: "onnxruntime"
max_batch_size: {batch}
input [{{ name: "x" data_type: TYPE_FP32 dims: [1] }}]
output [{{ name: "y" data_type: TYPE_FP32 dims: [1] }}]
response_cache {{ enable: true }}
{batching}
"""


@dataclass(frozen=True)
class Server:
    process: subprocess.Popen[str]
    http: int
    metrics: int

    def read(self, path: str, port: int | None = None) -> bytes:
        with urllib.request.urlopen(f"http://127.0.0.1:{port or self.http}{path}") as response:
            return bytes(response.read())

    def ready(self) -> bool:
        try:
            return self.read("/v2/health/ready") == b""
        except OSError:
            return False

    def infer(self, model: str, value: float) -> None:
        tensor = {"name": "x", "shape": [1, 1], "datatype": "FP32", "data": [value]}
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.http}/v2/models/{model}/infer",
            json.dumps({"inputs": [tensor]}).encode(),
        )
        with urllib.request.urlopen(request) as response:
            response.read()


def main() -> int:
    """Start a server of each form, one after another, and write what it tells."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    with mounted(build(["sleeper"])["sleeper"]) as image:
        for form, flags in FORMS.items():
            with _server(image, flags) as server:
                _load(server)
                metrics = server.read("/metrics", server.metrics)
                statistics = json.loads(server.read("/v2/models/stats"))
            (FOLDER / f"{form}.txt").write_bytes(metrics)
            (FOLDER / f"{form}.json").write_text(json.dumps(statistics, indent=1) + "\n")
            print(f"{FOLDER / form}.txt")
    return 0


def _load(server: Server) -> None:
    """Ask 24 different things at once, then twelve of them again, and another model five."""
    with ThreadPoolExecutor(24) as clients:
        list(clients.map(lambda value: server.infer("digits", value), range(24)))
        list(clients.map(lambda value: server.infer("digits", value), range(12)))
        list(clients.map(lambda value: server.infer("other", value), range(5)))


@contextmanager
def _server(image: Image, more: tuple[str, ...]) -> Iterator[Server]:
    http, grpc, metrics = free_ports(3)
    flags = (
        f"--model-repository={WRITABLE}",
        f"--http-port={http}",
        f"--grpc-port={grpc}",
        f"--metrics-port={metrics}",
        "--disable-auto-complete-config",
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _write(folder, "digits", 4, "dynamic_batching { max_queue_delay_microseconds: 20000 }")
        _write(folder, "other", 0, "")
        process = image.start(
            folder,
            *image.config["Entrypoint"],
            *flags,
            *more,
        )
        try:
            server = Server(process, http, metrics)
            wait_until(server.ready, bool, "a server answers", "Triton")
            yield server
        finally:
            process.terminate()
            process.wait()


def _write(folder: Path, name: str, batch: int, batching: str) -> None:
    place = folder / name
    (place / "1").mkdir(parents=True)
    (place / "1" / "model.onnx").write_bytes(b"")
    dims = _CONFIG.format(name=name, batch=batch, batching=batching)
    (place / "config.pbtxt").write_text(dims if batch else dims.replace("[1]", "[1, 1]"))
    folder.chmod(0o755)


if __name__ == "__main__":
    sys.exit(main())
