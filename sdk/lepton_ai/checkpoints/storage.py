"""Where checkpoints are kept: a folder that all ranks mount, or an object store.

A data file is written once, under a name that only one attempt uses; a manifest is created, never
overwritten. Every failure is a CheckpointError with a sentence.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Protocol
from urllib.parse import unquote, urlsplit

from lepton_ai.checkpoints.manifest import CheckpointError, StoredFile

PART_BYTES = 8 * 1024 * 1024


class Sink(Protocol):
    def write(self, content: memoryview, /) -> object: ...


class HashedFile:
    """A file that is being written: it knows its length and its digest."""

    def __init__(self, name: str, sink: Sink) -> None:
        self._name = name
        self._sink = sink
        self._digest = hashlib.sha256()
        self._size_bytes = 0
        self.failure: Exception | None = None
        """What went wrong first: torch hides it behind an error of its zip writer."""

    def write(self, content: bytes | memoryview) -> int:
        part = memoryview(content).cast("B")
        self._digest.update(part)
        try:
            self._sink.write(part)
        except Exception as error:
            self.failure = self.failure or error
            raise
        self._size_bytes += len(part)
        return len(part)

    def tell(self) -> int:
        return self._size_bytes

    def flush(self) -> None:
        """Do nothing: a file is made durable as a whole, when it is complete."""

    def stored(self) -> StoredFile:
        return StoredFile(
            path=self._name, sha256=self._digest.hexdigest(), size_bytes=self._size_bytes
        )


class Storage(Protocol):
    """Files by their path below one address. Failures are CheckpointErrors."""

    @property
    def url(self) -> str: ...

    def create(self, path: str) -> AbstractContextManager[HashedFile]:
        """Write a new file; it is durable once the context is left."""

    def put_new(self, path: str, content: bytes) -> bool:
        """Write a small file that does not exist yet; False, and no change, if it does."""

    def get(self, path: str) -> bytes | None:
        """Return a small file's bytes; None if there is none."""

    def size_bytes(self, path: str) -> int | None:
        """Return a file's size; None if there is none."""

    def read(self, path: str, offset: int, length: int) -> bytes: ...

    def paths(self) -> list[str]:
        """Return the paths of all files."""

    def remove_folder(self, folder: str) -> None:
        """Remove a folder's files, the manifest first: half a removal leaves no checkpoint."""


def open_storage(uri: str, run: str) -> Storage:
    """Open the place of a run's checkpoints: a folder, or a prefix in an object store.

    Args:
        uri: `file:///folder`, `s3://`, `gs://`, `az://`, or `lepton-store://prefix`.
        run: whose checkpoints these are.

    """
    url = f"{uri.rstrip('/')}/{run}"
    parts = urlsplit(url)
    if parts.scheme == "file" and not parts.netloc:
        return Volume(Path(unquote(parts.path)))
    # A training image need not have the object store's library, if its sidecar has it.
    from lepton_ai.checkpoints.bucket import open_bucket  # noqa: PLC0415

    return open_bucket(url)


class Volume:
    """A folder. Files are flushed to the disk before they count."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @property
    def url(self) -> str:
        return f"file://{self._folder}"

    @contextmanager
    def create(self, path: str) -> Iterator[HashedFile]:
        file = self._folder / path
        with self._failures_as_sentences():
            file.parent.mkdir(parents=True, exist_ok=True)
            try:
                with file.open("xb") as sink:
                    yield HashedFile(file.name, sink)
                    sink.flush()
                    os.fsync(sink.fileno())
                _flush_folder(file.parent)
            except FileExistsError:
                raise
            except BaseException:
                file.unlink(missing_ok=True)
                raise

    def put_new(self, path: str, content: bytes) -> bool:
        try:
            with self.create(path) as file:
                file.write(content)
        except CheckpointError as error:
            if isinstance(error.__cause__, FileExistsError):
                return False
            raise
        return True

    def get(self, path: str) -> bytes | None:
        with self._failures_as_sentences():
            try:
                return (self._folder / path).read_bytes()
            except FileNotFoundError:
                return None

    def size_bytes(self, path: str) -> int | None:
        with self._failures_as_sentences():
            try:
                return (self._folder / path).stat().st_size
            except FileNotFoundError:
                return None

    def read(self, path: str, offset: int, length: int) -> bytes:
        with self._failures_as_sentences(), (self._folder / path).open("rb") as file:
            file.seek(offset)
            return file.read(length)

    def paths(self) -> list[str]:
        with self._failures_as_sentences():
            return [
                str((Path(folder) / name).relative_to(self._folder))
                for folder, _, names in os.walk(self._folder)
                for name in names
            ]

    def remove_folder(self, folder: str) -> None:
        with self._failures_as_sentences():
            (self._folder / folder / "manifest.json").unlink(missing_ok=True)
            shutil.rmtree(self._folder / folder, ignore_errors=True)
            _remove_if_empty((self._folder / folder).parent)

    @contextmanager
    def _failures_as_sentences(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            remedy = {
                errno.ENOSPC: "Free space, give the volume more, or keep fewer checkpoints",
                errno.EDQUOT: "Free space, give the volume more, or keep fewer checkpoints",
                errno.EACCES: "Let the user of the training write there",
                errno.EROFS: "Mount the volume for writing",
            }.get(error.errno or 0, "Check the volume")
            raise CheckpointError(
                f"The volume at {self._folder} does not do what is asked "
                f"({error.strerror or error}). {remedy}."
            ) from error


def _flush_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove_if_empty(folder: Path) -> None:
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


def sha256_of(storage: Storage, file: str, size_bytes: int) -> str:
    """Return the digest of a stored file that is known to have this size."""
    digest = hashlib.sha256()
    for offset in range(0, size_bytes, PART_BYTES):
        digest.update(storage.read(file, offset, min(PART_BYTES, size_bytes - offset)))
    return digest.hexdigest()
