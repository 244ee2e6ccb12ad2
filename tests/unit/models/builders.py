"""Test values about a model's steps: what a step pod worked on, and what it had to say."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

from lepton_operator import names
from lepton_operator.api.model import LeptonModel
from lepton_operator.api.training import TrainingJob
from lepton_operator.build.steps import CONTAINER, Step
from lepton_operator.plan import Plan
from lepton_operator.views import ContainerView, ModelView, PodView, VersionUse
from tests.builders import (
    NAMESPACE,
    a_model,
    a_record,
    a_training_job,
    ago,
    defaults,
    stamp,
)

SOURCE_DIGEST = "sha256:" + "cd" * 32
OTHER_SOURCE_DIGEST = "sha256:" + "ce" * 32
URI = "s3://models/digits.onnx"
SOURCE = {"uri": URI, "digest": SOURCE_DIGEST}
DATASET_DIGEST = "sha256:" + "ef" * 32
INDEX = Step("index")
GATE = {"thresholds": [{"metric": "accuracy", "minimum": "0.90"}]}


def digest(version: int) -> str:
    return f"sha256:{version:064x}"


def evaluate(version: int, dataset: str = "heldout") -> Step:
    return Step("evaluate", version=version, digest=digest(version), dataset=dataset)


def an_import(source: Mapping[str, str] = SOURCE) -> Step:
    return Step("import", digest=source["digest"], uri=source["uri"])


def an_evaluation(accuracy: float, dataset: str = "heldout", **metrics: float) -> dict[str, Any]:
    """As the agent tells it: numbers."""
    return {
        "dataset": dataset,
        "datasetDigest": DATASET_DIGEST,
        "samples": 2000,
        "metrics": {"accuracy": accuracy, **metrics},
    }


def a_version(
    number: int, *, accuracy: str | None = None, dataset: str = "heldout"
) -> dict[str, Any]:
    """As the status lists it: decimals in texts."""
    version: dict[str, Any] = {
        "version": number,
        "digest": digest(number),
        "sizeBytes": 905_321,
        "lineage": {"trainingJob": f"digits-{number}", "uid": f"uid-of-run-{number}"},
    }
    if accuracy is not None:
        metrics = {"accuracy": accuracy, "loss": "0.1"}
        version["evaluation"] = {**an_evaluation(0, dataset), "metrics": metrics}
    return version


def a_told_version(number: int, **more: Any) -> dict[str, Any]:
    """As an index or an import tells it."""
    return {**a_version(number), **more}


def a_status(*versions: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    """A status of a model whose store was listed a minute ago."""
    return {
        "observedGeneration": 1,
        "versions": list(versions),
        "indexedTime": stamp(ago(60)),
        **more,
    }


def a_failing(step: Step, reason: str, *, failures: int = 1, **more: Any) -> dict[str, Any]:
    entry = {
        "step": step.kind,
        "version": step.version,
        "dataset": step.dataset,
        "uri": step.uri,
        "digest": step.digest,
        "generation": 1,
        "pod": "uid-of-some-pod",
        "failures": failures,
        "lastFailureTime": stamp(ago(1)),
        "reason": reason,
        "message": f"it ended with {reason}.",
        **more,
    }
    return {key: value for key, value in entry.items() if value is not None}


def a_step_pod(
    step: Step,
    *,
    number: int = 1,
    model: str = "digits",
    said: str | None = None,
    exit_code: int | None = None,
    finished: datetime | None = None,
    **more: Any,
) -> PodView:
    """A step pod that runs, or has ended with what it said."""
    name = names.step_pod(model, step.kind, number, step.version)
    pod = PodView(
        name=name,
        namespace=NAMESPACE,
        uid=f"uid-of-{name}",
        phase="Running",
        created=ago(10),
        labels={names.ROLE: step.kind},
        annotations={names.STEP: step.written()},
        owner_uid=f"uid-of-{model}",
        node="node-1",
        scheduled=True,
        containers=(ContainerView(CONTAINER, "running", ready=True),),
    )
    if said is not None or exit_code is not None:
        code = exit_code or 0
        ended = ContainerView(
            CONTAINER,
            "terminated",
            exit_code=code,
            message=said or "",
            finished=finished or ago(1),
        )
        pod = replace(pod, phase="Failed" if code else "Succeeded", containers=(ended,))
    return replace(pod, **more)


def indexed(*versions: Mapping[str, Any], more: bool = False, **pod: Any) -> PodView:
    """An index pod that listed these versions."""
    said = a_record(versions=list(versions), more=more)
    return a_step_pod(pod.pop("step", INDEX), said=said, **pod)


def imported(*versions: Mapping[str, Any], step: Step | None = None, **pod: Any) -> PodView:
    return a_step_pod(step or an_import(), said=a_record(versions=list(versions)), **pod)


def evaluated(version: int, accuracy: float, dataset: str = "heldout", **pod: Any) -> PodView:
    found = {"version": version, **an_evaluation(accuracy, dataset)}
    return a_step_pod(evaluate(version, dataset), said=a_record(evaluation=found), **pod)


def failed(step: Step, reason: str, message: str = "why it failed", **pod: Any) -> PodView:
    """A step pod that ended with this reason; the exit code is the agent's for it."""
    said = a_record("Failed", reason=reason, message=message)
    return a_step_pod(step, said=said, exit_code=2, **pod)


def a_finished_job(version: int, name: str = "train") -> TrainingJob:
    """A job whose result is this version of `digits`."""
    output = {"model": "digits", "version": version, "digest": digest(version)}
    return a_training_job(name=name, output="digits", status={"output": output})


def pinned(*versions: int) -> frozenset[VersionUse]:
    """What services use that name these versions."""
    return frozenset(VersionUse(each, pinned=True) for each in versions)


def running(*versions: int) -> frozenset[VersionUse]:
    """What services use that have pods of these versions."""
    return frozenset(VersionUse(each, pinned=False) for each in versions)


def a_view(model: LeptonModel | None = None, **more: Any) -> ModelView:
    """What the plan reads of a model without a spec, unless something else is said."""
    return ModelView(model=model or a_model(), defaults=more.pop("chart", defaults()), **more)


def after(view: ModelView, plan: Plan) -> ModelView:
    """The view once the plan's status was written."""
    status = json.loads(json.dumps(plan.status)) if plan.status is not None else None
    if status is None:
        return view
    body = {**view.model.model_dump(mode="json", by_alias=True), "status": status}
    return replace(view, model=LeptonModel.model_validate(body))
