"""The object store, behind one client library for all schemes.

Where it is and who we are comes from a folder with one file a key, as a Secret is mounted:
`url` (`s3://bucket[/prefix]`, `gs://`, `az://`, `file:///folder`), `endpoint`, `region`,
`accessKey`, `secretKey`.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import obstore
from obstore.exceptions import (
    AlreadyExistsError,
    BaseError,
    PermissionDeniedError,
    UnauthenticatedError,
)
from obstore.store import AzureStore, GCSStore, LocalStore, ObjectStore, S3Store

from lepton_ai.record import DigestMismatchError, FailureError, Reason

SECRET_FOLDER = "/etc/lepton/store"  # noqa: S105  # a folder
PART_BYTES = 8 * 1024 * 1024
PARTS_IN_FLIGHT = 4
WRITER_PARTS_IN_FLIGHT = 2
MOST_PARTS = 9_000  # S3 allows 10,000
RECORD_LIMIT_BYTES = 4 * 1024 * 1024

logger = logging.getLogger(__name__)


class NoStoreError(FailureError):
    reason = Reason.NO_STORE


class StoreUnavailableError(FailureError):
    reason = Reason.STORE_UNAVAILABLE


@dataclass(frozen=True)
class StoreAddress:
    """Where the store is. The keys never appear in its representation."""

    url: str
    endpoint: str = ""
    region: str = ""
    access_key: str = field(default="", repr=False)
    secret_key: str = field(default="", repr=False)

    @classmethod
    def from_environment(cls) -> StoreAddress:
        """Read `LEPTON_STORE` (a folder or a file:// URL), else the mounted Secret."""
        location = os.environ.get("LEPTON_STORE") or SECRET_FOLDER
        if location.startswith("file://"):
            return cls(location).checked()
        return cls.from_folder(Path(location))

    @classmethod
    def from_folder(cls, folder: Path) -> StoreAddress:
        def key(name: str) -> str:
            file = folder / name
            return file.read_text().strip() if file.is_file() else ""

        if not key("url"):
            raise NoStoreError(
                "There is no object store in this namespace: the Secret lepton-store is missing "
                "or has no key 'url'. Create it with url, region, accessKey and secretKey."
            )
        names = ("url", "endpoint", "region", "accessKey", "secretKey")
        return cls(*(key(name) for name in names)).checked()

    def checked(self) -> StoreAddress:
        """Return the address if it is complete; raise NoStoreError with what it lacks."""
        if problem := self._problem():
            raise NoStoreError(f"The Secret lepton-store is incomplete: {problem}")
        return self

    def _problem(self) -> str:
        parts = urlsplit(self.url)
        if parts.scheme not in {"s3", "gs", "az", "file"}:
            return (
                f"its url '{self.url}' starts with none of s3://, gs://, az:// and file://. "
                "Name the bucket as in s3://bucket/prefix."
            )
        if not (parts.path.strip("/") if parts.scheme == "file" else parts.netloc):
            return f"its url '{self.url}' names no bucket or folder. Name one."
        if bool(self.access_key) != bool(self.secret_key):
            return "it has only one of accessKey and secretKey. Add the other one."
        if parts.scheme == "s3" and self.endpoint and not self.access_key:
            return "it has an endpoint of its own, and no accessKey and secretKey. Add them."
        return ""

    def at(self, url: str) -> StoreAddress:
        """Return the address of another bucket or folder, reached with the same credentials."""
        return StoreAddress(url, self.endpoint, self.region, self.access_key, self.secret_key)


def open_store(address: StoreAddress | None = None, patience_seconds: float = 15) -> Store:
    """Open the store; requests are repeated for `patience_seconds` before they count as failed."""
    address = address or StoreAddress.from_environment()
    parts = urlsplit(address.url)
    if parts.scheme == "file":
        return Store(address.url, LocalStore(unquote(parts.path), mkdir=True))
    prefix = parts.path.strip("/") or None
    options = _client_options(address, patience_seconds)
    if parts.scheme == "s3":
        return Store(address.url, _s3(address, parts.netloc, prefix, options))
    if parts.scheme == "az":
        account: dict[str, Any] = {
            "account_name": address.access_key,
            "account_key": address.secret_key,
        }
        given = {name: value for name, value in account.items() if value}
        return Store(address.url, AzureStore(parts.netloc, prefix=prefix, **given, **options))
    key: dict[str, Any] = {"service_account_key": address.secret_key} if address.secret_key else {}
    return Store(address.url, GCSStore(parts.netloc, prefix=prefix, **key, **options))


def _client_options(address: StoreAddress, patience_seconds: float) -> dict[str, Any]:
    return {
        "client_options": {
            "allow_http": address.endpoint.startswith("http://"),
            "connect_timeout": timedelta(seconds=min(5.0, patience_seconds / 2)),
            "timeout": timedelta(seconds=min(30.0, patience_seconds)),
        },
        "retry_config": {
            "max_retries": 1_000,
            "retry_timeout": timedelta(seconds=patience_seconds),
            "backoff": {
                "init_backoff": timedelta(milliseconds=100),
                "max_backoff": timedelta(seconds=5),
                "base": 2,
            },
        },
    }


def _s3(address: StoreAddress, bucket: str, prefix: str | None, options: dict[str, Any]) -> S3Store:
    known: dict[str, Any] = {
        "endpoint": address.endpoint,
        "access_key_id": address.access_key,
        "secret_access_key": address.secret_key,
    }
    given = {name: value for name, value in known.items() if value}
    region = address.region or "us-east-1"
    return S3Store(bucket, prefix=prefix, region=region, **given, **options)


@dataclass(frozen=True)
class Store:
    """Objects by path. Every failure is a StoreUnavailableError with a sentence."""

    url: str
    objects: ObjectStore

    def check(self) -> None:
        """Raise StoreUnavailableError unless the store answers and lets us in."""
        with self._failures_as_sentences():
            next(iter(obstore.list(self.objects, "runs", chunk_size=1)), None)

    def put_new(self, path: str, content: bytes) -> bool:
        """Write an object that does not exist yet; False, and no change, if it does."""
        with self._failures_as_sentences():
            try:
                obstore.put(self.objects, path, content, mode="create")
            except AlreadyExistsError:
                return False
        return True

    def get(self, path: str) -> bytes | None:
        """Return a small object's bytes; None if there is none."""
        with self._failures_as_sentences():
            try:
                result = obstore.get(self.objects, path)
            except FileNotFoundError as error:
                if _is_missing_bucket(error):
                    raise
                return None
            if result.meta["size"] > RECORD_LIMIT_BYTES:
                raise StoreUnavailableError(
                    f"{self.url}/{path} is {result.meta['size']} bytes long, which no record is. "
                    "Somebody else wrote it; remove it."
                )
            return bytes(result.bytes())

    def size_bytes(self, path: str) -> int | None:
        """Return an object's size; None if there is none."""
        with self._failures_as_sentences():
            try:
                return int(obstore.head(self.objects, path)["size"])
            except FileNotFoundError:
                return None

    def paths_below(self, prefix: str) -> list[str]:
        """Return the paths below a folder, at any depth."""
        with self._failures_as_sentences():
            return [
                str(found["path"]) for page in obstore.list(self.objects, prefix) for found in page
            ]

    def paths_in(self, prefix: str) -> list[str]:
        """Return the paths of the objects that lie directly in a folder."""
        with self._failures_as_sentences():
            listing = obstore.list_with_delimiter(self.objects, prefix)
            return [str(found["path"]) for found in listing["objects"]]

    def put_blob(self, path: str, file: Path, sha256: str) -> None:
        """Upload a file whose digest is known, in parts; nothing if it is already there.

        The bytes are hashed again on their way: a file that changed meanwhile leaves no object.
        """
        size_bytes = file.stat().st_size
        if self.size_bytes(path) == size_bytes:
            logger.info("%s is in the store already", file.name)
            return
        part_bytes = max(PART_BYTES, -(-size_bytes // MOST_PARTS))
        parts = _checked_parts(file, sha256, min(part_bytes, PART_BYTES))
        with self._failures_as_sentences():
            if size_bytes <= PART_BYTES:
                obstore.put(self.objects, path, b"".join(parts), use_multipart=False)
            else:
                obstore.put(
                    self.objects,
                    path,
                    Progress(f"uploading {file.name}", size_bytes).over(parts),
                    chunk_size=part_bytes,
                    max_concurrency=PARTS_IN_FLIGHT,
                )
        logger.info("uploaded %s, %d bytes", file.name, size_bytes)

    def download(
        self, path: str, file: Path, told: Callable[[int, int], None] = lambda _, __: None
    ) -> str | None:
        """Stream an object into a file; return its sha256, or None if there is no such object.

        `told` hears after each part how many bytes are here, and of how many in all.
        Read by ranges, so that a request's time limit bounds a part and not the whole object.
        """
        size_bytes = self.size_bytes(path)
        if size_bytes is None:
            return None
        digest = hashlib.sha256()
        told(0, size_bytes)
        progress = Progress(f"downloading {file.name}", size_bytes, told=told)
        parts = progress.over(self._ranges(path, size_bytes))
        with file.open("wb") as target:
            for part in parts:
                digest.update(part)
                target.write(part)
        return digest.hexdigest()

    def _ranges(self, path: str, size_bytes: int) -> Iterator[bytes]:
        for start in range(0, size_bytes, PART_BYTES):
            yield self.read(path, start, min(PART_BYTES, size_bytes - start))

    def read(self, path: str, offset: int, length: int) -> bytes:
        """Return some bytes of an object."""
        with self._failures_as_sentences():
            return obstore.get_range(self.objects, path, start=offset, length=length).to_bytes()

    @contextmanager
    def writer(self, path: str) -> Iterator[obstore.WritableFile]:
        """Write an object of unknown length, in parts, without waiting for each.

        What is written must stay as it is until the end: it is read later, and not copied. An
        exception inside leaves an object that is cut short.
        """
        with (
            self._failures_as_sentences(),
            obstore.open_writer(
                self.objects,
                path,
                buffer_size=2 * PART_BYTES,
                max_concurrency=WRITER_PARTS_IN_FLIGHT,
            ) as file,
        ):
            yield file

    def remove(self, paths: Sequence[str]) -> None:
        """Remove objects; one that is gone already is no failure."""
        with self._failures_as_sentences():
            try:
                obstore.delete(self.objects, paths)
            except FileNotFoundError:  # a folder as store says so, S3 does not
                for path in paths if len(paths) > 1 else ():
                    self.remove([path])

    @contextmanager
    def _failures_as_sentences(self) -> Iterator[None]:
        try:
            yield
        except (PermissionDeniedError, UnauthenticatedError) as error:
            raise StoreUnavailableError(
                f"The store {self.url} refuses our credentials ({_cause(error)}). "
                "Check accessKey and secretKey in the Secret lepton-store."
            ) from None
        except (BaseError, OSError) as error:
            raise StoreUnavailableError(
                f"The store {self.url} does not do what is asked ({_cause(error)}). "
                "Check that it runs, and the Secret lepton-store; it is tried again."
            ) from None


def _is_missing_bucket(error: Exception) -> bool:
    return any(
        code in str(error)
        for code in ("NoSuchBucket", "ContainerNotFound", "bucket does not exist")
    )


def _cause(error: Exception) -> str:
    """Return what went wrong in a few words: an S3 answer's code and message, else one line."""
    text = str(error)
    answer = re.search(r"<Code>(.*?)</Code>.*?<Message>(.*?)</Message>", text, re.DOTALL)
    if answer:
        return f"{answer[1]}: {answer[2]}".rstrip(".")
    return text.partition("\n")[0].strip().rstrip(".")[:300]


def file_sha256(file: Path) -> str:
    """Return the sha256 of a file's bytes, as hex."""
    with file.open("rb") as source:
        return hashlib.file_digest(source, "sha256").hexdigest()


def _checked_parts(file: Path, sha256: str, part_bytes: int) -> Iterator[bytes]:
    """Yield a file's bytes; raise at its end, before anything is made visible, if they changed."""
    digest = hashlib.sha256()
    with file.open("rb") as source:
        while part := source.read(part_bytes):
            digest.update(part)
            yield part
    if digest.hexdigest() != sha256:
        raise DigestMismatchError(
            f"{file.name} changed while it was uploaded. Leave the output folder alone once the "
            "script has ended."
        )


@dataclass
class Progress:
    """Says how far a transfer is: one line each two seconds, with bytes.

    `told` hears of each part.
    """

    what: str
    total_bytes: int
    interval_seconds: float = 2.0
    clock: Callable[[], float] = time.monotonic
    told: Callable[[int, int], None] = lambda _, __: None

    def over(self, parts: Iterator[bytes]) -> Iterator[bytes]:
        done_bytes = 0
        due = self.clock() + self.interval_seconds
        for part in parts:
            yield part
            done_bytes += len(part)
            self.told(done_bytes, self.total_bytes)
            if self.clock() >= due:
                due = self.clock() + self.interval_seconds
                share = 100 * done_bytes // max(self.total_bytes, 1)
                logger.info(
                    "%s: %d of %d bytes, %d %%", self.what, done_bytes, self.total_bytes, share
                )
