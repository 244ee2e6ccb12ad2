from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from lepton_operator import names
from lepton_operator.api.common import Resources
from lepton_operator.build import training as build
from lepton_operator.plan import Plan
from lepton_operator.settings import Images
from lepton_operator.views import Refusal
from tests.builders import a_pod, a_training_job, ago, defaults
from tests.unit.training.builders import (
    a_restarting_job,
    a_view,
    after,
    an_open_job,
    condition,
    created,
    decide,
    status_of,
)

UPGRADED = defaults(
    images=Images(agent="agent:2", trainer="trainer:2", triton="triton:2", door="door:2")
)


def images(decided: Plan) -> set[str]:
    return {each.manifest["spec"]["containers"][0]["image"] for each in decided.create}


def told(decided: Plan) -> dict[str, Any]:
    return {
        each.target.name: json.loads(each.body["metadata"]["annotations"][names.ATTEMPT])
        for each in decided.patch
    }


def test_a_new_job_gets_all_its_pods_and_a_record_in_one_pass() -> None:
    decided = decide(a_view(a_training_job(3)))
    assert created(decided) == ["digits-train-1-0", "digits-train-1-1", "digits-train-1-2"]
    assert status_of(decided)["attempts"][0]["outcome"] == "Running"
    assert status_of(decided)["startTime"] == "2026-11-22T04:00:00Z"
    assert condition(decided).reason == "Starting"
    assert "as soon as all 3 pods run" in condition(decided).message
    assert condition(decided, "Reconciling").status == "True"
    assert [each.reason for each in decided.events] == ["AttemptStarted"]
    assert decided.because == "start attempt 1 on 3 pods"
    assert not decided.relist


def test_a_job_of_one_pod_is_told_of_in_the_singular() -> None:
    opened = condition(decide(a_view(a_training_job())))
    assert opened.message == "Attempt 1 starts: the job is Ready as soon as its pod runs."
    waits = condition(decide(a_view(an_open_job(), a_pod(0, node=None))))
    assert "once its pod has a node" in waits.message


def test_the_next_attempt_looks_again_whether_the_old_pods_are_gone() -> None:
    decided = decide(a_view(a_restarting_job(2)))
    assert created(decided) == ["digits-train-2-0", "digits-train-2-1"]
    assert decided.relist
    assert decided.because == "start attempt 2 on 2 pods: attempt 1 failed. Rank 0 exited 1."
    assert [each.reason for each in decided.events] == ["Restarted"]


def test_only_ten_attempts_are_kept() -> None:
    decided = decide(a_view(a_restarting_job(attempts=10)), ago(-60))
    assert [each["number"] for each in status_of(decided)["attempts"]] == [*range(2, 12)]
    assert status_of(decided)["attempt"] == 11


def test_an_opening_that_was_cut_short_is_completed_with_the_defaults_it_began_with() -> None:
    job = a_training_job(2)
    resolved = build.resolve(job.spec, defaults()).text()
    first = a_pod(0, annotations={names.RESOLVED: resolved})
    decided = decide(a_view(job, first, defaults=UPGRADED))
    assert created(decided) == ["digits-train-1-1"]
    assert images(decided) == {"trainer:1"}
    assert status_of(decided)["attempts"][0]["resolved"] == resolved


def test_a_chart_upgrade_changes_nothing_in_an_open_attempt() -> None:
    job = an_open_job(1)
    pod = a_pod(0)
    assert decide(a_view(job, pod, defaults=UPGRADED)) == decide(a_view(job, pod))


def test_a_new_attempt_takes_the_defaults_of_today() -> None:
    assert images(decide(a_view(a_restarting_job(), defaults=UPGRADED))) == {"trainer:2"}


def test_an_unreadable_record_of_the_defaults_is_resolved_anew() -> None:
    first = a_pod(0, annotations={names.RESOLVED: "{"})
    assert images(decide(a_view(a_training_job(2), first))) == {"trainer:1"}


def test_a_wiped_status_takes_the_attempt_up_from_its_pods() -> None:
    pods = (a_pod(0, attempt=4, running=True), a_pod(1, attempt=4, running=True))
    decided = decide(a_view(a_training_job(2), *pods))
    assert decided.create == ()
    assert status_of(decided)["attempt"] == 4
    assert status_of(decided)["attempts"][0]["startTime"] == "2026-11-22T03:59:30Z"


def test_a_pod_whose_number_no_status_has_room_for_is_no_attempt() -> None:
    forged = replace(a_pod(0), name=f"digits-train-{10**20}-0", uid="forged")
    decided = decide(a_view(an_open_job(), a_pod(0, running=True), forged))
    assert condition(decided).reason == "Running"


def test_a_stranger_s_pod_is_not_taken_for_ours() -> None:
    stranger = a_pod(0, owner_uid="somebody")
    assert created(decide(a_view(a_training_job(), stranger))) == ["digits-train-1-0"]


