"""What a door has to know of a service, from the values of the API."""

from __future__ import annotations

from typing import Any

import pytest

from lepton_operator import names
from lepton_operator.door.served import Endpoint, Limits, endpoints, served
from lepton_operator.settings import DoorDefaults
from lepton_operator.views import PodView
from tests.builders import ago
from tests.unit.inference.builders import a_pod, a_service

DEFAULTS = DoorDefaults()


def pod(**more: Any) -> PodView:
    given: dict[str, Any] = {"ready": True, "ip": "10.0.0.1", **more}
    return a_pod(**given)


@pytest.mark.parametrize(
    ("changes", "takes_requests"),
    [
        pytest.param({}, [True], id="ready"),
        pytest.param({"ready": False}, [False], id="its probe failed: what it has it may finish"),
        pytest.param({"deleting": True}, [False], id="being deleted"),
        pytest.param({"annotations": {names.DRAINING: "now"}}, [False], id="marked to drain"),
        pytest.param({"labels": {}}, [False], id="released by a person"),
        pytest.param({"ip": None}, [], id="it has no address yet"),
        pytest.param({"ip": "10.0.0.1; drop"}, [], id="its address is none"),
        pytest.param({"phase": "Failed"}, [], id="finished"),
        pytest.param({"gone": True}, [], id="gone"),
    ],
)
def test_where_requests_may_be(changes: dict[str, Any], takes_requests: list[bool]) -> None:
    found = endpoints("digits", [pod(**changes)])
    assert [each.takes_requests for each in found] == takes_requests


def test_an_address_belongs_to_the_youngest_pod_that_has_it() -> None:
    old = pod(uid="old", created=ago(60), deleting=True)
    new = pod(uid="new", created=ago(1))
    (found,) = endpoints("digits", [new, old])
    assert found == Endpoint("10.0.0.1", new.labels[names.REVISION], takes_requests=True)


def test_what_a_service_does_not_say_is_the_charts() -> None:
    found = served(a_service(limits={"queue": 0, "concurrency": 7}), 10_000, [], DEFAULTS)
    assert found.limits == Limits(
        body_bytes=DEFAULTS.body_bytes,
        timeout_seconds=DEFAULTS.timeout_seconds,
        concurrency=7,
        queue=0,
    )
    assert found.target_milliseconds == DEFAULTS.latency_target_milliseconds
