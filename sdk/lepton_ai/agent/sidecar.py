"""Beside the user's training container: everything that needs libraries or the store.

It says at the start whether this run or attempt has ended already, waits for the launcher's
record, and answers it: a success with a model becomes a version in the store first. Every step can
be repeated, so a sidecar that is killed at any point goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from lepton_ai.agent.run_stacks import RunStacks
from lepton_ai.record import FailureError, Reason, Record
from lepton_ai.store import NoStoreError, Store, StoreUnavailableError, open_store
from lepton_ai.versions import MODEL_FILE, Manifest, ModelVersions, Version

if TYPE_CHECKING:
    from lepton_ai.agent.checkpoint_problem import Relay

POLL_SECONDS = 0.05
IDLE_SECONDS = 3600.0
START_PATIENCE_SECONDS = 2.0
START_PATIENCE_WITH_MODEL_SECONDS = 30.0
FAILURE_PATIENCE_SECONDS = 4.0  # the launcher waits 10 s, and a request may outlive its retries
SUCCESS_PATIENCE_SECONDS = 15.0
LONGEST_DELAY_SECONDS = 30.0
MAX_TAIL_BYTES = 64 * 1024
MAX_IMAGE_ID = 1024
CHECKPOINT_SOCKET = "checkpoints.sock"
# Of a success, what is as true of a failure.
TOLD_BY_LAUNCHER = (
    *("attempt", "step", "resumed_from", "furthest", "restarts", "repeated", "saved", "ledger"),
)

STORE_ERRORS = (NoStoreError, StoreUnavailableError)

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Exchange:
    """The folder that the launcher and its sidecar share; files appear in it whole."""

    folder: Path

    @property
    def is_owed_an_answer(self) -> bool:
        return (self.folder / "record.json").exists() and not self.is_answered

    @property
    def is_answered(self) -> bool:
        return (self.folder / "answer.json").exists()

    def tell_start(self, found: Record | None) -> None:
        start = {"found": json.loads(found.line()) if found else None}
        self._write("start.json", json.dumps(start).encode())

    def wait_for_record(self) -> Record:
        """Return the launcher's record, as soon as it is there."""
        file = self.folder / "record.json"
        while not file.exists():
            time.sleep(POLL_SECONDS)
        return Record.parse(file.read_bytes()) or Record.failed(
            Reason.USER_ERROR, "The launcher's record cannot be read. Look at the container's log."
        )

    def log_tail(self) -> bytes:
        """Return the end of what the ranks wrote to stderr; nothing if the launcher left none."""
        try:
            with (self.folder / "log-tail").open("rb") as file:
                return file.read(MAX_TAIL_BYTES)
        except OSError:
            return b""

    def answer(self, record: Record) -> None:
        self._write("answer.json", record.line())

    def _write(self, name: str, content: bytes) -> None:
        partial = self.folder / f".{name}.sidecar"
        partial.write_bytes(content)
        partial.replace(self.folder / name)


@dataclass(frozen=True)
class RunRecords:
    """The create-only records of a run's pods."""

    store: Store
    uid: str
    attempt: int
    rank: int

    def found(self) -> Record | None:
        """Return the run's success, else what this pod's attempt ended with before."""
        return self._read(self._success) or self._read(self._own)

    def keep(self, record: Record) -> Record:
        """Write this pod's record; return the one that the store holds then."""
        return self._keep(self._own, record)

    def keep_success(self, record: Record) -> Record:
        """Write the run's success; the first one stays, and is returned."""
        return self._keep(self._success, record)

    @property
    def _success(self) -> str:
        return f"runs/{self.uid}/success.json"

    @property
    def _own(self) -> str:
        return f"runs/{self.uid}/{self.attempt}-{self.rank}.json"

    def _keep(self, path: str, record: Record) -> Record:
        if self.store.put_new(path, record.line()):
            return record
        return self._read(path) or record

    def _read(self, path: str) -> Record | None:
        content = self.store.get(path)
        return Record.parse(content) if content else None


