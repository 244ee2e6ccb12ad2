from __future__ import annotations

from typing import Any

import pytest

from lepton_operator.build import serving
from lepton_operator.build.serving import Target
from tests.builders import defaults
from tests.conftest import Golden
from tests.unit.inference.builders import PORT, a_service, digest, revision

TARGET = Target("digits", 3, digest(3))


def a_serving_pod(**spec: Any) -> dict[str, Any]:
    service = a_service(**spec)
    resolved = serving.resolve(service, defaults())
    return serving.serving_pod(service, 0, revision(3, service), TARGET, resolved)


def test_the_serving_pod(golden: Golden) -> None:
    golden("inference/pod", a_serving_pod())


def test_the_service(golden: Golden) -> None:
    golden("inference/service", serving.kubernetes_service(a_service(), PORT))


@pytest.mark.parametrize(
    ("server_version", "known", "unknown"),
    [
        ("2.10.0", "--strict-readiness=true", "--disable-auto-complete-config"),
        ("2.51.0", "--disable-auto-complete-config", "--allow-client-shm=false"),
        ("2.70", "--allow-client-shm=false", None),
        ("3.0.0", "--allow-client-shm=false", None),
    ],
)
def test_a_server_gets_only_flags_that_it_knows(
    server_version: str, known: str, unknown: str | None
) -> None:
    flags = serving.flags(server_version)
    assert known in flags
    assert unknown not in flags


@pytest.mark.parametrize(
    ("asked", "grace_seconds", "exit_timeout_seconds"),
    [(None, 25, 15), (3, 25, 15), (120, 120, 110)],
    ids=["the chart's", "too little is not taken", "more is time for requests"],
)
def test_the_grace_period(asked: int | None, grace_seconds: int, exit_timeout_seconds: int) -> None:
    pod = a_serving_pod(**({"terminationGracePeriodSeconds": asked} if asked else {}))
    command = pod["spec"]["containers"][0]["command"]
    assert pod["spec"]["terminationGracePeriodSeconds"] == grace_seconds
    assert f"--exit-timeout-secs={exit_timeout_seconds}" in command


def test_what_was_resolved_is_read_back_as_it_was_written() -> None:
    resolved = serving.resolve(a_service(), defaults())
    assert serving.Resolved.model_validate_json(resolved.written()) == resolved
    assert len(resolved.written()) < 2048
