"""Something that answers over real HTTP on this machine, and what it is asked with."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from aiohttp import web

from lepton_operator.inquiry import MAX_BYTES, Inquiry, inquiry


@asynccontextmanager
async def answering(
    path: str,
    answer: Callable[[web.Request], Awaitable[web.Response]],
    max_bytes: int = MAX_BYTES,
) -> AsyncIterator[tuple[int, Inquiry]]:
    """Answer at this path; yield the port, and an inquiry."""
    app = web.Application()
    app.router.add_get(path, answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    async with inquiry(max_bytes=max_bytes) as asking:
        yield runner.addresses[0][1], asking
    await runner.cleanup()
