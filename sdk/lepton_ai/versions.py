"""Versions of a model: born in the store, by create-only records, and never changed."""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import Field, ValidationError

from lepton_ai.lineage import Lineage
from lepton_ai.record import (
    DigestMismatchError,
    Document,
    Evaluation,
    Metrics,
    ModelReference,
    SourceNotFoundError,
    VersionSummary,
)
from lepton_ai.store import Store, StoreUnavailableError, file_sha256

MODEL_FILE = "model.onnx"
HELD_OUT_FILE = "heldout.npz"
SIGNATURE_FILE = "signature.json"
METRICS_FILE = "metrics.json"
TRAINABLE_FOLDER = "trainable"
PREFIX_DIGITS = 12

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")

logger = logging.getLogger(__name__)

AnyDocument = TypeVar("AnyDocument", bound=Document)


class Tensor(Document):
    """An input or output: dtype in NumPy's words, dynamic sizes are -1, the first is the batch."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    # Of a request that the model has answered; only where sizes beyond the batch are dynamic.
    example: tuple[int, ...] | None = None


class Signature(Document):
    """What goes in and what comes out."""

    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    labels: tuple[str, ...] | None = None
    preprocessing: dict[str, str] | None = None
    # False where the file itself says that its first sizes are different things.
    batched: Literal[False] | None = None

    @property
    def is_batched(self) -> bool:
        """Whether the first size of every tensor is free, which Triton takes for the batch."""
        tensors = (*self.inputs, *self.outputs)
        return self.batched is None and all(tensor.shape[:1] == (-1,) for tensor in tensors)


class ModelFile(Document):
    path: str
    sha256: str
    size_bytes: int


class Manifest(Document):
    """What a version consists of."""

    files: tuple[ModelFile, ...]
    signature: Signature
    opset: int
    ir: int

    @property
    def digest(self) -> str:
        return canonical_digest(self.to_dict())

    @property
    def size_bytes(self) -> int:
        return sum(file.size_bytes for file in self.files)

    def file(self, path: str) -> ModelFile | None:
        return next((file for file in self.files if file.path == path), None)


class Version(Document):
    """The record of a version; `identity` is the run's UID, or the digest of a source."""

    version: int
    identity: str
    digest: str
    size_bytes: int
    manifest: Manifest
    metrics: Metrics = Field(default_factory=dict)
    lineage: dict[str, Any] = Field(default_factory=dict)
    created: str

    @property
    def reference(self) -> ModelReference:
        return ModelReference(version=self.version, digest=self.digest, size_bytes=self.size_bytes)

    def summary(self, evaluation: Evaluation | None = None) -> VersionSummary:
        """Return what a termination message has room for."""
        return VersionSummary(
            **self.reference.model_dump(),
            metrics=self.metrics,
            lineage=_in_short(self.lineage),
            evaluation=evaluation,
        )


class EvaluationRecord(Evaluation):
    created: str


def _in_short(lineage: Mapping[str, Any]) -> dict[str, Any]:
    """Return what of a lineage has room in a message: digests by their beginning."""
    told = _told(lineage)
    image = _DIGEST.findall(str(lineage.get("imageID", "")))
    data = [each.digest for each in told.data or ()]
    of_data = data[0] if len(data) == 1 else canonical_digest(data)
    found = {
        **{name: lineage.get(name) for name in ("trainingJob", "uri", "uid")},
        "imageDigest": _prefix(image[-1]) if image else None,
        "dataDigest": _prefix(of_data) if data else None,
        "checkpointStep": told.checkpoint.step if told.checkpoint else None,
    }
    return {name: value for name, value in found.items() if value is not None}


def _told(lineage: Mapping[str, Any]) -> Lineage:
    try:
        return Lineage.model_validate(lineage)
    except ValidationError:  # somebody else wrote it, or a newer release did
        return Lineage()


def _prefix(digest: str) -> str:
    return digest[: len("sha256:") + PREFIX_DIGITS]


def canonical_json(content: Any) -> bytes:
    """Encode as canonical JSON: sorted keys, no spaces, UTF-8."""
    return json.dumps(
        content, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    ).encode()


def canonical_digest(content: Any) -> str:
    return "sha256:" + hashlib.sha256(canonical_json(content)).hexdigest()


