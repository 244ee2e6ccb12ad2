"""Whole pods, as golden files: `pytest --update-golden` writes them, their diff is the review."""

from __future__ import annotations

import json
from typing import Any

import pytest

from lepton_launcher.hangs import Patience
from lepton_launcher.options import Options, parse_options
from lepton_operator import names
from lepton_operator.api.training import TrainingJob
from lepton_operator.build import training as build
from lepton_operator.build.pods import Avoided
from tests.builders import POD_SETTINGS, a_training_job, defaults
from tests.conftest import Golden

EVERYTHING: dict[str, Any] = {
    "image": "registry.example/train:1",
    "entrypoint": ["-m", "train", "--epochs=3"],
    "env": [{"name": "SEED", "value": "1"}],
    "envFromSecret": "tokens",
    "volumes": [
        {"name": "data", "claimName": "images", "mountPath": "/data", "readOnly": True},
        {"name": "scratch", "claimName": "scratch", "mountPath": "/scratch"},
    ],
    "numProcPerNode": 2,
    "resourcesPerNode": {"requests": {"cpu": 4}, "limits": {"nvidia.com/gpu": 2}},
    **POD_SETTINGS,
    "checkpoint": {"volume": "scratch", "intervalSeconds": 600, "keep": 5},
    "failurePolicy": {
        "hangTimeoutSeconds": 600,
        "hangStartupSeconds": 3600,
        "rules": [
            {"match": {"messagePattern": "loss is (nan|inf)$"}, "action": "Fail"},
            {"match": {"exitCodes": [42]}, "action": "Ignore"},
        ],
    },
}


def pods(job: TrainingJob, attempt: int = 1) -> list[dict[str, Any]]:
    resolved = build.resolve(job.spec, defaults(training_priority_class="lepton-training"))
    return [build.pod(job, resolved, attempt, rank) for rank in range(job.spec.num_nodes)]


@pytest.mark.parametrize(
    ("name", "job"),
    [
        pytest.param("one-pod", a_training_job(), id="one pod, nothing said"),
        pytest.param("two-pods", a_training_job(2, output="digits"), id="a gang with an output"),
        pytest.param("everything", a_training_job(**EVERYTHING), id="every field set"),
        pytest.param(
            "saved-in-the-store",
            a_training_job(checkpoint={"uri": "lepton-store://checkpoints", "keep": 5}),
            id="checkpoints in the object store",
        ),
    ],
)
def test_the_pods_of_a_job(name: str, job: TrainingJob, golden: Golden) -> None:
    golden(f"training/{name}", pods(job))


def told(job: TrainingJob) -> Options:
    """What the launcher of the first pod makes of its command line."""
    command: list[str] = pods(job)[0]["spec"]["containers"][0]["command"]
    return parse_options(command[command.index("run") + 1 :])


@pytest.mark.parametrize(
    ("policy", "patience"),
    [
        pytest.param({}, Patience(1800, None), id="nothing said"),
        pytest.param({"hangTimeoutSeconds": "auto"}, Patience(1800, None), id="auto"),
        pytest.param(
            {"hangTimeoutSeconds": 600, "hangStartupSeconds": 60}, Patience(60, 600), id="numbers"
        ),
    ],
)
def test_the_launcher_is_told_what_a_hang_is(policy: dict[str, Any], patience: Patience) -> None:
    assert told(a_training_job(failurePolicy=policy)).patience == patience


def test_a_pod_that_stays_away_from_nodes(golden: Golden) -> None:
    job = a_training_job()
    avoided = Avoided(required=("node-1", "node-2"), preferred=("node-3",))
    resolved = build.resolve(job.spec, defaults())
    golden("training/avoiding", [build.pod(job, resolved, 2, 0, avoided=avoided)])


def test_only_the_names_differ_between_two_attempts_and_what_follows_from_them() -> None:
    job = a_training_job(2, output="digits")
    first, second = pods(job, 1)[0], pods(job, 2)[0]
    again = json.loads(
        json.dumps(second).replace("--attempt=2", "--attempt=1").replace("-2-0", "-1-0")
    )
    again["metadata"]["labels"][names.ATTEMPT] = "1"
    assert again == first


def test_a_user_s_words_do_not_win_over_ours() -> None:
    job = a_training_job(env=[{"name": "HOME", "value": "/data"}], podLabels={"team": "a"})
    (pod,) = pods(job)
    environment = {each["name"]: each["value"] for each in pod["spec"]["containers"][0]["env"]}
    assert environment["HOME"] == "/data"
    assert environment["LEPTON_OUTPUT_DIR"] == "/lepton/output"


def test_the_record_of_the_defaults_stays_below_2_kib_whatever_a_user_asks() -> None:
    many = {f"example.com/{'x' * 60}-{number}": 1 for number in range(32)}
    job = a_training_job(image="r/" + "i" * 500, resourcesPerNode={"limits": many})
    (pod,) = pods(job)
    assert len(pod["metadata"]["annotations"][names.RESOLVED].encode()) < 2048


def test_a_thousand_variables_reach_every_rank() -> None:
    env = {f"V{number}": "x" * 100 for number in range(1000)}
    for pod in pods(a_training_job(2, env=[{"name": n, "value": v} for n, v in env.items()])):
        told = {each["name"]: each["value"] for each in pod["spec"]["containers"][0]["env"]}
        assert told.items() >= env.items()
        assert len(json.dumps(pod)) < 262_144


def test_a_very_long_entrypoint_is_kept_whole_for_the_launcher_and_cut_for_the_lineage() -> None:
    entrypoint = ["train.py", *(f"--option-{number}={'v' * 100}" for number in range(200))]
    (pod,) = pods(a_training_job(entrypoint=entrypoint, output="digits"))
    command = pod["spec"]["containers"][0]["command"]
    assert command[command.index("--") + 1 :] == entrypoint
    sidecar = pod["spec"]["initContainers"][1]["command"]
    lineage = next(each for each in sidecar if each.startswith("--entrypoint="))
    kept = json.loads(lineage.removeprefix("--entrypoint="))
    assert kept == entrypoint[: len(kept)]
    assert len(lineage) < 1100


def test_the_record_is_read_back_as_it_was_made() -> None:
    resolved = build.resolve(a_training_job(output="digits").spec, defaults())
    assert build.parse_resolved(resolved.text()) == resolved
    assert build.parse_resolved("{") is None
    assert build.parse_resolved(None) is None


def test_a_record_that_no_pod_could_have_counts_as_none() -> None:
    """It may be anybody's: whoever may change an annotation or a status can write one."""
    resolved = build.resolve(a_training_job().spec, defaults())
    endless = resolved.model_copy(update={"grace_seconds": 10**30})
    assert build.parse_resolved(endless.text()) is None
