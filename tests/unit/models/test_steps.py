from __future__ import annotations

from typing import Any

import pytest

from lepton_operator.build.steps import Step, read, step_pod
from tests.builders import a_model, defaults
from tests.conftest import Golden
from tests.unit.models.builders import INDEX, SOURCE, an_import, evaluate


def command(pod: dict[str, Any]) -> list[str]:
    found: list[str] = pod["spec"]["containers"][0]["command"]
    return found


@pytest.mark.parametrize(
    ("name", "step"),
    [
        ("index", Step("index", dataset="heldout", known="3,2,1")),
        ("import", an_import({**SOURCE, "uri": "pvc://models/digits"})),
        ("evaluate", evaluate(3)),
    ],
)
def test_the_pod_of_a_step(golden: Golden, name: str, step: Step) -> None:
    golden(f"models/{name}-pod", step_pod(a_model(), step, 1, defaults()))


def test_an_index_that_knows_nothing_names_nothing() -> None:
    assert command(step_pod(a_model(), INDEX, 1, defaults())) == [
        "lepton-agent",
        "index",
        "--namespace",
        "team",
        "--name",
        "digits",
    ]


@pytest.mark.parametrize(
    ("step", "claim"),
    [
        (an_import(), None),
        (an_import({**SOURCE, "uri": "pvc://models/a/b.onnx"}), "models"),
        (evaluate(1), None),
        (evaluate(1, "pvc://data/test.npz"), "data"),
    ],
    ids=["an object store", "a claim", "the held-out data", "a dataset in a claim"],
)
def test_a_claim_is_mounted_for_reading(step: Step, claim: str | None) -> None:
    pod = step_pod(a_model(), step, 1, defaults())
    claims = [
        volume["persistentVolumeClaim"]
        for volume in pod["spec"]["volumes"]
        if "persistentVolumeClaim" in volume
    ]
    assert claims == ([{"claimName": claim, "readOnly": True}] if claim else [])
    assert (command(pod)[-2:] == ["--mount", "/mnt/source"]) is bool(claim)


def test_a_pod_says_what_it_works_on() -> None:
    for step in (INDEX, an_import(), evaluate(3)):
        pod = step_pod(a_model(), step, 1, defaults())
        assert read(pod["metadata"]["annotations"]) == step