def now() -> str:
    """Return the time of day as RFC 3339 in UTC, to the second."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@dataclass(frozen=True)
class ModelVersions:
    """The versions of one model of one namespace."""

    store: Store
    namespace: str
    name: str

    @property
    def folder(self) -> str:
        return f"models/{self.namespace}/{self.name}"

    def publish(
        self,
        identity: str,
        manifest: Manifest,
        source: Path,
        metrics: dict[str, float],
        lineage: dict[str, Any],
    ) -> Version:
        """Upload the files, then make the version, or find the one that this identity made."""
        self.upload(source, manifest.files)

        def at(number: int) -> Version:
            return Version(
                version=number,
                identity=identity,
                digest=manifest.digest,
                size_bytes=manifest.size_bytes,
                manifest=manifest,
                metrics=metrics,
                lineage=lineage,
                created=now(),
            )

        number = 1
        while True:
            found, made = self.read(number), at(number)
            if found is None and self.store.put_new(
                self._record(number), canonical_json(made.to_dict())
            ):
                logger.info("version %d of %s is made: %s", number, self.name, manifest.digest)
                return made
            found = found or self.read(number)
            if found is not None and found.identity == identity:
                logger.info("version %d of %s is this one already", number, self.name)
                return found
            number += 1

    def upload(self, folder: Path, files: Iterable[ModelFile]) -> None:
        """Store the bytes of files by their digest."""
        for file in files:
            self.store.put_blob(self._blob(file.sha256), folder / file.path, file.sha256)

    def find(self, identity: str) -> Version | None:
        """Return the version that an identity made, if it made one."""
        number = 1
        while (found := self.read(number)) is not None:
            if found.identity == identity:
                return found
            number += 1
        return None

    def read(self, number: int) -> Version | None:
        return self._parse(self._record(number), Version)

    def read_existing(self, number: int) -> Version:
        version = self.read(number)
        if version is None:
            raise SourceNotFoundError(
                f"The store has no version {number} of the model {self.name}. "
                "Name a version that the LeptonModel's status lists."
            )
        return version

    def read_exactly(self, number: int, digest: str) -> Version:
        """Return version `number`; raise unless it exists and its manifest has this digest."""
        version = self.read_existing(number)
        if version.manifest.digest != digest:
            raise DigestMismatchError(
                f"Version {number} of the model {self.name} has the digest "
                f"{version.manifest.digest} in the store, and {digest} was asked for. "
                "A version never changes: look who wrote to the store."
            )
        return version

    def numbers(self) -> list[int]:
        """Return the numbers of all versions, newest first."""
        names = (path.rpartition("/")[2] for path in self.store.paths_in(self._versions))
        found = (re.fullmatch(r"([1-9][0-9]*)\.json", name) for name in names)
        return sorted((int(match[1]) for match in found if match), reverse=True)

    def download(
        self,
        version: Version,
        path: str,
        target: Path,
        told: Callable[[int, int], None] = lambda _, __: None,
    ) -> None:
        """Bring a version's file; it appears under its name only whole and with its digest.

        `told` hears how many bytes are here, and of how many.
        """
        wanted = version.manifest.file(path)
        if wanted is None:
            raise SourceNotFoundError(f"Version {version.version} of {self.name} has no {path}.")
        if _is_whole(target, wanted):
            logger.info("%s is here already, %d bytes", path, wanted.size_bytes)
            return
        partial = target.with_name(f".{target.name}.partial")
        found = self.store.download(self._blob(wanted.sha256), partial, told)
        if found is None:
            raise SourceNotFoundError(
                f"The bytes of {path} of version {version.version} of {self.name} are missing in "
                f"the store ({self._blob(wanted.sha256)}). Restore them, or choose another version."
            )
        if found != wanted.sha256:
            partial.unlink()
            raise DigestMismatchError(
                f"The store's bytes of {path} of version {version.version} of {self.name} have "
                f"the digest sha256:{found} and not sha256:{wanted.sha256}. The object is damaged: "
                "remove it and publish the version again."
            )
        partial.replace(target)

    def evaluation(self, number: int, dataset_digest: str) -> EvaluationRecord | None:
        return self._parse(self._evaluation(number, dataset_digest), EvaluationRecord)

    def newest_evaluation(self, number: int, dataset: str) -> EvaluationRecord | None:
        """Return the newest evaluation of a version on the data set of this name."""
        paths = self.store.paths_in(f"{self._versions}/{number}")
        read = (self._parse(path, EvaluationRecord) for path in paths)
        matching = [record for record in read if record is not None and record.dataset == dataset]
        return max(matching, key=lambda record: record.created, default=None)

    def record_evaluation(self, record: EvaluationRecord) -> EvaluationRecord:
        """Write an evaluation once; return the one that the store holds then."""
        path = self._evaluation(record.version, record.dataset_digest)
        if self.store.put_new(path, canonical_json(record.to_dict())):
            return record
        return self.evaluation(record.version, record.dataset_digest) or record

    @property
    def _versions(self) -> str:
        return f"{self.folder}/versions"

    def _record(self, number: int) -> str:
        return f"{self._versions}/{number}.json"

    def _evaluation(self, number: int, dataset_digest: str) -> str:
        short = dataset_digest.removeprefix("sha256:")[:16]
        return f"{self._versions}/{number}/evaluation-{short}.json"

    def _blob(self, sha256: str) -> str:
        return f"{self.folder}/blobs/{sha256}"

    def _parse(self, path: str, kind: type[AnyDocument]) -> AnyDocument | None:
        content = self.store.get(path)
        if content is None:
            return None
        try:
            return kind.model_validate_json(content)
        except ValidationError:
            raise StoreUnavailableError(
                f"{path} in the store is not a record that this release can read. Somebody else "
                "wrote it, or a newer release did; remove it or upgrade."
            ) from None


def _is_whole(target: Path, wanted: ModelFile) -> bool:
    return (
        target.is_file()
        and target.stat().st_size == wanted.size_bytes
        and file_sha256(target) == wanted.sha256
    )
