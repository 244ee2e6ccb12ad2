"""Asking pods something over HTTP, with bounds: what answers may be anything."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from http import HTTPStatus

import aiohttp
from yarl import URL

from lepton_operator.views import PodView

ANSWER_SECONDS = 1.0
MOST_AT_ONCE = 32
MAX_BYTES = 1_048_576

NO_ANSWER = (aiohttp.ClientError, TimeoutError, OSError, ValueError, TypeError, RecursionError)
"""What is raised where nobody answers, or nothing that can be read."""


@dataclass(frozen=True, slots=True)
class Inquiry:
    """Asks few pods at once. A pod's time begins with its turn: silent ones must not use it up."""

    session: aiohttp.ClientSession
    turns: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(MOST_AT_ONCE))

    async def ask(self, pod: PodView, port: int, path: str) -> bytes:
        """Return what a pod answers; raises one of NO_ANSWER."""
        relative = URL(path)
        url = URL.build(
            scheme="http",
            host=pod.ip or "",
            port=port,
            path=relative.path,
            query_string=relative.query_string,
        )
        async with self.turns, self.session.get(url, allow_redirects=False) as response:
            if response.status != HTTPStatus.OK:
                raise ValueError(f"it answers {response.status}")
            content = bytearray()
            async for part in response.content.iter_chunked(65_536):
                content += part
                if len(content) > MAX_BYTES:
                    raise ValueError("its answer is too long")
            return bytes(content)


@asynccontextmanager
async def inquiry() -> AsyncIterator[Inquiry]:
    """Yield what pods are asked with."""
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0),
        timeout=aiohttp.ClientTimeout(total=ANSWER_SECONDS),
        # An answer of a few bytes could become gigabytes.
        auto_decompress=False,
    ) as session:
        yield Inquiry(session)
