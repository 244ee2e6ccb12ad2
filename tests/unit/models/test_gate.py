from __future__ import annotations

from typing import Any

import pytest

from lepton_operator.api.model import Evaluation, Version
from lepton_operator.models import gate
from tests.unit.models.builders import GATE, a_version


def judged(evaluation: dict[str, Any] | None, **version: Any) -> tuple[str, str]:
    asked = Evaluation.model_validate(evaluation) if evaluation is not None else None
    newest = version.pop("newest", True)
    failure = version.pop("failure", None)
    found = gate.judge(
        Version.model_validate(a_version(3, **version)), asked, failure=failure, newest=newest
    )
    return found.outcome, found.message


@pytest.mark.parametrize(
    ("accuracy", "threshold", "outcome", "message"),
    [
        pytest.param(
            "0.9645",
            {"minimum": "0.90"},
            "Passed",
            "accuracy 0.9645 keeps its minimum 0.90, on 2000 samples of heldout.",
            id="a metric above its minimum passes",
        ),
        pytest.param(
            "0.9",
            {"minimum": "0.90"},
            "Passed",
            "accuracy 0.9 keeps its minimum 0.90, on 2000 samples of heldout.",
            id="a metric that equals its minimum passes, whatever the number of its digits",
        ),
        pytest.param(
            "0.8999999999999999999",
            {"minimum": "0.9"},
            "Failed",
            "accuracy 0.8999999999999999999 is below its minimum 0.9, on 2000 samples of heldout.",
            id="decimals are not rounded to floats",
        ),
        pytest.param(
            "0.95",
            {"minimum": "0.5", "maximum": "0.9"},
            "Failed",
            "accuracy 0.95 is above its maximum 0.9, on 2000 samples of heldout.",
            id="a metric above its maximum fails",
        ),
    ],
)
def test_a_threshold(accuracy: str, threshold: dict[str, str], outcome: str, message: str) -> None:
    evaluation = {"thresholds": [{"metric": "accuracy", **threshold}]}
    assert judged(evaluation, accuracy=accuracy) == (outcome, message)


def test_a_threshold_on_a_metric_that_is_not_reported_fails_and_names_those_that_are() -> None:
    outcome, message = judged({"thresholds": [{"metric": "f1", "minimum": "0.9"}]}, accuracy="1")
    assert outcome == "Failed"
    assert "no metric 'f1' (it reports: accuracy, loss)" in message
    assert "spec.evaluation.thresholds" in message


@pytest.mark.parametrize(
    ("metric", "outcome"),
    [pytest.param("accuracy", "Passed", id="kept"), pytest.param("f1", "Failed", id="unknown")],
)
def test_as_many_thresholds_as_there_may_be_fit_into_a_message(metric: str, outcome: str) -> None:
    threshold = {"metric": metric, "minimum": "0.1000000000000000000", "maximum": "99999999999.9"}
    found, message = judged({"thresholds": [threshold] * 16}, accuracy="0.9")
    assert found == outcome
    assert len(message) <= 1024
    assert message.endswith("…, on 2000 samples of heldout.")


def test_a_long_name_of_a_dataset_fits_into_a_message() -> None:
    _, message = judged({"dataset": f"s3://bucket/{'x' * 1000}", "thresholds": GATE["thresholds"]})
    assert len(message) <= 1024


def test_every_threshold_that_is_not_kept_is_told() -> None:
    thresholds = [
        {"metric": "accuracy", "minimum": "0.99"},
        {"metric": "loss", "maximum": "0.05"},
    ]
    _, message = judged({"thresholds": thresholds}, accuracy="0.9")
    assert "accuracy 0.9 is below its minimum 0.99; loss 0.1 is above its maximum 0.05" in message


@pytest.mark.parametrize(
    "evaluation",
    [
        pytest.param(None, id="no evaluation"),
        pytest.param({"dataset": "heldout"}, id="an evaluation without thresholds"),
    ],
)
def test_a_gate_that_nobody_wrote_is_not_asked(evaluation: dict[str, Any] | None) -> None:
    outcome, message = judged(evaluation)
    assert outcome == "NotAsked"
    assert message


@pytest.mark.parametrize(
    ("version", "outcome", "words"),
    [
        pytest.param({}, "Pending", "waits for its evaluation on heldout", id="the newest waits"),
        pytest.param(
            {"newest": False}, "Pending", "It was not evaluated on heldout", id="an old one stays"
        ),
        pytest.param(
            {"newest": False, "accuracy": "1", "dataset": "cifar10"},
            "Pending",
            "It was evaluated on cifar10, not on heldout",
            id="an old one evaluated on another dataset stays",
        ),
        pytest.param(
            {"failure": "no held-out data."},
            "Failed",
            "no held-out data.",
            id="one that cannot be evaluated fails with that sentence",
        ),
    ],
)
def test_a_version_without_an_evaluation(version: dict[str, Any], outcome: str, words: str) -> None:
    found, message = judged(GATE, **version)
    assert found == outcome
    assert words in message


def test_the_score_is_the_first_thresholds_metric() -> None:
    asked = Evaluation.model_validate(GATE)
    version = Version.model_validate(a_version(1, accuracy="0.9645"))
    assert gate.score(version, asked) == "accuracy=0.9645"
    assert gate.score(version, None) is None
