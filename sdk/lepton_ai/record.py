"""What a pod says when it ends: one line of JSON, in the store and in its termination message."""

from __future__ import annotations

import json
import math
from enum import StrEnum
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel

MESSAGE_LIMIT_BYTES = 2048
"""The kubelet keeps 4096 bytes of a termination message, and 12 KiB of all containers of a pod."""

SHORTEST_MESSAGE = 80
METRICS_IN_MESSAGE = 8


class Reason(StrEnum):
    """Why a pod ended: a closed list, so that the operator can decide by it."""

    SUCCEEDED = "Succeeded"
    USER_ERROR = "UserError"
    TERMINATED = "Terminated"
    NO_MODEL = "NoModel"
    INVALID_MODEL = "InvalidModel"
    NO_STORE = "NoStore"
    STORE_UNAVAILABLE = "StoreUnavailable"
    DIGEST_MISMATCH = "DigestMismatch"
    SOURCE_NOT_FOUND = "SourceNotFound"
    NO_DATA = "NoData"
    INVALID_DATASET = "InvalidDataset"
    EVALUATION_FAILED = "EvaluationFailed"
    INVALID_SPEC = "InvalidSpec"
    CANNOT_BATCH = "CannotBatch"
    HANG = "Hang"
    OUT_OF_MEMORY = "OutOfMemory"
    PARTITIONED = "Partitioned"
    SAVED = "Saved"


class FailureError(Exception):
    """A failure with a reason from the closed list; its text is a sentence for people."""

    reason: Reason


class NoModelError(FailureError):
    reason = Reason.NO_MODEL


class InvalidModelError(FailureError):
    reason = Reason.INVALID_MODEL


class InvalidSpecError(FailureError):
    reason = Reason.INVALID_SPEC


class CannotBatchError(FailureError):
    reason = Reason.CANNOT_BATCH


class DigestMismatchError(FailureError):
    reason = Reason.DIGEST_MISMATCH


class SourceNotFoundError(FailureError):
    reason = Reason.SOURCE_NOT_FOUND


def finite_metrics(metrics: dict[str, float]) -> dict[str, float]:
    """Leave out what JSON has no word for: NaN and the infinities."""
    return {name: value for name, value in metrics.items() if math.isfinite(value)}


Metrics = Annotated[dict[str, float], AfterValidator(finite_metrics)]


class Document(BaseModel):
    """A JSON document of the contract: camelCase outside, unknown fields left aside."""

    model_config = ConfigDict(
        frozen=True, alias_generator=to_camel, populate_by_name=True, extra="ignore"
    )

    def to_dict(self) -> dict[str, Any]:
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


class ModelReference(Document):
    """The version that a run became."""

    version: int
    digest: str
    size_bytes: int


class Evaluation(Document):
    """How good a version is on one data set."""

    version: int
    dataset: str
    dataset_digest: str
    samples: int
    metrics: Metrics


class VersionSummary(Document):
    """What a status needs to know of a version."""

    version: int
    digest: str
    size_bytes: int
    metrics: Metrics = Field(default_factory=dict)
    lineage: dict[str, Any] = Field(default_factory=dict)
    evaluation: Evaluation | None = None


HasMetrics = TypeVar("HasMetrics", Evaluation, VersionSummary)


class Record(Document):
    """How a container ended. An absent field means unknown."""

    outcome: Literal["Succeeded", "Failed"]
    reason: Reason | None = None
    message: str | None = None
    rank: int | None = None
    exit_code: int | None = None
    signal: int | None = None
    attempt: int | None = None
    step: int | None = None
    resumed_from: int | None = None
    furthest: int | None = None
    matched: tuple[str, ...] | None = None
    stacks: str | None = None
    restarts: int | None = None
    repeated: bool | None = None
    saved: bool | None = None
    silent_node: int | None = None
    ledger: dict[str, float] | None = None
    metrics: Metrics | None = None
    model: ModelReference | None = None
    versions: tuple[VersionSummary, ...] | None = None
    more: bool | None = None
    evaluation: Evaluation | None = None

    @classmethod
    def succeeded(cls, message: str, **fields: Any) -> Self:
        return cls(outcome="Succeeded", reason=Reason.SUCCEEDED, message=message, **fields)

    @classmethod
    def failed(cls, reason: Reason | None, message: str) -> Self:
        return cls(outcome="Failed", reason=reason, message=message)

    @classmethod
    def parse(cls, text: str | bytes) -> Self | None:
        """Read a record that someone else wrote; None if it is not one."""
        try:
            return cls.model_validate_json(text)
        except ValidationError:
            return None

    @property
    def is_success(self) -> bool:
        return self.outcome == "Succeeded"

    def line(self) -> bytes:
        """Encode the record as one line of at most 2048 bytes; texts are cut first."""
        record = self
        for shorten in (_cut_message, _drop_versions, _drop_metrics, _keep_outcome):
            record = shorten(record)
        return _encoded(record)


def _encoded(record: Record) -> bytes:
    text = json.dumps(record.to_dict(), separators=(",", ":"), ensure_ascii=False)
    return text.encode(errors="replace")


def _excess_bytes(record: Record) -> int:
    return len(_encoded(record)) - MESSAGE_LIMIT_BYTES


def _cut_message(record: Record) -> Record:
    text = record.message or ""
    while (excess := _excess_bytes(record)) > 0 and len(text) > SHORTEST_MESSAGE:
        # A character is at most six bytes of JSON, and at least one.
        text = text[: max(SHORTEST_MESSAGE, len(text) - max(excess // 6, 4))]
        record = record.model_copy(update={"message": text + "…"})
    return record


def _drop_versions(record: Record) -> Record:
    while _excess_bytes(record) > 0 and len(record.versions or ()) > 1:
        record = record.model_copy(update={"versions": (record.versions or ())[:-1], "more": True})
    return record


def _drop_metrics(record: Record) -> Record:
    if _excess_bytes(record) <= 0:
        return record
    evaluation = record.evaluation and _with_few_metrics(record.evaluation)
    versions = record.versions and tuple(map(_with_few_metrics, record.versions))
    fewer = {"metrics": _few(record.metrics or {}), "evaluation": evaluation, "versions": versions}
    return record.model_copy(update=fewer)


def _few(metrics: dict[str, float]) -> dict[str, float]:
    return dict(list(metrics.items())[:METRICS_IN_MESSAGE])


def _with_few_metrics(part: HasMetrics) -> HasMetrics:
    return part.model_copy(update={"metrics": _few(part.metrics)})


def _keep_outcome(record: Record) -> Record:
    if _excess_bytes(record) <= 0:
        return record
    return Record(
        outcome=record.outcome, reason=record.reason, model=record.model, matched=record.matched
    )
