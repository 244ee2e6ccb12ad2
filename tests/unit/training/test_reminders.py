"""A kubelet may overlook what a pod was told: it is made to look again."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

from lepton_operator import names
from lepton_operator.api.training import Progress, TrainingJob
from lepton_operator.plan import Plan
from lepton_operator.training.reminders import SETTLED_SECONDS
from lepton_operator.views import PodView, Told
from tests.builders import a_container, a_pod, ago
from tests.unit.training.builders import a_view, an_open_job, decide

VOLUME = {"name": "data", "claimName": "data", "mountPath": "/data"}


def started(*seconds_ago: float) -> list[PodView]:
    """A gang whose ranks' containers started that long ago."""
    return [
        a_pod(rank, running=True, containers=(a_container(started=ago(each)),))
        for rank, each in enumerate(seconds_ago)
    ]


def reminded(decided: Plan) -> list[str]:
    return [
        each.target.name
        for each in decided.patch
        if names.TOLD_AGAIN in each.body["metadata"]["annotations"]
    ]


def planned(job: TrainingJob, pods: list[PodView], **more: Any) -> Plan:
    return decide(a_view(job, *pods, **more))


def test_pods_with_claims_are_told_again_once_all_of_them_have_started() -> None:
    job = an_open_job(2, volumes=[VOLUME])
    pods = started(60, SETTLED_SECONDS)
    decided = planned(job, pods)
    assert reminded(decided) == ["digits-train-1-0", "digits-train-1-1"]
    assert "look again" in decided.because
    done = [replace(pod, annotations={**pod.annotations, names.TOLD_AGAIN: "1"}) for pod in pods]
    assert reminded(planned(job, done)) == []


def test_that_waits_until_the_last_has_settled() -> None:
    job = an_open_job(2, volumes=[VOLUME])
    pods = started(60, 0)
    decided = planned(job, pods)
    assert reminded(decided) == []
    assert decided.due == pods[1].containers[0].started + timedelta(seconds=SETTLED_SECONDS)  # type: ignore[operator]
    still_starting = [pods[0], replace(pods[1], containers=())]
    assert reminded(planned(job, still_starting)) == []


def test_without_claims_a_kubelet_overlooks_nothing() -> None:
    assert reminded(planned(an_open_job(2), started(60, 60))) == []


def test_ranks_that_have_met_need_no_reminder() -> None:
    job = an_open_job(2, volumes=[VOLUME])
    told = Told(Progress(attempt=1, phase="training", step=3, time=ago(1)))
    assert reminded(planned(job, started(60, 60), told=told)) == []