def run(options: argparse.Namespace) -> NoReturn:
    """Serve one pod, until SIGTERM; a hand-over that is under way is finished first."""
    exchange = Exchange(options.shared / "exchange")
    exchange.folder.mkdir(parents=True, exist_ok=True)
    _leave_on_sigterm(exchange)
    if not (exchange.folder / "start.json").exists():
        exchange.tell_start(_find(options))
    # Imported and begun when the launcher need not wait for it any more.
    from lepton_ai.agent import checkpoint_problem, telemetry  # noqa: PLC0415

    relay = _relay(options, exchange) if options.checkpoint_uri else None
    problem = partial(checkpoint_problem.problem, exchange.folder, relay=relay)
    telemetry.serve(exchange.folder, options.job, options.port, problem)
    run_stacks = _run_stacks(options, exchange)
    run_stacks.keep_in_background()
    if not exchange.is_answered:
        record = _with_stacks(marked(options, exchange), run_stacks)
        exchange.answer(hand_over(options, record))
        logger.info("the launcher has its answer")
    # The kubelet would start a sidecar again that ended while its pod runs.
    while True:
        time.sleep(IDLE_SECONDS)


def _relay(options: argparse.Namespace, exchange: Exchange) -> Relay:
    # It takes NumPy along: only where checkpoints lie in an object store.
    from lepton_ai.agent.checkpoint_relay import CheckpointRelay  # noqa: PLC0415

    relay = CheckpointRelay(options.checkpoint_uri, options.uid)
    relay.serve(exchange.folder / CHECKPOINT_SOCKET)
    return relay


def _run_stacks(options: argparse.Namespace, exchange: Exchange) -> RunStacks:
    def opened() -> Store:
        return open_store(patience_seconds=FAILURE_PATIENCE_SECONDS)

    return RunStacks(exchange.folder, options.uid, opened)


def _with_stacks(record: Record, run_stacks: RunStacks) -> Record:
    """Name the stacks by their key in the store, where the launcher named its own file."""
    if record.stacks is None:
        return record
    return record.model_copy(update={"stacks": run_stacks.keep(record.stacks)})


def _leave_on_sigterm(exchange: Exchange) -> None:
    """End at once, or after the answer; in a thread, since the store's calls block handlers."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})

    def leave() -> None:
        signal.sigwait({signal.SIGTERM})
        while exchange.is_owed_an_answer:
            time.sleep(POLL_SECONDS)
        os._exit(0)

    threading.Thread(target=leave, daemon=True).start()


def _records(
    options: argparse.Namespace, patience_seconds: float, record: Record | None = None
) -> RunRecords:
    """Return those of the attempt that a record is about: by itself, the one of the pod's start."""
    store = open_store(patience_seconds=patience_seconds)
    return RunRecords(store, options.uid, _attempt(options, record), options.rank)


def _attempt(options: argparse.Namespace, record: Record | None) -> int:
    """Return the attempt that the launcher followed; it says so if that is not the pod's first."""
    attempt: int = options.attempt
    return max(attempt, record.attempt or attempt) if record else attempt


def _find(options: argparse.Namespace) -> Record | None:
    patience = START_PATIENCE_WITH_MODEL_SECONDS if options.model else START_PATIENCE_SECONDS
    try:
        found = _records(options, patience).found()
    except STORE_ERRORS as error:
        logger.info("%s The run starts without looking for earlier records.", error)
        return None
    if found:
        logger.info("this run ended before: %s %s", found.outcome, found.message or "")
    return found


def marked(options: argparse.Namespace, exchange: Exchange) -> Record:
    """Return the launcher's record, as soon as it is there, with what a failed pod's log tells."""
    record = exchange.wait_for_record()
    if record.is_success:
        return record
    # RE2 is loaded when something has failed: a pod's start does not wait for it.
    from lepton_ai.agent import marks  # noqa: PLC0415

    found = marks.found(options.patterns, record.message or "", exchange.log_tail())
    return record.model_copy(update={"matched": found}) if found else record


def hand_over(options: argparse.Namespace, record: Record) -> Record:
    """Return the record that the pod ends with, after the store has it."""
    logger.info("the launcher ended: %s %s", record.reason, record.message or "")
    if not (record.is_success and options.rank == 0):
        return _keep_briefly(options, record)
    if not options.model:
        return _keep_briefly(options, record, success=True)
    try:
        manifest = _checked_model(options)
        return _until_stored(lambda: _publish(options, record, manifest))
    except FailureError as failure:
        return _keep_briefly(options, _failed(record, failure))


