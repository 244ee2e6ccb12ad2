"""What the API server answers, classified."""

from __future__ import annotations

from typing import Any

import pytest

from lepton_operator import errors


def status(reason: str, message: str = "said so") -> dict[str, Any]:
    return {"kind": "Status", "reason": reason, "message": message}


@pytest.mark.parametrize(
    ("code", "answer", "kind"),
    [
        pytest.param(404, status("NotFound"), errors.NotFound, id="no such object"),
        pytest.param(409, status("AlreadyExists"), errors.AlreadyExists, id="the name is taken"),
        pytest.param(409, status("Conflict"), errors.Conflict, id="another version"),
        pytest.param(410, status("Expired"), errors.Expired, id="a list that took too long"),
        pytest.param(422, status("Invalid"), errors.Invalid, id="against the schema"),
        pytest.param(400, status("BadRequest"), errors.Invalid, id="not understood"),
        pytest.param(401, status("Unauthorized"), errors.Unauthorized, id="unknown caller"),
        pytest.param(403, status("Forbidden"), errors.Forbidden, id="no right"),
        pytest.param(
            403,
            status("Forbidden", 'pods "a" is forbidden: exceeded quota: gpus, requested: 1'),
            errors.QuotaExceeded,
            id="a quota",
        ),
        pytest.param(500, status("InternalError"), errors.Transient, id="an internal error"),
        pytest.param(504, "<html>", errors.Transient, id="a gateway that speaks HTML"),
        pytest.param(418, None, errors.ApiError, id="anything else"),
    ],
)
def test_the_answer_is_of_one_kind(code: int, answer: Any, kind: type[errors.ApiError]) -> None:
    found = errors.classify(code, answer, {})
    assert type(found) is kind
    assert found.status == code


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [({"Retry-After": "3"}, 3.0), ({}, None), ({"Retry-After": "tomorrow"}, None)],
)
def test_overload_says_when_to_come_back(headers: dict[str, str], seconds: float | None) -> None:
    found = errors.classify(429, status("TooManyRequests"), headers)
    assert isinstance(found, errors.Transient)
    assert found.retry_after_seconds == seconds
