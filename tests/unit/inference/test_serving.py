from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from lepton_operator import names
from lepton_operator.build import serving
from lepton_operator.build.serving import Target
from lepton_operator.inference.plan import plan
from tests.builders import NOW, a_model, defaults
from tests.conftest import Golden
from tests.unit.inference.builders import PORT, a_service, a_view, digest, revision

TARGET = Target("digits", 3, digest(3))


def a_serving_pod(**spec: Any) -> dict[str, Any]:
    service = a_service(**spec)
    resolved = serving.resolve(service, defaults())
    return serving.serving_pod(service, 0, revision(3, service), TARGET, resolved)


def test_the_serving_pod(golden: Golden) -> None:
    golden("inference/pod", a_serving_pod())


def test_the_service(golden: Golden) -> None:
    golden("inference/service", serving.kubernetes_service(a_service(), PORT))


@pytest.mark.parametrize(
    ("server_version", "known", "unknown"),
    [
        ("2.10.0", "--strict-readiness=true", "--disable-auto-complete-config"),
        ("2.51.0", "--disable-auto-complete-config", "--allow-client-shm=false"),
        ("2.70", "--allow-client-shm=false", None),
        ("3.0.0", "--allow-client-shm=false", None),
        ("2.51.0", "--trace-config=level=off", "--http-max-input-size=1073741824"),
        ("2.60.0", "--http-max-input-size=1073741824", "--allow-client-shm=false"),
    ],
)
def test_a_server_gets_only_flags_that_it_knows(
    server_version: str, known: str, unknown: str | None
) -> None:
    flags = serving.flags(server_version)
    assert known in flags
    assert unknown not in flags


@pytest.mark.parametrize(
    ("asked", "grace_seconds", "exit_timeout_seconds"),
    [(None, 25, 15), (3, 25, 15), (120, 120, 110)],
    ids=["the chart's", "too little is not taken", "more is time for requests"],
)
def test_the_grace_period(asked: int | None, grace_seconds: int, exit_timeout_seconds: int) -> None:
    pod = a_serving_pod(**({"terminationGracePeriodSeconds": asked} if asked else {}))
    command = pod["spec"]["containers"][0]["command"]
    assert pod["spec"]["terminationGracePeriodSeconds"] == grace_seconds
    assert f"--exit-timeout-secs={exit_timeout_seconds}" in command


def test_what_was_resolved_is_read_back_as_it_was_written() -> None:
    resolved = serving.resolve(a_service(), defaults())
    assert serving.Resolved.model_validate_json(resolved.written()) == resolved
    assert len(resolved.written()) < 2048


def fetch_options(**spec: Any) -> list[str]:
    """Return what follows the arguments that every fetch has."""
    command: list[str] = a_serving_pod(**spec)["spec"]["initContainers"][0]["command"]
    return command[command.index("--max-batch-size") + 1 :]


@pytest.mark.parametrize(
    ("spec", "options"),
    [
        pytest.param({}, ["32"], id="nothing is said that nobody asked for"),
        pytest.param({"batching": {}}, ["32"], id="nor where batching says nothing"),
        pytest.param(
            {"batching": {"maxBatchSize": 4}}, ["4", "--must-batch"], id="a batch is asked for"
        ),
        pytest.param(
            {"batching": {"maxBatchSize": 1}}, ["1"], id="a batch of one fits every model"
        ),
        pytest.param(
            {"batching": {"preferredBatchSizes": [8, 64]}},
            ["64", "--must-batch", "--preferred-batch-sizes", "8,64"],
            id="a preferred size above the chart's is the largest",
        ),
        pytest.param(
            {"batching": {"maxBatchSize": 16, "maxQueueDelayMicroseconds": 0}},
            ["16", "--must-batch", "--max-queue-delay-microseconds", "0"],
            id="no delay is a word too",
        ),
        pytest.param(
            {"triton": {"instances": 2, "responseCache": "64Mi", "priorityLevels": 3}},
            ["32", "--response-cache", "--instances", "2", "--priority-levels", "3"],
            id="how Triton runs it",
        ),
    ],
)
def test_what_config_pbtxt_is_to_say(spec: dict[str, Any], options: list[str]) -> None:
    assert fetch_options(**spec) == options


@pytest.mark.parametrize(
    ("size", "flags"),
    [
        (None, []),
        ("64Mi", ["--cache-config=local,size=67108864"]),
        ("2Gi", ["--cache-config=local,size=2147483648"]),
    ],
)
def test_the_server_has_a_cache_where_answers_are_kept(size: str | None, flags: list[str]) -> None:
    pod = a_serving_pod(**({"triton": {"responseCache": size}} if size else {}))
    command = pod["spec"]["containers"][0]["command"]
    assert [each for each in command if "cache" in each] == flags


