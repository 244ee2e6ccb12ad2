"""Which port of the door leads to a service."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from lepton_operator.inference.ports import port
from lepton_operator.names import DOOR_PORTS
from lepton_operator.views import InferenceView, ServiceView
from tests.builders import NOW, ago
from tests.unit.inference.builders import (
    PORT,
    a_kubernetes_service,
    a_service,
    a_view,
    service_ports,
)


def new() -> InferenceView:
    return a_view(a_service(), kubernetes_service=None)


def rival(target: int, **more: Any) -> ServiceView:
    return replace(
        a_kubernetes_service(), name="rival", uid="rival", ports=service_ports(target), **more
    )


def test_a_new_service_gets_the_same_port_wherever_it_is_made() -> None:
    assert port(new()) == port(new())
    assert port(new()) in DOOR_PORTS


def test_a_port_that_another_has_is_passed_over() -> None:
    first = port(new())
    second = port(a_view(a_service(), kubernetes_service=None, ports={first: rival(first)}))
    assert second != first
    assert second in DOOR_PORTS


def test_the_ports_begin_anew_behind_the_last() -> None:
    first = port(new())
    taken = {each: rival(each) for each in range(first, DOOR_PORTS.stop)}
    found = port(a_view(a_service(), kubernetes_service=None, ports=taken))
    assert found == DOOR_PORTS.start


def test_a_service_keeps_its_port() -> None:
    own = a_kubernetes_service(ports=service_ports(29_999))
    assert port(a_view(a_service(), kubernetes_service=own, ports={29_999: own})) == 29_999


def test_of_two_on_one_port_the_younger_takes_another() -> None:
    own, older = a_kubernetes_service(), rival(PORT, created=ago(60))
    assert port(a_view(a_service(), kubernetes_service=own, ports={PORT: older})) != PORT


@pytest.mark.parametrize("target", [80, 9_902, 30_000, "http"])
def test_a_target_that_is_no_port_of_the_door_is_not_kept(target: int | str) -> None:
    own = a_kubernetes_service(ports=service_ports(target))
    assert port(a_view(a_service(), kubernetes_service=own)) in DOOR_PORTS


def test_where_every_port_is_taken_it_still_has_one() -> None:
    """Its door then refuses the listener by name: 20,000 services are more than one door serves."""
    taken = {each: rival(each, created=NOW - timedelta(days=1)) for each in DOOR_PORTS}
    assert port(a_view(a_service(), kubernetes_service=None, ports=taken)) in DOOR_PORTS
