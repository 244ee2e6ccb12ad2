"""A real Envoy, fed by the operator's own xDS server over mutual TLS, on this machine only."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import subprocess
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from e2e.cluster.ports import free_port
from e2e.deadlines import DEADLINES_SECONDS
from e2e.doors import cpu_seconds
from images.door.admin import Admin, AdminError
from images.door.bootstrap import admin_socket, bootstrap, secrets
from images.door.settings import Settings as DoorSettings
from images.envoy import program
from lepton_operator.door.catalogue import Catalogue
from lepton_operator.door.config import service_config
from lepton_operator.door.served import Endpoint, Limits, Served
from lepton_operator.door.server import serve
from lepton_operator.metrics import Metrics
from lepton_operator.settings import Xds
from tests.door.authority import Authority

NAMESPACE = "team-a"
LIMITS = Limits(body_bytes=1 << 20, timeout_seconds=20, concurrency=64, queue=64)
HEAP_BYTES = 448 << 20  # what the chart's memory limit leaves to Envoy
LIMIT_SECONDS = DEADLINES_SECONDS["a server answers"]


async def until(holds: Callable[[], Any], what: str) -> Any:
    """Wait until something is true; return it."""
    try:
        async with asyncio.timeout(LIMIT_SECONDS):
            while not (found := holds()):  # noqa: ASYNC110 - it is about several processes
                await asyncio.sleep(0.01)
            return found
    except TimeoutError:
        raise AssertionError(f"{what}: not within {LIMIT_SECONDS:.0f} s") from None


@dataclass
class Operator:
    """The operator's side: a catalogue, and a server for it that can be started anew."""

    port: int
    certificates: Path
    catalogue: Catalogue = field(default_factory=Catalogue)
    metrics: Metrics = field(default_factory=Metrics)
    _serving: asyncio.Task[None] | None = None

    def put(self, service: Served, namespace: str = NAMESPACE) -> None:
        self.catalogue.put(namespace, service.name, service_config(service))

    async def start(self) -> None:
        settings = Xds(port=self.port, certificates=self.certificates)
        self._serving = asyncio.create_task(serve(settings, self.catalogue, self.metrics))
        await asyncio.sleep(0)

    async def stop(self) -> None:
        if self._serving is not None:
            self._serving.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._serving
            await until(lambda: not self.streams(), "all streams have ended")

    def streams(self, namespace: str = NAMESPACE) -> float:
        return self.value("lepton_door_streams", namespace=namespace)

    def value(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(name, labels) or 0.0

    def pushed(self) -> Counter[str]:
        """Return how many answers were sent, by the kind of their resources."""
        found = self.metrics.registry.collect()
        samples = (sample for each in found for sample in each.samples)
        return Counter(
            {
                each.labels["kind"]: int(each.value)
                for each in samples
                if each.name == "lepton_door_pushes_total"
            }
        )


@dataclass(frozen=True)
class Envoy:
    process: subprocess.Popen[bytes]
    admin: Admin
    log: Path

    async def ask(self, path: str) -> str:
        return await asyncio.to_thread(self.admin.text, path)

    async def until(self, path: str, text: str, *, absent: bool = False) -> str:
        """Wait until what Envoy tells at a path holds a text, or does so no more."""
        last = ""
        try:
            async with asyncio.timeout(LIMIT_SECONDS):
                while True:
                    with contextlib.suppress(OSError, AdminError):
                        last = await self.ask(path)
                        if (text in last) != absent:
                            return last
                    await asyncio.sleep(0.02)
        except TimeoutError:
            raise AssertionError(
                f"{path}: {text!r} in {last[-3000:]}\n{self.log.read_text()}"
            ) from None

    def cpu_seconds(self) -> float:
        return cpu_seconds(self.process.pid)

    def resident_bytes(self) -> int:
        pages = Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]
        return int(pages) * 4096

    def own_bytes(self) -> int:
        """Return what a container's limit counts: without the pages of the program itself."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.findall(r"RssAnon:\s+(\d+) kB", status)[0]) * 1024


@asynccontextmanager
async def envoy(
    folder: Path, certificates: Path, xds_port: int, threads: int = 2
) -> AsyncIterator[Envoy]:
    """Start a door's Envoy with its own bootstrap; it ends with the block."""
    found = await asyncio.to_thread(_start, folder, certificates, xds_port, threads)
    try:
        yield found
    finally:
        found.process.kill()
        await asyncio.to_thread(found.process.wait)


def _start(folder: Path, certificates: Path, xds_port: int, threads: int) -> Envoy:
    folder.mkdir(parents=True, exist_ok=True)
    settings = DoorSettings(
        "localhost", xds_port, 5.0, HEAP_BYTES, threads, certificates=certificates
    )
    file, log = folder / "bootstrap.json", folder / "envoy.log"
    file.write_text(json.dumps(bootstrap(settings, folder, "door-0")))
    for path, content in secrets(settings, folder).items():
        path.write_text(json.dumps(content))
    argv = [str(program()), "--config-path", str(file), "--concurrency", str(threads)]
    with log.open("w") as output:
        process = subprocess.Popen(
            [*argv, "--log-level", "warning", "--disable-hot-restart"], stderr=output
        )
    return Envoy(process, Admin(admin_socket(folder)), log)


def operator_of(authority: Authority, folder: Path) -> Operator:
    """Return an operator whose certificate is this authority's."""
    key, certificate = authority.server("localhost")
    server = Authority(folder, authority.signer)
    server.write(authority.pem(), certificate, key)
    return Operator(free_port(), folder)


def a_service(name: str, port: int, *endpoints: Endpoint, **limits: int) -> Served:
    chosen = {each: getattr(LIMITS, each) for each in LIMITS.__slots__} | limits
    return Served(name, port, Limits(**chosen), 1000, tuple(sorted(endpoints)))