@pytest.mark.parametrize(
    ("version", "floor", "older"),
    [
        ("2.51.0", "2.70.0", True),
        ("2.70.0", "2.70.0", False),
        ("2.70", "2.70.0", False),
        ("2.9.0", "2.51.0", True),
        ("3.0.0", "2.70.0", False),
    ],
)
def test_versions_are_compared_as_numbers(version: str, floor: str, *, older: bool) -> None:
    assert serving.is_older(version, floor) is older


def volumes(pod: Mapping[str, Any]) -> dict[str, Any]:
    return {each["name"]: each["emptyDir"] for each in pod["spec"]["volumes"] if "emptyDir" in each}


def test_scratch_space_is_bounded_by_the_chart_or_by_the_service() -> None:
    assert volumes(a_serving_pod())["tmp"] == {"sizeLimit": "1Gi"}
    own = volumes(a_serving_pod(scratchSpace="5Gi", sharedMemory="8Gi"))
    assert own["tmp"] == {"sizeLimit": "5Gi"}
    assert own["shm"] == {"medium": "Memory", "sizeLimit": "8Gi"}


def test_a_revision_from_before_there_were_bounds_keeps_none() -> None:
    recorded = serving.resolve(a_service(), defaults()).model_dump(exclude_none=True)
    old = {
        key: each for key, each in recorded.items() if key not in ("shared_memory", "scratch_space")
    }
    pod = serving.serving_pod(a_service(), 0, "old", TARGET, serving.Resolved.model_validate(old))
    assert volumes(pod)["tmp"] == {}
    assert volumes(pod)["shm"] == {"medium": "Memory"}


@pytest.mark.parametrize("spec", [{}, {"podLabels": {"a": "b"}, "serviceAccountName": "mine"}])
def test_no_serving_pod_can_write_its_root_or_has_a_token(spec: dict[str, Any]) -> None:
    found = a_serving_pod(**spec)["spec"]
    assert found["automountServiceAccountToken"] is False
    contexts = [
        each["securityContext"] for each in (*found["initContainers"], *found["containers"])
    ]
    assert [each["readOnlyRootFilesystem"] for each in contexts] == [True, True]
    (models,) = (m for m in found["containers"][0]["volumeMounts"] if m["name"] == "models")
    assert models["readOnly"]


@pytest.mark.parametrize(
    ("model_bytes", "bound"),
    [
        pytest.param(None, {}, id="a size that nobody knows bounds nothing"),
        pytest.param(1, {"sizeLimit": "65Mi"}, id="a small model has room beside it"),
        pytest.param(7 * 2**30, {"sizeLimit": "7232Mi"}, id="a large one too"),
    ],
)
def test_the_models_folder_is_bounded_by_the_size_of_the_version(
    model_bytes: int | None, bound: dict[str, str]
) -> None:
    service = a_service()
    resolved = serving.resolve(service, defaults(), model_bytes)
    pod = serving.serving_pod(service, 0, revision(3, service), TARGET, resolved)
    assert volumes(pod)["models"] == bound


def test_the_size_of_a_version_reaches_its_pods_by_the_models_status() -> None:
    version = {"version": 1, "digest": digest(1), "sizeBytes": 5 * 2**20}
    listed = {"versions": [version], "served": {"version": 1, "digest": digest(1)}}
    found = plan(a_view(model=a_model(status=listed)), NOW)
    (pod,) = [each.manifest for each in found.create if each.manifest["kind"] == "Pod"]
    assert volumes(pod)["models"] == {"sizeLimit": "69Mi"}
    resolved = serving.Resolved.model_validate_json(pod["metadata"]["annotations"][names.RESOLVED])
    assert resolved.models_space == "69Mi"


def test_spread_and_eviction_are_preferred_and_allowed_unless_a_service_says_otherwise() -> None:
    def found(pod: dict[str, Any]) -> tuple[str, str, str]:
        (spread,) = pod["spec"]["topologySpreadConstraints"]
        evicted = pod["metadata"]["annotations"]["cluster-autoscaler.kubernetes.io/safe-to-evict"]
        return spread["topologyKey"], spread["whenUnsatisfiable"], evicted

    own = {"topologyKey": "topology.kubernetes.io/zone", "whenUnsatisfiable": "DoNotSchedule"}
    assert found(a_serving_pod()) == ("kubernetes.io/hostname", "ScheduleAnyway", "true")
    asked = a_serving_pod(spread=own, disruption={"safeToEvict": False})
    assert found(asked) == ("topology.kubernetes.io/zone", "DoNotSchedule", "false")


def test_everything_that_a_pod_writes_to_is_bounded_and_its_root_is_not_among_it() -> None:
    service = a_service()
    resolved = serving.resolve(service, defaults(), 1)
    pod = serving.serving_pod(service, 0, revision(3, service), TARGET, resolved)
    assert all("sizeLimit" in each for each in volumes(pod).values())
    assert pod["spec"]["automountServiceAccountToken"] is False
    for each in (*pod["spec"]["initContainers"], *pod["spec"]["containers"]):
        assert each["securityContext"]["readOnlyRootFilesystem"]
