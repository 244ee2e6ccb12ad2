"""The place of checkpoints as a training pod's sidecar reaches it: HTTP over a socket of the pod.

A training image has neither the store's keys nor its library. What a rank writes is handed on while
it is written, so nothing needs room on the node's disk (lepton_ai/agent/checkpoint_relay.py).
"""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from types import MappingProxyType

from lepton_ai.checkpoints.manifest import CheckpointError
from lepton_ai.checkpoints.storage import HashedFile

CHUNK_BYTES = 1024 * 1024
SILENCE_SECONDS = 3600.0
"""The sidecar takes a few files at a time; whoever waits hears nothing meanwhile."""
START_SECONDS = 30.0
RETRY_SECONDS = 0.1

_NO_HEADERS: Mapping[str, str] = MappingProxyType({})
_NOT_LISTENING = (FileNotFoundError, ConnectionRefusedError)


class _Connection(HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("sidecar", timeout=SILENCE_SECONDS)
        self._path = path

    def connect(self) -> None:
        """Connect; a sidecar that has just been started again has no socket for a moment."""
        deadline = time.monotonic() + START_SECONDS
        while True:
            self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self.sock.settimeout(SILENCE_SECONDS)
            try:
                self.sock.connect(str(self._path))
            except _NOT_LISTENING:
                self.sock.close()
                if time.monotonic() >= deadline:
                    raise
                time.sleep(RETRY_SECONDS)
            else:
                return

    def answer(self) -> tuple[int, bytes]:
        """Return the status and the body; raise CheckpointError with what the sidecar says."""
        response = self.getresponse()
        content = response.read()
        if response.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            raise CheckpointError(content.decode(errors="replace").strip())
        return response.status, content


class _Body:
    """The body of a request, of unknown length."""

    def __init__(self, connection: _Connection) -> None:
        self._connection = connection

    def write(self, content: memoryview) -> None:
        for start in range(0, len(content), CHUNK_BYTES):
            self._send(content[start : start + CHUNK_BYTES])

    def end(self) -> None:
        self._send(memoryview(b""))

    def _send(self, part: memoryview) -> None:
        try:
            for each in (b"%x\r\n" % len(part), part, b"\r\n"):
                self._connection.send(each)
        except ConnectionError:
            self._connection.answer()  # why it stopped listening, if it could say so
            raise


class Relay:
    """A run's folder in the object store, through the sidecar."""

    def __init__(self, path: Path, url: str) -> None:
        self._path = path
        self._url = url

    @property
    def url(self) -> str:
        return self._url

    @contextmanager
    def create(self, path: str) -> Iterator[HashedFile]:
        with self._failures_as_sentences(), closing(_Connection(self._path)) as connection:
            connection.putrequest("PUT", f"/{path}")
            connection.putheader("Transfer-Encoding", "chunked")
            connection.endheaders()
            body = _Body(connection)
            file = HashedFile(path.rpartition("/")[2], body)
            yield file
            body.end()
            _, content = connection.answer()
            if content != file.stored().model_dump_json(by_alias=True).encode():
                raise CheckpointError(f"{path} did not reach the sidecar as it was written.")

    def put_new(self, path: str, content: bytes) -> bool:
        status, _ = self._ask("PUT", path, content, {"If-None-Match": "*"})
        return status == HTTPStatus.CREATED

    def get(self, path: str) -> bytes | None:
        status, content = self._ask("GET", path)
        return None if status == HTTPStatus.NOT_FOUND else content

    def size_bytes(self, path: str) -> int | None:
        status, content = self._ask("GET", f"{path}?size")
        return None if status == HTTPStatus.NOT_FOUND else int(content)

    def read(self, path: str, offset: int, length: int) -> bytes:
        if length == 0:
            return b""
        header = {"Range": f"bytes={offset}-{offset + length - 1}"}
        _, content = self._ask("GET", path, headers=header)
        return content

    def paths(self) -> list[str]:
        _, content = self._ask("GET", "")
        found: list[str] = json.loads(content)
        return found

    def remove_folder(self, folder: str) -> None:
        self._ask("DELETE", folder)

    def _ask(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: Mapping[str, str] = _NO_HEADERS,
    ) -> tuple[int, bytes]:
        with self._failures_as_sentences(), closing(_Connection(self._path)) as connection:
            connection.connect()
            with suppress(ConnectionError):  # it may have refused before all was sent
                connection.request(method, f"/{path}", body, dict(headers))
            return connection.answer()

    @contextmanager
    def _failures_as_sentences(self) -> Iterator[None]:
        try:
            yield
        except (OSError, HTTPException, ValueError) as error:
            cause = str(error) or type(error).__name__
            raise CheckpointError(
                f"The sidecar does not reach {self._url} for us ({cause}). "
                "It is started again by itself; look at the log of the pod's container 'sidecar'."
            ) from error
