"""The first container of a serving pod: brings a version into a Triton model repository.

While it does, it tells on port 9464 how far it is: `GET /progress`.
"""

from __future__ import annotations

import argparse
import json
import logging
import threading
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from lepton_ai.record import FailureError, Record
from lepton_ai.store import open_store
from lepton_ai.triton_repository import Serving, model_config, model_folder, write_config
from lepton_ai.versions import MODEL_FILE, ModelVersions, Version

REQUEST_SECONDS = 5.0

logger = logging.getLogger(__name__)


@dataclass
class Transfer:
    """How many bytes of the model are here; 0 of 0 before that is known."""

    fetched_bytes: int = 0
    total_bytes: int = 0

    def note(self, fetched_bytes: int, total_bytes: int) -> None:
        self.fetched_bytes, self.total_bytes = fetched_bytes, total_bytes

    def failed(self, sentence: str) -> str:
        """Return the sentence about a failure, with how far the transfer had come."""
        if not self.total_bytes:
            return sentence
        return f"After {self.fetched_bytes} of {self.total_bytes} bytes: {sentence}"


def run(options: argparse.Namespace) -> Record:
    """Bring the model file, checked by digest, and write its config.pbtxt.

    A model that cannot be served as it is asked for is refused before its bytes are fetched.
    """
    transfer = Transfer()
    serve(transfer, options.port)
    versions = ModelVersions(open_store(), options.namespace, options.name)
    version = versions.read_exactly(options.version, options.digest)
    config = model_config(
        options.model, version.version, version.manifest.signature, _serving(options)
    )
    try:
        folder = _download(versions, version, options, transfer)
    except FailureError as failure:
        return Record.failed(failure.reason, transfer.failed(str(failure)))
    except OSError as error:
        return Record.failed(None, transfer.failed(_unwritten(error)))
    write_config(options.repository, options.model, config)
    return Record.succeeded(
        f"Version {version.version} of {options.name} is in {folder}.", model=version.reference
    )


def _download(
    versions: ModelVersions, version: Version, options: argparse.Namespace, transfer: Transfer
) -> str:
    folder = model_folder(options.repository, options.model) / str(version.version)
    folder.mkdir(parents=True, exist_ok=True)
    versions.download(version, MODEL_FILE, folder / MODEL_FILE, transfer.note)
    return str(folder)


def _unwritten(error: OSError) -> str:
    return (
        f"The model cannot be written to the pod's own disk ({error.strerror or error}). Make room "
        "on the node, or serve a smaller version."
    )


def serve(transfer: Transfer, port: int) -> None:
    """Tell how far it is, in a thread; a port that is taken costs that, never the model."""
    try:
        server = ThreadingHTTPServer(("", port), _handler(transfer))
    except OSError as error:
        logger.warning("Port %d cannot be opened: %s. Progress is not told.", port, error)
        return
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, name="progress", daemon=True).start()


def _handler(transfer: Transfer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = REQUEST_SECONDS

        def do_GET(self) -> None:
            if self.path != "/progress":
                self.send_error(HTTPStatus.NOT_FOUND, "There is /progress.")
                return
            told = {
                "fetchedBytes": transfer.fetched_bytes,
                "totalBytes": transfer.total_bytes,
            }
            self.send_response(HTTPStatus.OK)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(json.dumps(told).encode())

        def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002
            logger.debug(format, *arguments)

    return Handler


def _serving(options: argparse.Namespace) -> Serving:
    return Serving(
        max_batch_size=options.max_batch_size,
        must_batch=options.must_batch,
        preferred_batch_sizes=tuple(sorted(options.preferred_batch_sizes)),
        max_queue_delay_microseconds=options.max_queue_delay_microseconds,
        instances=options.instances,
        response_cache=options.response_cache,
        priority_levels=options.priority_levels,
    )
