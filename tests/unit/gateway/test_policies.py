"""Who may talk to whom, by the policies that the operator makes: allowed and denied flows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from lepton_operator import names
from lepton_operator.build import serving
from tests.builders import NAMESPACE
from tests.policies import Endpoint, Flow, is_allowed
from tests.unit.gateway.builders import OPERATOR_LABELS, manifests
from tests.unit.inference.builders import a_service

POLICIES = [each for each in manifests() if each["kind"] == "NetworkPolicy"]

SERVING = Endpoint(NAMESPACE, {**serving.selector(a_service()), names.REVISION: "1a2b3c4d5e"})
DOOR = Endpoint(NAMESPACE, names.door_labels())
OPERATOR = Endpoint("lepton-system", OPERATOR_LABELS)
PROMETHEUS = Endpoint("monitoring", {"app": "prometheus"})
CLIENT = Endpoint(NAMESPACE, {"app": "client"})
STRANGER = Endpoint("elsewhere", {"app": "client"})
TRAINING = Endpoint(
    NAMESPACE, {names.MANAGED_BY: names.OPERATOR, names.KIND: "TrainingJob", names.ROLE: "train"}
)
OUTSIDE = Endpoint()
DNS = Endpoint("kube-system", {"k8s-app": "kube-dns"})
OTHER_DOOR = Endpoint("elsewhere", names.door_labels())
PRETENDER = Endpoint("elsewhere", OPERATOR_LABELS)


@pytest.mark.parametrize(
    "flow",
    [
        pytest.param(Flow(DOOR, SERVING, 8000), id="the door, over HTTP"),
        pytest.param(Flow(DOOR, SERVING, 8001), id="the door, over gRPC"),
        pytest.param(Flow(PROMETHEUS, SERVING, 8002), id="Prometheus, for a pod's metrics"),
        pytest.param(Flow(OPERATOR, SERVING, 9464), id="the operator, for a download"),
        pytest.param(Flow(PROMETHEUS, DOOR, 9902), id="Prometheus, for a door's metrics"),
        pytest.param(Flow(OPERATOR, DOOR, 9902), id="the operator, for what is in flight"),
        pytest.param(Flow(DOOR, OPERATOR, 18000), id="the door, for its configuration"),
        pytest.param(Flow(CLIENT, DOOR, 10_000), id="a client, at the first service's port"),
        pytest.param(Flow(STRANGER, DOOR, 29_999), id="one of another namespace, at the last"),
        pytest.param(Flow(OUTSIDE, DOOR, 12_345), id="one from outside of the cluster"),
        pytest.param(Flow(DOOR, DNS, 53, "UDP"), id="the door, for names"),
        pytest.param(Flow(SERVING, OUTSIDE, 443), id="a serving pod, for its model"),
        pytest.param(Flow(CLIENT, TRAINING, 29_400), id="what is no business of these policies"),
    ],
)
def test_an_allowed_flow(flow: Flow) -> None:
    assert is_allowed(flow, POLICIES)


@pytest.mark.parametrize(
    "flow",
    [
        pytest.param(Flow(CLIENT, SERVING, 8000), id="a client, past the door"),
        pytest.param(Flow(TRAINING, SERVING, 8001), id="a training pod, past the door"),
        pytest.param(Flow(OUTSIDE, SERVING, 8000), id="one from outside, past the door"),
        pytest.param(Flow(OTHER_DOOR, SERVING, 8000), id="the door of another namespace"),
        pytest.param(Flow(DOOR, SERVING, 8002), id="the door, for a pod's metrics"),
        pytest.param(Flow(PROMETHEUS, SERVING, 8000), id="Prometheus, for predictions"),
        pytest.param(Flow(CLIENT, SERVING, 8002), id="a client, for a pod's metrics"),
        pytest.param(Flow(CLIENT, SERVING, 9464), id="a client, for a download"),
        pytest.param(Flow(OPERATOR, SERVING, 8000), id="the operator, for predictions"),
        pytest.param(Flow(CLIENT, DOOR, 9902), id="a client, for what is in flight"),
        pytest.param(Flow(PRETENDER, DOOR, 9902), id="one that only looks like the operator"),
        pytest.param(Flow(CLIENT, DOOR, 9_999), id="a port below those of services"),
        pytest.param(Flow(CLIENT, DOOR, 30_000), id="a port above those of services"),
        pytest.param(Flow(CLIENT, DOOR, 10_000, "UDP"), id="another protocol"),
        pytest.param(Flow(DOOR, OUTSIDE, 443), id="the door, to the outside"),
        pytest.param(Flow(DOOR, CLIENT, 8000), id="the door, to another pod"),
        pytest.param(Flow(DOOR, OPERATOR, 8080), id="the door, to another port of the operator"),
    ],
)
def test_a_denied_flow(flow: Flow) -> None:
    assert not is_allowed(flow, POLICIES)


def test_without_prometheus_nobody_reads_metrics() -> None:
    policies: list[Mapping[str, Any]] = [
        each for each in manifests(scrapers=()) if each["kind"] == "NetworkPolicy"
    ]
    assert not is_allowed(Flow(PROMETHEUS, SERVING, 8002), policies)
    assert not is_allowed(Flow(PROMETHEUS, DOOR, 9902), policies)
    assert is_allowed(Flow(DOOR, SERVING, 8000), policies)
