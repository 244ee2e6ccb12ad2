"""Whatever a user may say of pods reaches the pods of each kind: no field that does nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from lepton_operator.api.common import PodSettings
from lepton_operator.build import serving, steps, training
from lepton_operator.build.serving import Target
from tests.builders import DIGEST, POD_SETTINGS, a_model, a_training_job, defaults
from tests.unit.inference.builders import a_service
from tests.unit.models.builders import INDEX


def a_training_pod(**spec: Any) -> dict[str, Any]:
    job = a_training_job(**spec)
    return training.pod(job, training.resolve(job.spec, defaults()), 1, 0)


def a_step_pod(**spec: Any) -> dict[str, Any]:
    return steps.step_pod(a_model(**spec), INDEX, 1, defaults())


def a_serving_pod(**spec: Any) -> dict[str, Any]:
    service = a_service(**spec)
    resolved = serving.resolve(service, defaults())
    return serving.serving_pod(service, 0, "revision", Target("digits", 1, DIGEST), resolved)


def test_the_table_has_every_field() -> None:
    assert set(POD_SETTINGS) == {field.alias for field in PodSettings.model_fields.values()}


@pytest.mark.parametrize("field", POD_SETTINGS)
@pytest.mark.parametrize("made", [a_training_pod, a_step_pod, a_serving_pod])
def test_a_field_reaches_the_pod(made: Callable[..., dict[str, Any]], field: str) -> None:
    bare, said = (_without_records(made(**spec)) for spec in ({}, {field: POD_SETTINGS[field]}))
    assert said != bare


def test_a_steps_shared_memory_is_where_programs_look_for_it() -> None:
    spec = a_step_pod(sharedMemory="16Gi")["spec"]
    (volume,) = (each for each in spec["volumes"] if "medium" in each.get("emptyDir", {}))
    assert volume["emptyDir"] == {"medium": "Memory", "sizeLimit": "16Gi"}
    mounts = {each["name"]: each["mountPath"] for each in spec["containers"][0]["volumeMounts"]}
    assert mounts[volume["name"]] == "/dev/shm"


def _without_records(pod: dict[str, Any]) -> dict[str, Any]:
    """What is only noted about a pod changes nothing for it."""
    metadata = pod["metadata"]
    kept = {
        part: {key: value for key, value in metadata[part].items() if "/resolved" not in key}
        for part in ("labels", "annotations")
    }
    return {"metadata": kept, "spec": pod["spec"]}
