"""What Kopf is told: watch these, select on the server, write nothing, never give up."""

from __future__ import annotations

from itertools import islice

import kopf
from kopf._cogs.structs.references import Resource

from lepton_operator.handlers import operator_settings

KINDS = ("TrainingJob", "Pod", "Service", "Node")
MANAGED = "app.kubernetes.io/managed-by=lepton-operator"


def test_children_are_selected_by_the_api_server_and_nothing_else_is() -> None:
    selectors = operator_settings(KINDS).watching.label_selectors
    selected = {
        plural: selectors.collect(Resource(group, version, plural))
        for group, version, plural in (
            ("", "v1", "pods"),
            ("", "v1", "services"),
            ("", "v1", "nodes"),
            ("lepton.ai", "v1alpha1", "trainingjobs"),
        )
    }
    assert selected == {"pods": [MANAGED], "services": [MANAGED], "nodes": [], "trainingjobs": []}


def test_a_request_of_a_watch_is_tried_for_ever_at_most_every_36_seconds() -> None:
    backoffs = operator_settings(KINDS).networking.error_backoffs
    assert not isinstance(backoffs, float)
    for _ in range(2):  # each request begins from the start
        delays = list(islice(backoffs, 200))
        assert delays[0] < 1
        assert 24 <= max(delays) <= 36


def test_kopf_writes_nothing_by_itself() -> None:
    settings = operator_settings(KINDS)
    assert not settings.posting.enabled
    assert settings.peering.standalone
    assert settings.scanning.disabled
    body = kopf.Body({"metadata": {"annotations": {"a": "b"}}, "spec": {"c": 1}})
    assert settings.persistence.diffbase_storage.fetch(body=body) is None
    assert settings.persistence.diffbase_storage.build(body=body) == {}
