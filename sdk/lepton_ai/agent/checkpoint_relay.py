"""Hands a training's checkpoints on to the object store, and back: the keys stay in the sidecar.

Ranks speak to it over a socket that only their pod has (lepton_ai/checkpoints/relay.py). They reach
the checkpoints of their own run, and nothing else that lies in the store.
"""

from __future__ import annotations

import json
import logging
import re
import threading
from collections.abc import Callable, Iterator
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from io import BufferedIOBase
from pathlib import Path
from socketserver import ThreadingUnixStreamServer

from lepton_ai.checkpoints.manifest import CheckpointError, is_file, is_folder
from lepton_ai.checkpoints.storage import PART_BYTES, Storage, open_storage

MAX_CHUNK_BYTES = 8 * 1024 * 1024
MAX_RECORD_BYTES = 4 * 1024 * 1024
TRANSFERS_AT_ONCE = 2  # each holds some 60 MiB at most
SILENCE_SECONDS = 3600.0

_CHUNK = re.compile(rb"([0-9a-f]{1,7})\r\n")
_RANGE = re.compile(r"bytes=(\d{1,18})-(\d{1,18})")

logger = logging.getLogger(__name__)


class CheckpointRelay:
    """The checkpoints of one run, as its ranks in this pod ask for them."""

    def __init__(self, uri: str, uid: str) -> None:
        self.uri = uri
        self.was_asked = False
        self.transfers = threading.BoundedSemaphore(TRANSFERS_AT_ONCE)
        self._uid = uid
        self._storage: Storage | None = None

    def storage(self) -> Storage:
        """Return the run's place. The Secret is read again after a failure: it may be mended."""
        self.was_asked = True
        if self._storage is None:
            self._storage = open_storage(self.uri, self._uid)
        return self._storage

    def forget(self) -> None:
        self._storage = None

    def serve(self, path: Path) -> None:
        """Answer in threads; a socket that a killed sidecar has left is replaced."""
        path.unlink(missing_ok=True)
        server = _Server(path, self)
        path.chmod(0o666)  # the training container may run as another user
        threading.Thread(target=server.serve_forever, name="checkpoints", daemon=True).start()


class _Server(ThreadingUnixStreamServer):
    daemon_threads = True

    def __init__(self, path: Path, relay: CheckpointRelay) -> None:
        super().__init__(str(path), _Handler)
        self.relay = relay


class _Handler(BaseHTTPRequestHandler):
    timeout = SILENCE_SECONDS
    server: _Server

    @property
    def _relay(self) -> CheckpointRelay:
        return self.server.relay

    def do_GET(self) -> None:
        path, _, query = self.path[1:].partition("?")
        if not path:
            self._carry_out(self._list)
        elif not is_file(path):
            self._refuse()
        elif query == "size":
            self._carry_out(lambda: self._tell_size(path))
        elif asked := _RANGE.fullmatch(self.headers.get("Range", "")):
            first, last = int(asked[1]), int(asked[2])
            self._carry_out(lambda: self._send_range(path, first, last + 1))
        else:
            self._carry_out(lambda: self._send_file(path))

    def do_PUT(self) -> None:
        path = self.path[1:]
        if not is_file(path):
            self._refuse()
        elif self.headers.get("If-None-Match") == "*":
            self._carry_out(lambda: self._put_new(path))
        else:
            self._carry_out(lambda: self._create(path))

    def do_DELETE(self) -> None:
        folder = self.path[1:]
        if not is_folder(folder):
            self._refuse()
            return
        self._carry_out(lambda: self._remove(folder))

    def _list(self) -> None:
        self._answer(HTTPStatus.OK, json.dumps(self._relay.storage().paths()).encode())

    def _tell_size(self, path: str) -> None:
        size_bytes = self._relay.storage().size_bytes(path)
        self._found(None if size_bytes is None else str(size_bytes).encode())

    def _send_file(self, path: str) -> None:
        self._found(self._relay.storage().get(path))

    def _send_range(self, path: str, start: int, end: int) -> None:
        parts = _parts(self._relay, path, start, end)
        first = next(parts, b"")  # what is refused is refused before anything is sent
        self.send_response(HTTPStatus.PARTIAL_CONTENT)
        self.send_header("Content-Length", str(end - start))
        self.end_headers()
        self.wfile.write(first)
        try:
            for part in parts:
                self.wfile.write(part)
        except CheckpointError as error:
            # What was promised is cut off: a refusal now would be taken for bytes of the file.
            raise ConnectionAbortedError(str(error)) from None

    def _put_new(self, path: str) -> None:
        length = int(self.headers.get("Content-Length", "0"))
        if not 0 <= length <= MAX_RECORD_BYTES:
            self._refuse()
            return
        is_new = self._relay.storage().put_new(path, self.rfile.read(length))
        self._answer(HTTPStatus.CREATED if is_new else HTTPStatus.PRECONDITION_FAILED, b"")

    def _create(self, path: str) -> None:
        with self._relay.transfers, self._relay.storage().create(path) as file:
            for chunk in _chunks(self.rfile):
                file.write(chunk)
        stored = file.stored().model_dump_json(by_alias=True)
        self._answer(HTTPStatus.CREATED, stored.encode())

    def _remove(self, folder: str) -> None:
        self._relay.storage().remove_folder(folder)
        self._answer(HTTPStatus.NO_CONTENT, b"")

    def _carry_out(self, work: Callable[[], None]) -> None:
        try:
            self._answer_refusals(work)
        except (OSError, ValueError) as error:
            logger.warning("%s %s was broken off: %s", self.command, self.path, error)

    def _answer_refusals(self, work: Callable[[], None]) -> None:
        try:
            work()
        except CheckpointError as error:
            self._relay.forget()
            logger.warning("%s", error)
            self._answer(HTTPStatus.SERVICE_UNAVAILABLE, str(error).encode())

    def _found(self, content: bytes | None) -> None:
        status = HTTPStatus.NOT_FOUND if content is None else HTTPStatus.OK
        self._answer(status, content or b"")

    def _refuse(self) -> None:
        sentence = "That is no path of a checkpoint: the sidecar hands on nothing else."
        self._answer(HTTPStatus.NOT_IMPLEMENTED, sentence.encode())

    def _answer(self, status: HTTPStatus, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if body:  # without one, whoever asked may be gone already
            self.wfile.write(body)

    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002
        logger.debug(format, *arguments)


def _parts(relay: CheckpointRelay, path: str, start: int, end: int) -> Iterator[bytes]:
    for offset in range(start, end, PART_BYTES):
        length = min(PART_BYTES, end - offset)
        with relay.transfers:
            part = relay.storage().read(path, offset, length)
        if len(part) < length:
            raise CheckpointError(f"{path} ends before byte {end}.")
        yield part


def _chunks(source: BufferedIOBase) -> Iterator[bytes]:
    """Yield a chunked body; raise ValueError if it is cut off."""
    while size := _chunk_size(source.readline(16)):
        chunk = source.read(size)
        if len(chunk) < size or source.read(2) != b"\r\n":
            raise ValueError("the body is cut off")
        yield chunk
    source.read(2)


def _chunk_size(line: bytes) -> int:
    found = _CHUNK.fullmatch(line)
    if found is None or int(found[1], 16) > MAX_CHUNK_BYTES:
        raise ValueError("the body is cut off, or in other chunks than ours")
    return int(found[1], 16)
