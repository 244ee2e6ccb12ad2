from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from lepton_operator import names
from lepton_operator.views import PodView, Refusal
from tests.builders import DIGEST, a_model, a_pod, a_result, a_training_job
from tests.unit.training.builders import (
    a_view,
    after,
    an_open_job,
    condition,
    conditions,
    created,
    decide,
    deleted,
    status_of,
)

SUCCESS = a_pod(0, succeeded=True, said=a_result(version=3))
LISTED = {"versions": [{"version": 3, "digest": DIGEST, "lineage": {"uid": "uid-of-digits"}}]}


def test_a_job_without_output_is_complete_when_all_ranks_ended_well() -> None:
    job = an_open_job(2)
    waiting = decide(a_view(job, SUCCESS, a_pod(1, running=True)))
    assert condition(waiting).reason == "Running"
    decided = decide(a_view(job, SUCCESS, a_pod(1, succeeded=True)))
    assert conditions(decided) == {"Ready": "True", "Complete": "True"}
    assert status_of(decided)["completionTime"] == "2026-11-22T04:00:00Z"
    assert status_of(decided)["attempts"][0]["outcome"] == "Succeeded"
    assert decided.create == ()
    assert [each.reason for each in decided.events] == ["Complete"]


def test_a_sidecar_that_is_still_leaving_does_not_hold_up_the_end() -> None:
    pod = a_pod(0, succeeded=True, phase="Running")
    assert condition(decide(a_view(an_open_job(), pod))).reason == "Complete"


def test_rank_0_s_version_completes_the_job_and_the_model_is_made_first() -> None:
    decided = decide(a_view(an_open_job(2, output="lenet"), SUCCESS, a_pod(1, running=True)))
    assert status_of(decided)["output"] == {"model": "lenet", "version": 3, "digest": DIGEST}
    assert condition(decided).reason == "Complete"
    (create,) = decided.create
    assert create.shared
    assert create.manifest == {
        "apiVersion": "lepton.ai/v1alpha1",
        "kind": "LeptonModel",
        "metadata": {"name": "lenet", "namespace": "team"},
        "spec": {},
    }


def test_a_job_that_has_its_output_never_hands_it_over_again() -> None:
    view = a_view(an_open_job(output="digits"), SUCCESS)
    job = after(view.job, decide(view))
    assert decide(a_view(job, SUCCESS)).create == ()


def test_a_model_that_may_not_be_made_is_said_and_tried_again() -> None:
    refusal = Refusal("digits", "Refused", "forbidden")
    decided = decide(a_view(an_open_job(output="digits"), SUCCESS, refusals=(refusal,)))
    assert condition(decided).reason == "Refused"
    assert len(decided.create) == 1
    assert "output" not in status_of(decided)


def test_a_result_counts_even_if_the_other_ranks_failed_after_it() -> None:
    decided = decide(a_view(an_open_job(2, output="digits"), SUCCESS, a_pod(1, failed=True)))
    assert condition(decided).reason == "Complete"


def test_a_result_counts_even_if_its_pod_is_gone() -> None:
    gone = a_pod(0, succeeded=True, said=a_result(), gone=True)
    assert condition(decide(a_view(an_open_job(output="digits"), gone))).reason == "Complete"


def test_a_model_with_a_source_gets_no_pods_to_train_it() -> None:
    source = {"uri": "s3://models/digits.onnx", "digest": DIGEST}
    job = a_training_job(output="digits")
    decided = decide(a_view(job, model=a_model(source=source)))
    assert created(decided) == []
    assert condition(decided).reason == "OutputRefused"
    assert condition(decided, "Reconciling").status == "True"
    assert decide(a_view(after(job, decided), model=a_model())).create


def test_a_source_that_comes_later_does_not_stop_what_runs() -> None:
    source = {"uri": "s3://models/digits.onnx", "digest": DIGEST}
    view = a_view(
        an_open_job(output="digits"), a_pod(0, running=True), model=a_model(source=source)
    )
    assert condition(decide(view)).reason == "Running"


def test_a_wiped_job_whose_version_is_listed_trains_nothing_again() -> None:
    decided = decide(a_view(a_training_job(output="digits"), model=a_model(status=LISTED)))
    assert [each.manifest["kind"] for each in decided.create] == ["LeptonModel"]
    assert status_of(decided)["output"]["version"] == 3
    assert condition(decided).reason == "Complete"


@pytest.mark.parametrize("output", [None, "digits"])
def test_a_wiped_job_whose_pods_are_there_is_complete_again(output: str | None) -> None:
    decided = decide(a_view(a_training_job(output=output), SUCCESS))
    assert condition(decided).reason == "Complete"
    assert deleted(decided) == []


def test_a_version_of_another_run_is_not_taken_for_this_one_s() -> None:
    job = a_training_job(output="digits", meta={"uid": "another"})
    assert created(decide(a_view(job, model=a_model(status=LISTED)))) == ["digits-train-1-0"]


def with_image(pod: PodView, image_id: str) -> PodView:
    return replace(pod, containers=(replace(pod.containers[0], image_id=image_id),))


def images_told(*pods: PodView, **spec: Any) -> dict[str, str]:
    decided = decide(a_view(an_open_job(2, **spec), *pods))
    marks = ((each.target.name, each.body["metadata"]["annotations"]) for each in decided.patch)
    return {name: every[names.IMAGE_ID] for name, every in marks if names.IMAGE_ID in every}


def test_rank_0s_sidecar_learns_once_which_image_its_script_runs_in() -> None:
    output = {"output": "digits"}
    pods = [with_image(a_pod(rank, running=True), "trainer@sha256:1") for rank in (0, 1)]
    assert images_told(*pods, **output) == {"digits-train-1-0": "trainer@sha256:1"}
    told = replace(pods[0], annotations={names.IMAGE_ID: "trainer@sha256:1"})
    assert images_told(told, pods[1], **output) == {}


def test_nobody_is_told_an_image_that_is_unknown_or_that_no_model_comes_from() -> None:
    known = with_image(a_pod(0, running=True), "trainer@sha256:1")
    assert images_told(known) == {}
    assert images_told(a_pod(0, running=True), output="digits") == {}
    ended = with_image(a_pod(0, failed=True), "trainer@sha256:1")
    assert images_told(ended, output="digits") == {}
