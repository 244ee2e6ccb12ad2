"""What the API server answers when it does not do what was asked, classified once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_RETRIED_STATUSES = frozenset({408, 429, 500, 502, 503, 504})


class ApiError(Exception):
    """A request that was not carried out; the message is the API server's own sentence."""

    def __init__(self, message: str, status: int = 0, reason: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        self.reason = reason


class NotFound(ApiError):
    """There is no such object, namespace or kind."""


class AlreadyExists(ApiError):
    """The name is taken."""


class Conflict(ApiError):
    """The object is not the one, or not in the state, that the caller had seen."""


class Expired(ApiError):
    """A continued list or a watch began too long ago: begin again (410)."""


class Forbidden(ApiError):
    """A right is missing, or a policy of the namespace says no."""


class QuotaExceeded(Forbidden):
    """A ResourceQuota of the namespace says no."""


class Invalid(ApiError):
    """The object breaks the schema, or a rule of admission."""


class Unauthorized(ApiError):
    """The credentials are not accepted (any more)."""


class Transient(ApiError):
    """The same request may succeed later: overload, a restart, a broken connection, a timeout."""

    def __init__(
        self,
        message: str,
        status: int = 0,
        reason: str = "",
        retry_after_seconds: float | None = None,
    ) -> None:
        super().__init__(message, status, reason)
        self.retry_after_seconds = retry_after_seconds


class NoCluster(Exception):
    """There is no usable kubeconfig, and we do not run in a pod."""


class NotLeader(Exception):
    """The Lease is not held (any more), so nothing may be written."""


def classify(status: int, answer: Any, headers: Mapping[str, str]) -> ApiError:
    """Return the error that an answer with an HTTP status from 400 on stands for.

    `answer` is the decoded body: a metav1.Status, or whatever a proxy in between said.
    """
    details = answer if isinstance(answer, Mapping) else {}
    reason = str(details.get("reason", ""))
    message = str(details.get("message", "")) or f"HTTP status {status}"
    if status in _RETRIED_STATUSES:
        return Transient(message, status, reason, _retry_after_seconds(headers))
    return _permanent(status, reason, message)(message, status, reason)


def _permanent(status: int, reason: str, message: str) -> type[ApiError]:
    if status == 403 and "exceeded quota" in message:  # noqa: PLR2004
        return QuotaExceeded
    if status == 409 and reason == "AlreadyExists":  # noqa: PLR2004
        return AlreadyExists
    if status == 422 and "metadata.uid: Invalid value" in message:  # noqa: PLR2004
        return Conflict  # a patch that was meant for another object of that name
    return _BY_STATUS.get(status, ApiError)


_BY_STATUS: Mapping[int, type[ApiError]] = {
    400: Invalid,
    401: Unauthorized,
    403: Forbidden,
    404: NotFound,
    409: Conflict,
    410: Expired,
    413: Invalid,
    422: Invalid,
}


def _retry_after_seconds(headers: Mapping[str, str]) -> float | None:
    try:
        return max(0.0, float(headers["Retry-After"]))
    except (KeyError, ValueError):
        return None