def test_what_was_refused_is_said_and_asked_for_again_and_no_attempt_is_recorded() -> None:
    refusal = Refusal("digits-train-1-0", "QuotaExceeded", "exceeded quota: gpus")
    decided = decide(a_view(a_training_job(), refusals=(refusal,)))
    assert created(decided) == ["digits-train-1-0"]
    assert condition(decided).reason == "QuotaExceeded"
    assert "exceeded quota: gpus" in condition(decided).message
    assert "attempts" not in status_of(decided) or not status_of(decided)["attempts"]
    assert decided.events == ()


def test_a_gang_is_told_where_rank_0_is_once_it_has_an_address() -> None:
    job = an_open_job(2)
    waiting = decide(a_view(job, a_pod(0, node=None), a_pod(1)))
    assert waiting.patch == ()
    decided = decide(a_view(job, a_pod(0), a_pod(1)))
    common = {"attempt": 1, "numNodes": 2, "address": "10.0.0.1", "port": 29401}
    common["gangPort"] = 26401
    every = told(decided)
    tokens = {placement.pop("token") for placement in every.values()}
    assert every == {
        "digits-train-1-0": {**common, "nodeRank": 0},
        "digits-train-1-1": {**common, "nodeRank": 1},
    }
    assert [len(token) for token in tokens] == [64]


def test_only_pods_that_were_not_told_are_told() -> None:
    job = an_open_job(2)
    address = build.placement(job.metadata, 2, 1, 0, "10.0.0.1")
    first = a_pod(0, annotations={names.ATTEMPT: address})
    assert [*told(decide(a_view(job, first, a_pod(1))))] == ["digits-train-1-1"]


def test_a_gang_that_no_status_tells_of_is_not_told_where_to_meet() -> None:
    decided = decide(a_view(a_training_job(2), a_pod(0), a_pod(1)))
    assert decided.patch == ()
    assert told(decide(a_view(after(a_training_job(2), decided), a_pod(0), a_pod(1))))


def test_one_pod_alone_knows_its_place_from_the_start() -> None:
    decided = decide(a_view(a_training_job()))
    annotation = decided.create[0].manifest["metadata"]["annotations"][names.ATTEMPT]
    assert json.loads(annotation) == {
        "attempt": 1,
        "nodeRank": 0,
        "numNodes": 1,
        "address": "127.0.0.1",
        "port": 29401,
    }


def test_every_attempt_has_a_port_of_its_own_below_the_ephemeral_ones() -> None:
    job = a_training_job(2).metadata
    told = [json.loads(build.placement(job, 2, each, 0, "10.0.0.1")) for each in (1, 2, 5999)]
    assert [each["port"] for each in told] == [29401, 29402, 32399]
    assert [each["gangPort"] for each in told] == [26401, 26402, 29399]
    assert len({each["token"] for each in told}) == 3


@pytest.mark.parametrize(
    ("spec", "ranks"),
    [
        pytest.param({}, 1, id="one GPU by default"),
        pytest.param({"numProcPerNode": 3}, 3, id="a number is a number"),
        pytest.param(
            {"resourcesPerNode": {"limits": {"nvidia.com/gpu": 8}}}, 8, id="auto is the GPUs asked"
        ),
        pytest.param(
            {"resourcesPerNode": {"requests": {"nvidia.com/gpu": "2"}}}, 2, id="as text, requested"
        ),
        pytest.param({"resourcesPerNode": {"limits": {"cpu": 8}}}, 1, id="no GPU is one rank"),
    ],
)
def test_ranks_in_a_pod(spec: dict[str, Any], ranks: int) -> None:
    job = a_training_job(**spec)
    assert build.ranks_per_pod(job.spec, build.resolve(job.spec, defaults())) == ranks


def test_the_gpus_that_auto_counts_are_those_of_the_chart_s_resource() -> None:
    amd = defaults(
        gpu_resource="amd.com/gpu", training_resources=Resources(limits={"amd.com/gpu": 4})
    )
    job = a_training_job()
    assert build.ranks_per_pod(job.spec, build.resolve(job.spec, amd)) == 4


def test_a_later_attempt_s_pods_close_an_attempt_that_lost_its_end() -> None:
    job = an_open_job()
    decided = decide(a_view(job, a_pod(0, attempt=2, running=True, created=ago(5))))
    outcomes = [(each["number"], each["outcome"]) for each in status_of(decided)["attempts"]]
    assert outcomes == [(1, "Failed"), (2, "Running")]


def test_an_object_that_is_being_deleted_is_left_alone() -> None:
    job = a_training_job(meta={"deletionTimestamp": "2026-11-22T04:00:00Z"})
    assert decide(a_view(job)) == Plan()
