"""A namespace's door before two pods."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import grpc
import pytest

from e2e.cluster.ports import free_port
from lepton_operator.door.served import Endpoint, Served
from tests.discovery.rig import (
    LIMIT_SECONDS,
    NAMESPACE,
    Envoy,
    Operator,
    a_service,
    envoy,
    operator_of,
)
from tests.discovery.upstreams import Pod, pod
from tests.door.authority import Authority


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    """The authority of the doors; its folder is the Secret of the namespace's doors."""
    found = Authority(tmp_path / "door")
    found.issue(NAMESPACE)
    return found


@pytest.fixture
async def operator(authority: Authority, tmp_path: Path) -> AsyncIterator[Operator]:
    found = operator_of(authority, tmp_path / "operator")
    await found.start()
    yield found
    await found.stop()


@dataclass
class Scene:
    """A service `digits` behind a door, and clients before it."""

    operator: Operator
    envoy: Envoy
    pods: tuple[Pod, Pod]
    http: aiohttp.ClientSession
    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def serve(self, *endpoints: Endpoint, **limits: int) -> Served:
        """Tell the doors about the service."""
        found = a_service("digits", self.port, *endpoints, **limits)
        self.operator.put(found)
        return found

    async def get(self, path: str = "/") -> tuple[int, str]:
        async with self.http.get(self.url + path) as response:
            return response.status, await response.text()

    def channel(self) -> grpc.aio.Channel:
        return grpc.aio.insecure_channel(f"127.0.0.1:{self.port}")

    async def until_served(self) -> None:
        """Wait until the door has its listener, and pods behind it."""
        await self.envoy.until("/listeners", f":{self.port}")
        await self.envoy.until("/clusters", "digits/grpc::127.")
        await self.until_listening(self.port)

    async def until_listening(self, port: int) -> None:
        """What is listed is bound; its threads begin to listen a moment later."""
        async with asyncio.timeout(LIMIT_SECONDS):
            while True:
                try:
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                except ConnectionRefusedError:
                    await asyncio.sleep(0.01)
                else:
                    writer.close()
                    return


@pytest.fixture
async def scene(authority: Authority, operator: Operator, tmp_path: Path) -> AsyncIterator[Scene]:
    async with (
        pod("a1b2c3") as one,
        pod("d4e5f6") as other,
        aiohttp.ClientSession() as http,
        envoy(tmp_path / "envoy", authority.folder, operator.port) as door,
    ):
        yield Scene(operator, door, (one, other), http, free_port())
