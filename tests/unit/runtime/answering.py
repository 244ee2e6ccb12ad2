"""Something that answers over real HTTP on this machine, and what it is asked with."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from aiohttp import web

from lepton_operator.inquiry import MAX_BYTES, Inquiry, inquiry

# The operator's one second is for real pods; here it would be a test of how busy the machine is.
PATIENCE_SECONDS = 30.0


@asynccontextmanager
async def answering(
    path: str,
    answer: Callable[[web.Request], Awaitable[web.Response]],
    max_bytes: int = MAX_BYTES,
    answer_seconds: float = PATIENCE_SECONDS,
) -> AsyncIterator[tuple[int, Inquiry]]:
    """Answer at this path; yield the port, and an inquiry."""
    app = web.Application()
    app.router.add_get(path, answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    async with inquiry(answer_seconds, max_bytes) as asking:
        yield runner.addresses[0][1], asking
    await runner.cleanup()
