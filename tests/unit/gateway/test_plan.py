from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from lepton_operator import names
from lepton_operator.api.common import PodSettings
from lepton_operator.gateway.plan import plan
from lepton_operator.plan import Plan, replacing
from lepton_operator.views import ObjectView
from tests.builders import NAMESPACE, NOW, defaults
from tests.conftest import Golden
from tests.plans import deleted
from tests.unit.gateway.builders import a_view, made, manifests


def test_a_door_is_made_with_its_policies_first() -> None:
    found = [(each["kind"], each["metadata"]["name"]) for each in manifests()]
    assert found == [
        ("NetworkPolicy", "lepton-serve"),
        ("NetworkPolicy", "lepton-door"),
        ("Deployment", "lepton-door"),
        ("PodDisruptionBudget", "lepton-door"),
    ]


def test_while_a_service_leads_past_the_door_no_policy_keeps_its_requests_out() -> None:
    policy, *others = made()
    created = [
        each.manifest["metadata"]["name"] for each in plan(a_view(bypassed=True), NOW).create
    ]
    assert created == ["lepton-door"] * 3
    assert plan(a_view(*others, bypassed=True), NOW) == Plan()
    assert plan(a_view(policy, *others, bypassed=True), NOW) == Plan()


def test_a_door_that_is_there_needs_nothing() -> None:
    assert plan(a_view(*made()), NOW) == Plan()


def test_a_namespace_without_services_has_no_door() -> None:
    found = plan(a_view(*made(), needed=False), NOW)
    assert found.relist, "a service that was only overlooked would lose its door"
    assert deleted(found) == ["lepton-serve", "lepton-door", "lepton-door", "lepton-door"]
    assert plan(a_view(needed=False), NOW) == Plan()


def test_what_somebody_deleted_is_made_again() -> None:
    _, *others = made()
    (created,) = plan(a_view(*others), NOW).create
    assert created.manifest["metadata"]["name"] == "lepton-serve"


def test_a_policy_that_was_changed_by_hand_is_mended() -> None:
    policy, *others = made()
    opened = {**policy.spec, "podSelector": {"matchLabels": {"app": "x"}}, "egress": [{}]}
    (patch,) = plan(a_view(replace(policy, spec=opened), *others), NOW).patch
    assert _merged(opened, patch.body["spec"]) == policy.spec


def _merged(found: Any, patch: Any) -> Any:
    """RFC 7386, as the API server merges."""
    if not isinstance(patch, dict):
        return patch
    merged = dict(found) if isinstance(found, dict) else {}
    for key, value in patch.items():
        merged[key] = _merged(merged.get(key), value)
    return {key: value for key, value in merged.items() if value is not None}


@pytest.mark.parametrize(
    ("found", "wanted"),
    [
        pytest.param({"a": 1}, {"a": 2}, id="another value"),
        pytest.param({"a": {"b": 1, "c": 2}}, {"a": {"c": 2}}, id="a key too many, deep down"),
        pytest.param({"a": [{"b": 1}]}, {"a": [{"c": 1}]}, id="a list as a whole"),
        pytest.param({"a": 1}, {"a": {"b": 1}}, id="a map where none was"),
        pytest.param({}, {"a": {}}, id="an empty map"),
    ],
)
def test_a_patch_makes_of_what_is_there_what_is_wanted(found: Any, wanted: Any) -> None:
    assert _merged(found, replacing(found, wanted)) == wanted


def _deployment(*objects: ObjectView) -> ObjectView:
    return next(each for each in objects if each.kind == "Deployment")


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"replicas": 3}, id="replicas"),
        pytest.param({"xds_address": "elsewhere:18000"}, id="where the operator is"),
    ],
)
def test_only_a_value_of_the_doors_own_changes_its_pods(changes: dict[str, Any]) -> None:
    before = _deployment(*made())
    others = [each for each in made(**changes) if each.kind != "Deployment"]
    (patch,) = plan(a_view(before, *others, **changes), NOW).patch
    recorded = patch.body["metadata"]["annotations"][names.RESOLVED]
    assert recorded != before.annotations[names.RESOLVED]
    assert patch.body["spec"]["template"]["spec"]["containers"]


def test_what_a_door_no_longer_has_is_taken_off() -> None:
    pods = PodSettings(node_selector={"zone": "a"})
    before = _deployment(*made(pods=pods))
    others = [each for each in made() if each.kind != "Deployment"]
    (patch,) = plan(a_view(before, *others), NOW).patch
    assert patch.body["spec"]["template"]["spec"]["nodeSelector"] is None


def test_an_unreadable_record_is_written_anew() -> None:
    objects = made()
    before = replace(_deployment(*objects), annotations={names.RESOLVED: "{"})
    others = [each for each in objects if each.kind != "Deployment"]
    (patch,) = plan(a_view(before, *others), NOW).patch
    assert patch.body["spec"]["replicas"] == 2


def test_a_value_of_something_else_changes_nothing() -> None:
    view = a_view(*made())
    other = defaults(node_not_ready_seconds=99)
    changed = replace(view, settings=view.settings.model_copy(update={"defaults": other}))
    assert plan(changed, NOW) == Plan()


def test_the_objects_of_a_door(golden: Golden) -> None:
    golden("gateway/door", manifests())


def test_all_of_them_belong_to_the_namespaces_door() -> None:
    for each in manifests():
        assert each["metadata"]["namespace"] == NAMESPACE
        assert each["metadata"]["labels"][names.KIND] == names.DOOR_KIND
