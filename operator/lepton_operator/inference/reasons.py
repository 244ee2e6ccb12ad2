"""The closed list of reasons in an InferenceService's status and Events."""

from __future__ import annotations

from enum import StrEnum


class ServingReason(StrEnum):
    """Why an InferenceService, or one of its pods, is as it is."""

    SERVING = "Serving"
    SCALED_TO_ZERO = "ScaledToZero"
    SCALED = "Scaled"
    ROLLING_OUT = "RollingOut"
    SCALING_DOWN = "ScalingDown"
    STARTING = "Starting"
    DRAINING = "Draining"
    REPLACING = "Replacing"
    ROLLED_BACK = "RolledBack"
    DRAIN_TIMED_OUT = "DrainTimedOut"

    # What it depends on is not there yet.
    MODEL_NOT_FOUND = "ModelNotFound"
    VERSION_NOT_FOUND = "VersionNotFound"
    NO_ACCEPTED_VERSION = "NoAcceptedVersion"
    SERVER_TOO_OLD = "ServerTooOld"

    # What keeps a pod from being ready.
    NO_CAPACITY = "NoCapacity"
    VOLUME_NOT_READY = "VolumeNotReady"
    NODE_LOST = "NodeLost"
    RELEASED = "Released"
    IMAGE_ERROR = "ImageError"
    CONTAINER_ERROR = "ContainerError"
    NO_STORE = "NoStore"
    STORE_UNAVAILABLE = "StoreUnavailable"
    FETCH_FAILED = "FetchFailed"
    CANNOT_BATCH = "CannotBatch"
    MODEL_LOAD_FAILED = "ModelLoadFailed"
    OUT_OF_MEMORY = "OutOfMemory"
    CRASH_LOOP = "CrashLoop"
    EVICTED = "Evicted"
    POD_FAILED = "PodFailed"

    # What keeps requests from it, or from being answered.
    REQUESTS_FAIL = "RequestsFail"
    NOT_ANSWERING = "NotAnswering"
    DOOR_NOT_READY = "DoorNotReady"

    # What keeps it from being made.
    QUOTA_EXCEEDED = "QuotaExceeded"
    NAME_TAKEN = "NameTaken"
    REFUSED = "Refused"
