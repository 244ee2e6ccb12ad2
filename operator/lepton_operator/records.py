"""What a pod has to say: the one line of JSON in its termination message (docs/architecture.md).

Whatever a container writes there is a user's text. So a line that is not exactly such a record is
absent, a field that is out of bounds makes the line absent, and texts lose control characters.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from decimal import Decimal as DecimalNumber
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, StrictBool, StrictInt, StringConstraints
from pydantic import ValidationError as InvalidRecord

from lepton_operator.api.common import MAX_VERSION, Digest, StatusModel
from lepton_operator.api.model import Lineage, Metrics

MAX_RECORD_BYTES = 4096  # the kubelet cuts a termination message there
MAX_METRICS = 32
MAX_VERSIONS = 5
MAX_MARKS = 24
MAX_SECONDS = 10 * 366 * 86_400.0  # longer ones are nonsense, and no calendar holds some of them
MAX_RESTARTS = 1000  # of ranks in one attempt: as many as failurePolicy.maxRestarts allows

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_METRIC_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_./-]{0,63}")
_SIGNIFICANT_DIGITS = 8
_MAX_DECIMAL_LENGTH = 24


class Reason(StrEnum):
    """Why a container ended as it did."""

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


class Sign(StrEnum):
    """What every training pod looks for in its own log."""

    GPU_ERROR = "GpuError"
    NETWORK_ERROR = "NetworkError"
    PEER_LOST = "PeerLost"


STORE_REASONS = frozenset({Reason.NO_STORE, Reason.STORE_UNAVAILABLE})


def decimal(value: float) -> str | None:
    """Return a number as the API's decimal text (0.97), or None if it has none (NaN, 1e300)."""
    try:
        if not math.isfinite(value):
            return None
    except OverflowError:  # JSON's whole numbers may have hundreds of digits
        return None
    text = format(DecimalNumber(format(value, f".{_SIGNIFICANT_DIGITS}g")), "f")
    return text if len(text) <= _MAX_DECIMAL_LENGTH else None


def _clean(value: object) -> object:
    if not isinstance(value, str):
        return value
    return _CONTROL.sub(" ", value).encode("utf-8", "replace").decode().strip()


def _metrics(value: object) -> object:
    if not isinstance(value, Mapping):
        return value
    found = {
        name: decimal(number)
        for name, number in value.items()
        if _METRIC_NAME.fullmatch(name)
        and isinstance(number, int | float)
        and not isinstance(number, bool)
    }
    kept = [(name, text) for name, text in found.items() if text is not None]
    return dict(kept[:MAX_METRICS])


Text = Annotated[str, BeforeValidator(_clean), StringConstraints(max_length=MAX_RECORD_BYTES)]
ReportedMetrics = Annotated[Metrics, BeforeValidator(_metrics)]
Count = Annotated[StrictInt, Field(ge=0, le=2**53)]
# What a launcher books its time under; a class that nobody knows is no reason to drop the others.
ReportedSeconds = Annotated[
    dict[str, Annotated[float, Field(ge=0, le=MAX_SECONDS, allow_inf_nan=False)]],
    Field(max_length=16),
]
# What the pod found in its own log: a Sign, or the hash of a pattern of the user's.
Mark = Annotated[str, StringConstraints(min_length=1, max_length=32, pattern="^[A-Za-z0-9]+$")]
VersionNumber = Annotated[StrictInt, Field(ge=1, le=MAX_VERSION)]


class ModelRecord(StatusModel):
    """The version that a run's result became."""

    version: VersionNumber
    digest: Digest
    size_bytes: Count = 0


class EvaluationRecord(StatusModel):
    """What an evaluation found about one version."""

    version: VersionNumber | None = None
    dataset: Annotated[Text, StringConstraints(max_length=1024)]
    dataset_digest: Digest
    samples: Count
    metrics: ReportedMetrics = Field(default_factory=dict)


class VersionRecord(StatusModel):
    """A version as the store holds it."""

    version: VersionNumber
    digest: Digest
    size_bytes: Count = 0
    metrics: ReportedMetrics = Field(default_factory=dict)
    lineage: Lineage | None = None
    evaluation: EvaluationRecord | None = None


class Record(StatusModel):
    """One container's account of how it ended. None and empty mean unknown."""

    outcome: Literal["Succeeded", "Failed"]
    reason: Reason | None = None
    message: Text = ""
    rank: Annotated[StrictInt, Field(ge=0, le=2**31 - 1)] | None = None
    exit_code: Annotated[StrictInt, Field(ge=-255, le=255)] | None = None
    signal: Annotated[StrictInt, Field(ge=0, le=64)] | None = None
    attempt: Annotated[StrictInt, Field(ge=1, le=2**31 - 1)] | None = None
    step: Count | None = None
    resumed_from: Count | None = None
    furthest: Count | None = None
    restarts: Annotated[StrictInt, Field(ge=0, le=MAX_RESTARTS)] | None = None
    repeated: StrictBool = False
    saved: StrictBool = False
    ledger: ReportedSeconds = Field(default_factory=dict)
    silent_node: Annotated[StrictInt, Field(ge=0, le=2**31 - 1)] | None = None
    stacks: Annotated[Text, StringConstraints(max_length=256)] | None = None
    matched: Annotated[tuple[Mark, ...], Field(max_length=MAX_MARKS)] = ()
    metrics: ReportedMetrics = Field(default_factory=dict)
    model: ModelRecord | None = None
    versions: Annotated[tuple[VersionRecord, ...], Field(max_length=MAX_VERSIONS)] = ()
    more: StrictBool = False
    evaluation: EvaluationRecord | None = None


def parse(message: str) -> Record | None:
    """Return the record in a termination message; None for anything that is not one."""
    try:
        return Record.model_validate(_object(message))
    except InvalidRecord:
        return None


def _object(message: str) -> Any:
    try:
        return json.loads(message)
    except (ValueError, RecursionError):
        return None
