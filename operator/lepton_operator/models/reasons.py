"""The closed list of reasons in a LeptonModel's conditions and Events."""

from __future__ import annotations

from enum import StrEnum


class ModelReason(StrEnum):
    """Why a LeptonModel is as it is."""

    ACCEPTED = "Accepted"
    BEING_JUDGED = "BeingJudged"
    NO_VERSIONS = "NoVersions"
    INDEXING = "Indexing"
    IMPORTING = "Importing"
    EVALUATING = "Evaluating"
    GATE_FAILED = "GateFailed"

    # What a step ends with; those of the agent have the agent's words.
    NO_STORE = "NoStore"
    STORE_UNAVAILABLE = "StoreUnavailable"
    SOURCE_NOT_FOUND = "SourceNotFound"
    DIGEST_MISMATCH = "DigestMismatch"
    INVALID_MODEL = "InvalidModel"
    NO_DATA = "NoData"
    INVALID_DATASET = "InvalidDataset"
    EVALUATION_FAILED = "EvaluationFailed"
    VERSION_MISSING = "VersionMissing"
    POD_LOST = "PodLost"
    STEP_FAILED = "StepFailed"

    # What keeps a step's pod from running.
    NO_CAPACITY = "NoCapacity"
    VOLUME_NOT_READY = "VolumeNotReady"
    IMAGE_ERROR = "ImageError"
    CONTAINER_ERROR = "ContainerError"
    OUT_OF_MEMORY = "OutOfMemory"
    CRASH_LOOP = "CrashLoop"
    EVICTED = "Evicted"

    # What keeps it from being made.
    QUOTA_EXCEEDED = "QuotaExceeded"
    NAME_TAKEN = "NameTaken"
    REFUSED = "Refused"

    # Events only.
    VERSION_LISTED = "VersionListed"
    VERSION_ACCEPTED = "VersionAccepted"
    VERSION_REFUSED = "VersionRefused"
    VERSION_CONFLICT = "VersionConflict"
    SERVED = "Served"


# The user's own: only a change of the LeptonModel can mend them, so they are not tried again.
# An index has none: given up, it would hide versions from a model that is Ready by an older one.
FINAL = frozenset(
    {
        ModelReason.DIGEST_MISMATCH,
        ModelReason.INVALID_MODEL,
        ModelReason.NO_DATA,
        ModelReason.INVALID_DATASET,
        ModelReason.EVALUATION_FAILED,
    }
)
