"""Pages that an agent tells over HTTP beside its work, for as long as it lives."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

REQUEST_SECONDS = 5.0

logger = logging.getLogger(__name__)


class Page(NamedTuple):
    """An answer."""

    status: HTTPStatus
    content_type: str
    body: bytes


Pages = Mapping[str, Callable[[], Page]]


def document(found: Mapping[str, Any]) -> Page:
    return Page(HTTPStatus.OK, "application/json", json.dumps(found).encode())


def not_found(sentence: str) -> Page:
    return Page(HTTPStatus.NOT_FOUND, "text/plain; charset=utf-8", f"{sentence}\n".encode())


def serve(port: int, pages: Pages) -> None:
    """Answer in a thread; a port that is taken costs the pages, never the work."""
    try:
        server = ThreadingHTTPServer(("", port), _handler(pages))
    except OSError as error:
        logger.warning("Port %d cannot be opened: %s. Progress is not told.", port, error)
        return
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, name="pages", daemon=True).start()


def _handler(pages: Pages) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = REQUEST_SECONDS

        def do_GET(self) -> None:
            make = pages.get(self.path)
            page = make() if make else not_found(f"What is told here: {', '.join(pages)}.")
            self.send_response(page.status)
            self.send_header("Content-Type", page.content_type)
            self.send_header("Content-Length", str(len(page.body)))
            self.end_headers()
            self.wfile.write(page.body)

        def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002
            logger.debug(format, *arguments)

    return Handler
