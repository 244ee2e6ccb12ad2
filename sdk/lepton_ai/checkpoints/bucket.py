"""A prefix of an object store as the place of checkpoints; it needs the store's library."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from lepton_ai.checkpoints.manifest import CheckpointError
from lepton_ai.checkpoints.storage import PART_BYTES, HashedFile, Sink
from lepton_ai.record import FailureError
from lepton_ai.store import NoStoreError, Store, StoreAddress, open_store

OWN_STORE = "lepton-store://"


def open_bucket(url: str) -> Bucket:
    """Open a prefix; `lepton-store://` stands for the namespace's own store."""
    try:
        return Bucket(open_store(address_of(url)))
    except FailureError as error:
        raise CheckpointError(
            f"There is no place for checkpoints at '{url}': {error} An address begins with "
            "file:///, s3://, gs://, az:// or lepton-store://."
        ) from None


def address_of(url: str) -> StoreAddress:
    """Return the address with the store's credentials, or with those of the machine itself."""
    if url.startswith(OWN_STORE):
        own = StoreAddress.from_environment()
        return own.at(f"{own.url.rstrip('/')}/{url.removeprefix(OWN_STORE).lstrip('/')}")
    try:
        return StoreAddress.from_environment().at(url).checked()
    except NoStoreError:
        return StoreAddress(url).checked()


class Bucket:
    """A prefix of an object store. What it holds in memory while it writes is bounded."""

    def __init__(self, store: Store) -> None:
        self._store = store

    @property
    def url(self) -> str:
        return self._store.url

    @contextmanager
    def create(self, path: str) -> Iterator[HashedFile]:
        with _store_failures(), self._store.writer(path) as sink:
            yield HashedFile(path.rpartition("/")[2], _Copied(sink))

    def put_new(self, path: str, content: bytes) -> bool:
        with _store_failures():
            # A store that wrote, and whose answer was lost, is asked again and refuses.
            return self._store.put_new(path, content) or self._store.get(path) == content

    def get(self, path: str) -> bytes | None:
        with _store_failures():
            return self._store.get(path)

    def size_bytes(self, path: str) -> int | None:
        with _store_failures():
            return self._store.size_bytes(path)

    def read(self, path: str, offset: int, length: int) -> bytes:
        with _store_failures():
            return self._store.read(path, offset, length)

    def paths(self) -> list[str]:
        with _store_failures():
            return self._store.paths_below("")

    def remove_folder(self, folder: str) -> None:
        with _store_failures():
            self._store.remove([f"{folder}/manifest.json"])
            self._store.remove(self._store.paths_below(folder))


@dataclass(frozen=True)
class _Copied:
    """Hands on copies: obstore reads a buffer after `write` has returned, and torch reuses its own.

    Without them the object's bytes are not what was written.
    """

    sink: Sink

    def write(self, content: memoryview) -> None:
        for start in range(0, len(content), PART_BYTES):
            self.sink.write(memoryview(bytes(content[start : start + PART_BYTES])))


@contextmanager
def _store_failures() -> Iterator[None]:
    try:
        yield
    except FailureError as error:
        raise CheckpointError(str(error)) from None