def _failed(record: Record, failure: FailureError) -> Record:
    """Return what becomes of a success whose result is none; what its launcher told stays."""
    logger.info("%s", failure)
    told = {name: getattr(record, name) for name in TOLD_BY_LAUNCHER}
    failed = Record.failed(failure.reason, str(failure))
    return failed.model_copy(update={"rank": 0, **told})


def _keep_briefly(options: argparse.Namespace, record: Record, *, success: bool = False) -> Record:
    """Write a record without a model; the launcher waits 10 s for it, and ends without it too."""
    try:
        records = _records(options, FAILURE_PATIENCE_SECONDS, record)
        if success:
            record = records.keep_success(record)
        return records.keep(record)
    except STORE_ERRORS as error:
        logger.info("%s The record is in the pod's message only.", error)
        return record


def _checked_model(options: argparse.Namespace) -> Manifest:
    # ONNX and its runtime take half a second and 60 MB: only where a model is handed over.
    from lepton_ai import model_folder  # noqa: PLC0415
    from lepton_ai.onnx_model import Limits  # noqa: PLC0415
    from lepton_ai.record import NoModelError  # noqa: PLC0415

    output: Path = options.shared / "output"
    if not (output / MODEL_FILE).exists():
        raise NoModelError(
            f"The script ended with exit code 0 and left no {MODEL_FILE}, and the job has "
            f"output.model '{options.model}'. Let rank 0 write it to the folder LEPTON_OUTPUT_DIR, "
            "or remove output.model."
        )
    return model_folder.read_manifest(output, Limits(options.max_opset, options.max_ir))


def _publish(options: argparse.Namespace, record: Record, manifest: Manifest) -> Record:
    records = _records(options, SUCCESS_PATIENCE_SECONDS, record)
    version = _version(options, records.store, record, manifest)
    success = record.model_copy(
        update={"model": version.reference, "metrics": version.metrics or record.metrics}
    )
    success = records.keep_success(success)
    records.keep(success)
    return success


def _version(
    options: argparse.Namespace, store: Store, record: Record, manifest: Manifest
) -> Version:
    from lepton_ai.lineage import read as read_lineage  # noqa: PLC0415  # as above
    from lepton_ai.model_folder import curves, read_metrics  # noqa: PLC0415

    output: Path = options.shared / "output"
    versions = ModelVersions(store, options.namespace, options.model)
    metrics = read_metrics(output) or record.metrics or {}
    drawn = curves(output)
    versions.upload(output, drawn)
    lineage = {**_lineage(options, record), **read_lineage(output).to_dict()}
    if drawn:
        lineage["curves"] = [each.to_dict() for each in drawn]
    return versions.publish(options.uid, manifest, output, metrics, lineage)


def _lineage(options: argparse.Namespace, record: Record) -> dict[str, Any]:
    facts = {
        "trainingJob": options.job,
        "uid": options.uid,
        "attempt": _attempt(options, record),
        "image": options.image,
        "imageID": _image_id(options.image_id_file),
        "entrypoint": options.entrypoint,
    }
    return {name: value for name, value in facts.items() if value is not None}


def _image_id(file: Path | None) -> str | None:
    """Return what the kubelet told of the training container's image, if that is known by now."""
    try:
        return (file and file.read_text()[:MAX_IMAGE_ID].strip()) or None
    except OSError:
        return None


def _until_stored(publish: Callable[[], Record]) -> Record:
    """Try until the store has the result; only the job's deadline throws it away."""
    delay_seconds = 1.0
    tries = 1
    while True:
        try:
            return publish()
        except STORE_ERRORS as error:
            logger.warning(
                "%s The model is not stored yet; try %d follows in %.0f s.",
                error,
                tries + 1,
                delay_seconds,
            )
        time.sleep(delay_seconds)
        delay_seconds = min(2 * delay_seconds, LONGEST_DELAY_SECONDS)
        tries += 1
