"""A real Prometheus, and what it scrapes in tests."""

from __future__ import annotations

import asyncio
import subprocess
import threading
import time
import urllib.request
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import aiohttp
import yaml

from e2e.cluster import tool
from e2e.cluster.ports import free_port
from lepton_operator.signals import prometheus
from lepton_operator.signals.counts import Counts, Service

LIMIT_SECONDS = 90.0
"""On idle cores all take some seconds; a page of 33 MB took 21 on those that 30 wanted."""
Job = Mapping[str, Any]


class _EveryService(Collection[Service]):
    """What is told of anybody is looked at."""

    def __contains__(self, service: object) -> bool:
        return True

    def __iter__(self) -> Iterator[Service]:
        raise NotImplementedError

    def __len__(self) -> int:
        return 1000


@dataclass(frozen=True)
class Prometheus:
    """One that runs; `start` and `stop` are for tests of its absence."""

    folder: Path
    port: int
    running: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        with (self.folder / "prometheus.log").open("a") as log:
            argv = (
                str(tool("prometheus")),
                f"--config.file={self.folder}/prometheus.yaml",
                f"--storage.tsdb.path={self.folder}/data",
                f"--web.listen-address=127.0.0.1:{self.port}",
            )
            self.running.append(subprocess.Popen(argv, stdout=log, stderr=log))

    def stop(self) -> None:
        while self.running:
            process = self.running.pop()
            process.terminate()
            process.wait(LIMIT_SECONDS)

    def until_ready(self) -> None:
        end = time.monotonic() + LIMIT_SECONDS
        while not self._is_ready():
            assert time.monotonic() < end, (self.folder / "prometheus.log").read_text()
            time.sleep(0.1)

    def _is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/-/ready", timeout=1) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    async def read(
        self, namespaces: Sequence[str] = (), matchers: Mapping[str, str] | None = None
    ) -> dict[Service, Counts]:
        """Return what it tells of all services; raises SignalError."""
        text = prometheus.query(matchers or {}, namespaces)
        async with aiohttp.ClientSession() as session:
            return await prometheus.read(session, self.url, text, _EveryService())

    async def until(
        self,
        service: Service,
        holds: Callable[[Counts], object],
        matchers: Mapping[str, str] | None = None,
    ) -> Counts:
        """Return the first counts of the service of which this is true."""
        end = time.monotonic() + LIMIT_SECONDS
        while True:
            try:
                found = (await self.read((), matchers)).get(service, Counts())
            except prometheus.SignalError:
                found = Counts()
            if holds(found):
                return found
            assert time.monotonic() < end, found
            await asyncio.sleep(0.1)

    async def errors(self) -> dict[str, str]:
        """Return what was wrong with the last page of each namespace's pod, if anything was."""
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"{self.url}/api/v1/targets?state=active") as answer,
        ):
            active = (await answer.json())["data"]["activeTargets"]
        return {each["labels"]["namespace"]: each["lastError"] for each in active}

    async def until_refused(self, namespace: str, error: str) -> None:
        """Wait until nothing was taken of a page of this namespace's pod, because of that."""
        end = time.monotonic() + LIMIT_SECONDS
        while error not in (errors := await self.errors()).get(namespace, ""):
            assert time.monotonic() < end, errors
            await asyncio.sleep(0.1)


@contextmanager
def running(folder: Path, jobs: Sequence[Job], interval: str = "1s") -> Iterator[Prometheus]:
    """A Prometheus that scrapes each of the jobs at this interval."""
    configuration = {
        "global": {"scrape_interval": interval, "scrape_timeout": interval},
        "scrape_configs": list(jobs),
    }
    (folder / "prometheus.yaml").write_text(yaml.safe_dump(configuration))
    found = Prometheus(folder, free_port())
    found.start()
    try:
        found.until_ready()
        yield found
    finally:
        found.stop()


def job(name: str, address: str, **labels: str) -> dict[str, Any]:
    return {"job_name": name, "static_configs": [{"targets": [address], "labels": labels}]}


class _Page(BaseHTTPRequestHandler):
    server: Exporter

    def do_GET(self) -> None:
        content = self.server.text().encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/plain; version=0.0.4")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base's name
        pass


class Exporter(ThreadingHTTPServer):
    """Tells at each scrape what `text` returns then."""

    daemon_threads = True

    def __init__(self, text: Callable[[], str]) -> None:
        super().__init__(("127.0.0.1", 0), _Page)
        self.text = text

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.server_port}"


@contextmanager
def exporting(text: Callable[[], str]) -> Iterator[Exporter]:
    with Exporter(text) as found:
        threading.Thread(target=found.serve_forever, daemon=True).start()
        yield found
        found.shutdown()


_NAMES = {
    "arrivals": "envoy_http_downstream_rq_total",
    "active": "envoy_http_downstream_rq_active",
    "answers": "envoy_http_downstream_rq_time_count",
    "milliseconds": "envoy_http_downstream_rq_time_sum",
}


def told(service: str, **counts: float) -> str:
    """Return what a door tells of a service: arrivals, active, and what else is said."""
    lines = (f'{_NAMES[each]}{{service="{service}"}} {value}\n' for each, value in counts.items())
    return "".join(lines)
