"""What a service says about its pods makes them anew, and what it says about its door never does.

Each field of the spec is in one of two tables here, so that a new one must be.
"""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lepton_operator.api.inference import InferenceServiceSpec
from lepton_operator.inference.plan import plan
from tests.builders import NOW, POD_SETTINGS
from tests.unit.inference.builders import a_pod, a_service, a_view, drained, pods_of, settled

_SECONDS = st.integers(1, 86_400)
# Fields by their names in a manifest, with values that they may have.
OF_NO_POD: dict[str, st.SearchStrategy[Any]] = {
    "limits": st.fixed_dictionaries(
        {},
        optional={
            "bodyBytes": st.integers(1, 1 << 30),
            "timeoutSeconds": _SECONDS,
            "concurrency": st.integers(1, 1_000_000),
            "queue": st.integers(0, 1_000_000),
        },
    ),
    "rollout": st.fixed_dictionaries(
        {},
        optional={
            "strategy": st.sampled_from(("Auto", "Surge", "Replace")),
            "surgeTimeoutSeconds": _SECONDS,
            "drainTimeoutSeconds": _SECONDS,
        },
    ),
    "disruption": st.fixed_dictionaries({}, optional={"maxUnavailable": st.integers(0, 5)}),
    "autoscaling": st.fixed_dictionaries(
        {
            "maxReplicas": st.integers(1, 9),
            "target": st.fixed_dictionaries({"latencyMilliseconds": st.integers(1, 9000)}),
        }
    ),
}
OF_PODS: dict[str, Any] = {
    **POD_SETTINGS,
    "resources": {"limits": {"cpu": 1}},
    "scratchSpace": "3Gi",
    "batching": {"maxBatchSize": 3},
    "triton": {"instances": 2},
    "spread": {"topologyKey": "topology.kubernetes.io/zone"},
}
OTHERS = {"model", "replicas"}
"""The version that is served makes a revision, and not what names it; a number makes none."""

nothing_of_pods = st.fixed_dictionaries({}, optional=OF_NO_POD)


def test_every_field_of_the_spec_is_here() -> None:
    fields = {each.alias for each in InferenceServiceSpec.model_fields.values()}
    assert fields == OF_NO_POD.keys() | OF_PODS.keys() | OTHERS


@given(before=nothing_of_pods, after=nothing_of_pods)
def test_what_is_no_word_about_pods_restarts_none(
    before: dict[str, Any], after: dict[str, Any]
) -> None:
    first = a_service(**before)
    served = settled(a_view(first, a_pod(ready=True, service=first)))
    status = served.service.status.model_dump(mode="json", by_alias=True)
    changed = a_service(status=status, **after)
    found = plan(a_view(changed, a_pod(ready=True, service=first)), NOW)
    assert (pods_of(found), drained(found), found.delete) == ([], [], ())


@given(before=nothing_of_pods, after=nothing_of_pods, field=st.sampled_from(sorted(OF_PODS)))
def test_every_word_about_pods_makes_new_ones(
    before: dict[str, Any], after: dict[str, Any], field: str
) -> None:
    first = a_service(**before)
    changed = a_service(**after, **{field: OF_PODS[field]})
    assert len(pods_of(plan(a_view(changed, a_pod(ready=True, service=first)), NOW))) == 1


@pytest.mark.parametrize("said", [{}, {"strategy": "Surge"}])
def test_a_restart_is_asked_for_within_what_else_is_none(said: dict[str, Any]) -> None:
    asked = a_service(rollout={**said, "restartedAt": "2026-11-22T04:00:00Z"})
    found = plan(a_view(asked, a_pod(ready=True, service=a_service(rollout=said))), NOW)
    assert len(pods_of(found)) == 1
