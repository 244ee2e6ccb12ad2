"""Asking a pod something over HTTP, with bounds: what answers may be anything."""

from __future__ import annotations

from http import HTTPStatus

import aiohttp
from yarl import URL

from lepton_operator.views import PodView

ANSWER_SECONDS = 1.0
MOST_AT_ONCE = 32
MAX_BYTES = 1_048_576

NO_ANSWER = (aiohttp.ClientError, TimeoutError, OSError, ValueError, TypeError, RecursionError)
"""What is raised where nobody answers, or nothing that can be read."""


def session() -> aiohttp.ClientSession:
    """Return a session; to be closed by whoever asked for it."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=MOST_AT_ONCE),
        timeout=aiohttp.ClientTimeout(total=ANSWER_SECONDS),
        # An answer of a few bytes could become gigabytes.
        auto_decompress=False,
    )


async def ask(session: aiohttp.ClientSession, pod: PodView, port: int, path: str) -> bytes:
    """Return what a pod answers; raises one of NO_ANSWER."""
    relative = URL(path)
    url = URL.build(
        scheme="http",
        host=pod.ip or "",
        port=port,
        path=relative.path,
        query_string=relative.query_string,
    )
    async with session.get(url, allow_redirects=False) as response:
        if response.status != HTTPStatus.OK:
            raise ValueError(f"it answers {response.status}")
        content = bytearray()
        async for part in response.content.iter_chunked(65_536):
            content += part
            if len(content) > MAX_BYTES:
                raise ValueError("its answer is too long")
        return bytes(content)
