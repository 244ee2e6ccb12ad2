"""Asking pods something over HTTP, with bounds: what answers may be anything."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from http import HTTPStatus

import aiohttp
from yarl import URL

from lepton_operator.views import PodView

ANSWER_SECONDS = 1.0
MOST_AT_ONCE = 32
MAX_BYTES = 1_048_576


class UnusableError(ValueError):
    """What answered is there, but its answer is none that can be taken."""


NO_ANSWER = (aiohttp.ClientError, TimeoutError, OSError, ValueError, TypeError, RecursionError)
"""What is raised where nobody answers, or nothing that can be read."""


@dataclass(frozen=True, slots=True)
class Inquiry:
    """Asks few pods at once. A pod's time begins with its turn: silent ones must not use it up."""

    session: aiohttp.ClientSession
    answer_seconds: float
    max_bytes: int
    turns: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(MOST_AT_ONCE))

    async def ask(self, pod: PodView, port: int, path: str, max_bytes: int | None = None) -> bytes:
        """Return what a pod answers; raises one of NO_ANSWER."""
        relative = URL(path)
        url = URL.build(
            scheme="http",
            host=pod.ip or "",
            port=port,
            path=relative.path,
            query_string=relative.query_string,
        )
        timeout = aiohttp.ClientTimeout(total=self.answer_seconds)
        async with (
            self.turns,
            self.session.get(url, timeout=timeout, allow_redirects=False) as response,
        ):
            if response.status != HTTPStatus.OK:
                raise UnusableError(f"it answers {response.status}")
            return await bounded(response, max_bytes or self.max_bytes)


async def bounded(response: aiohttp.ClientResponse, max_bytes: int) -> bytes:
    """Return what an answer contains; raises UnusableError, and reads no further, beyond that."""
    content = bytearray()
    async for part in response.content.iter_chunked(65_536):
        content += part
        if len(content) > max_bytes:
            raise UnusableError(f"its answer is longer than {max_bytes / 2**20:.3g} MiB")
    return bytes(content)


async def ask_for_ever(
    ask_all: Callable[[Inquiry], Awaitable[None]],
    round_seconds: float,
    answer_seconds: float = ANSWER_SECONDS,
    max_bytes: int = MAX_BYTES,
) -> None:
    """Ask all, and again so long after all have answered, or had their time."""
    async with inquiry(answer_seconds, max_bytes) as asking:
        while True:
            await ask_all(asking)
            await asyncio.sleep(round_seconds)


@asynccontextmanager
async def inquiry(
    answer_seconds: float = ANSWER_SECONDS, max_bytes: int = MAX_BYTES
) -> AsyncIterator[Inquiry]:
    """Yield what pods are asked with; each has so long to answer, with so much."""
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0),
        # An answer of a few bytes could become gigabytes.
        auto_decompress=False,
    ) as session:
        yield Inquiry(session, answer_seconds, max_bytes)
