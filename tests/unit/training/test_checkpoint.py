"""Where ranks save, how often, and what a job without such a place is told."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from lepton_ai.checkpoints.interval import PRIOR
from lepton_ai.checkpoints.settings import Settings
from lepton_operator.api.training import Attempt, Progress, TrainingJob
from lepton_operator.build import training as build
from lepton_operator.build.failure_rate import mtbf_seconds
from tests.builders import NOW, a_pod, a_training_job, defaults
from tests.unit.training.builders import a_view, an_open_job, condition, decide, status_of

DAY = 86_400
VOLUMES = [{"name": "state", "claimName": "state", "mountPath": "/my state/$(HOME)"}]


def environment(job: TrainingJob) -> dict[str, str]:
    pod = build.pod(job, build.resolve(job.spec, defaults()), 1, 0)
    return {each["name"]: each["value"] for each in pod["spec"]["containers"][0]["env"]}


def settings(**checkpoint: Any) -> Settings:
    """What the SDK makes of what the ranks are told."""
    job = a_training_job(2, volumes=VOLUMES, checkpoint={"volume": "state", **checkpoint})
    return Settings.from_environment(environment(job))


def test_in_an_object_store_the_sdk_saves_through_the_sidecar() -> None:
    job = a_training_job(checkpoint={"uri": "s3://bucket/team", "keep": 7})
    found = Settings.from_environment(environment(job))
    assert (found.uri, found.relay, found.keep) == (
        "s3://bucket/team",
        Path("/lepton/exchange/checkpoints.sock"),
        7,
    )
    assert found.storage().url == "s3://bucket/team/uid-of-digits"
    pod = build.pod(job, build.resolve(job.spec, defaults()), 1, 0)
    for agent in pod["spec"]["initContainers"]:
        assert "--checkpoint-uri=s3://bucket/team" in agent["command"]


def an_attempt(days: float, *, outcome: str = "Failed", restarts: int | None = None) -> Attempt:
    return Attempt(
        number=1,
        start_time=NOW,
        running_time=NOW,
        end_time=NOW + timedelta(days=days),
        outcome=outcome,
        restarts=restarts,
    )


def test_the_sdk_saves_where_the_job_says_below_a_folder_of_the_run() -> None:
    found = settings()
    assert found.uri == "file:///my%20state/%24%28HOME%29"
    assert (found.run, found.interval_seconds, found.keep) == ("uid-of-digits", None, 3)
    assert found.failures.mtbf_seconds(1) == PRIOR.mtbf_seconds(2)
    found = settings(intervalSeconds=90, keep=7)
    assert (found.interval_seconds, found.keep) == (90, 7)


def options(job: TrainingJob, **resolving: Any) -> dict[str, str]:
    """What the launcher of its pod is told."""
    pod = build.pod(job, build.resolve(job.spec, defaults(), **resolving), 1, 0)
    train = pod["spec"]["containers"][0]["command"]
    told = dict(each.split("=", 1) for each in train[3 : train.index("--")])
    return {**told, "pod": str(pod["spec"]["terminationGracePeriodSeconds"])}


@pytest.mark.parametrize(
    ("spec", "leave_seconds", "expected"),
    [
        pytest.param({}, None, "30", id="nothing was saved yet"),
        pytest.param({}, 12, "30", id="never less than the chart says"),
        pytest.param({}, 95, "105", id="what saving takes, and a reserve"),
        pytest.param({}, 86_400, "3600", id="within bounds"),
        pytest.param({"terminationGracePeriodSeconds": 60}, 95, "60", id="the user's own wins"),
    ],
)
def test_the_grace_period_follows_from_what_saving_takes(
    spec: dict[str, Any], leave_seconds: int | None, expected: str
) -> None:
    told = options(a_training_job(**spec), leave_seconds=leave_seconds)
    assert (told["pod"], told["--grace-seconds"]) == (expected, expected)


def test_the_next_attempt_gets_the_grace_that_the_one_before_needed() -> None:
    progress = Progress(time=NOW, attempt=1, phase="training", leave_seconds=95)
    job = a_training_job()
    job = job.model_copy(update={"status": job.status.model_copy(update={"progress": progress})})
    (made,) = decide(a_view(job)).create
    assert made.manifest["spec"]["terminationGracePeriodSeconds"] == 105


def test_a_script_gets_the_signal_of_its_choice() -> None:
    job = a_training_job(volumes=VOLUMES, checkpoint={"volume": "state", "signal": "SIGUSR1"})
    assert options(job)["--leave-signal"] == "SIGUSR1"
    assert "--leave-signal" not in options(a_training_job())


def test_without_a_place_nothing_is_said_of_one() -> None:
    told = environment(a_training_job(volumes=VOLUMES))
    assert not [name for name in told if name.startswith("LEPTON_CHECKPOINT")]
    assert told["LEPTON_RUN_UID"] == "uid-of-digits"


@pytest.mark.parametrize(
    ("attempts", "failures", "days"),
    [
        pytest.param([], 0, 0, id="nothing seen"),
        pytest.param([an_attempt(1)], 1, 1, id="a failure"),
        pytest.param([an_attempt(1, restarts=2)], 3, 1, id="with restarts in the pods"),
        pytest.param([an_attempt(3, outcome="Suspended")], 0, 3, id="a run that nothing ended"),
        pytest.param(
            [an_attempt(1).model_copy(update={"running_time": None})], 0, 0, id="ranks never ran"
        ),
        pytest.param([an_attempt(-1)], 1, 0, id="clocks that went back"),
    ],
)
@pytest.mark.parametrize("nodes", [1, 16])
def test_the_operator_and_the_sdk_estimate_alike(
    attempts: list[Attempt], failures: int, days: float, nodes: int
) -> None:
    believed = PRIOR.after(failures, days * DAY * nodes)
    assert mtbf_seconds(attempts, nodes) == round(believed.mtbf_seconds(nodes))


def test_what_was_seen_reaches_the_ranks_of_the_next_attempt() -> None:
    status = {"observedGeneration": 1, "attempts": [an_attempt(1).wire()]}
    job = a_training_job(volumes=VOLUMES, checkpoint={"volume": "state"}, status=status)
    expected = PRIOR.after(1, DAY)
    told = Settings.from_environment(environment(job))
    assert told.failures.failures == expected.failures
    assert told.failures.mtbf_seconds(1) == round(expected.mtbf_seconds(1))
    assert told.failures_until == 1


def test_a_job_that_may_restart_without_a_place_for_checkpoints_is_warned() -> None:
    found = condition(decide(a_view(a_training_job())), "CheckpointPlaceKnown")
    assert (found.status, found.reason) == ("False", "NoCheckpoint")
    assert "checkpoint.volume" in found.message


@pytest.mark.parametrize(
    "spec",
    [
        pytest.param({"volumes": VOLUMES, "checkpoint": {"volume": "state"}}, id="it has a place"),
        pytest.param(
            {"failurePolicy": {"maxRestarts": 0, "maxInfrastructureRestarts": 0}},
            id="it never restarts",
        ),
    ],
)
def test_others_are_not_warned(spec: dict[str, Any]) -> None:
    told = status_of(decide(a_view(a_training_job(**spec))))["conditions"]
    assert "CheckpointPlaceKnown" not in {each["type"] for each in told}


def test_a_job_that_has_ended_needs_no_warning() -> None:
    told = status_of(decide(a_view(an_open_job(), a_pod(0, succeeded=True))))["conditions"]
    assert "CheckpointPlaceKnown" not in {each["type"] for each in told}
