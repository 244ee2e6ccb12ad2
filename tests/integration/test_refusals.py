"""What `kubectl apply` refuses and with which sentence, and what it shows of what it takes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from e2e.cluster.control_plane import ControlPlane
from e2e.kubectl import Kubectl, KubectlError
from lepton_operator import crds
from lepton_operator.api.common import API_VERSION, NAME_MESSAGE
from lepton_operator.api.training import TrainingJobSpec
from lepton_operator.cluster import OWN_KINDS, RESOURCES
from tests.bad_input import BAD, ENTRYPOINT
from tests.integration.conftest import ROOT, Namespace
from tests.integration.wire import Wire

SPECS: Mapping[str, dict[str, Any]] = {
    "TrainingJob": ENTRYPOINT,
    "LeptonModel": {},
    "InferenceService": {"model": {"name": "digits"}},
}
BAD_NAMES = {
    "41 characters": "n" * 41,
    "300 characters": "n" * 300,
    "capitals": "Digits",
    "a leading digit": "3d",
    "a trailing hyphen": "digits-",
    "a dot": "digits.v2",
    "letters of other alphabets": "z\u00e4hler-\u6570\u5b57",
    "a picture": "digits-\U0001f522",
}
LONGEST_NAME = "n" * 40
EXAMPLES = sorted((ROOT / "examples").glob("*.yaml"))


def manifest(kind: str, name: str, spec: Mapping[str, Any] | None = None) -> dict[str, Any]:
    chosen = SPECS[kind] if spec is None else spec
    metadata = {"name": name}
    return {"apiVersion": API_VERSION, "kind": kind, "metadata": metadata, "spec": dict(chosen)}


@pytest.fixture(scope="module")
def wire(plane: ControlPlane) -> Iterator[Wire]:
    found = Wire(plane)
    yield found
    found.close()


@pytest.fixture
def kubectl(plane: ControlPlane, namespace: Namespace) -> Kubectl:
    return Kubectl(plane.kubeconfig, f"lepton-{plane.layout.name}", namespace.name)


# Refused


@pytest.fixture(scope="module")
def refused(plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, str]:
    """What kubectl says of each bad object, one file each, all in one go."""
    folder = tmp_path_factory.mktemp("bad")
    for number, bad in enumerate(BAD):
        write(folder, f"bad-{number}", manifest(bad.kind, f"bad-{number}", bad.spec))
    for kind in OWN_KINDS:
        for number, name in enumerate(BAD_NAMES.values()):
            write(folder, f"{kind}-{number}", manifest(kind, name))
    kubectl = Kubectl(plane.kubeconfig, f"lepton-{plane.layout.name}", "default")
    with pytest.raises(KubectlError) as said:
        kubectl.run("apply", "-f", str(folder), timeout_seconds=300)  # one after another
    lines = str(said.value).splitlines()
    return {
        file.stem: next(line for line in lines if str(file) in line) for file in folder.iterdir()
    }


def write(folder: Path, name: str, content: dict[str, Any]) -> None:
    (folder / f"{name}.json").write_text(json.dumps(content))


@pytest.mark.parametrize("number", range(len(BAD)), ids=[bad.case for bad in BAD])
def test_a_bad_spec_is_refused_with_its_sentence(refused: Mapping[str, str], number: int) -> None:
    said = refused[f"bad-{number}"]
    assert BAD[number].sentence in said
    assert "evaluating rule" not in said, "CEL itself failed, which tells a person nothing"


@pytest.mark.parametrize("number", range(len(BAD_NAMES)), ids=list(BAD_NAMES))
@pytest.mark.parametrize("kind", OWN_KINDS)
def test_a_bad_name_is_refused(refused: Mapping[str, str], kind: str, number: int) -> None:
    assert "metadata.name" in refused[f"{kind}-{number}"]


def test_a_name_that_the_kind_alone_forbids_is_refused_with_our_sentence(
    refused: Mapping[str, str],
) -> None:
    """Kubernetes itself takes these; capitals and 300 characters it refuses before we are asked."""
    ours = ("41 characters", "a leading digit", "a dot")
    for number in map(list(BAD_NAMES).index, ours):
        assert NAME_MESSAGE in refused[f"TrainingJob-{number}"]


@pytest.mark.parametrize("kind", OWN_KINDS)
def test_the_longest_name_is_taken(wire: Wire, kind: str) -> None:
    path = RESOURCES[kind].path("default")
    assert wire.create(path, manifest(kind, LONGEST_NAME), dry_run=True).accepted


def test_a_thousand_variables_are_taken(kubectl: Kubectl) -> None:
    env = [{"name": f"V{number}", "value": "x" * 100} for number in range(1000)]
    kubectl.apply(manifest("TrainingJob", "talkative", {**ENTRYPOINT, "env": env}))
    assert kubectl.run("get", "tj", "talkative", "-o", "jsonpath={.spec.env[999].name}") == "V999"


@pytest.mark.parametrize("kind", OWN_KINDS)
def test_nothing_of_what_was_refused_is_stored(
    wire: Wire, refused: Mapping[str, str], kind: str
) -> None:
    stored = {
        each["metadata"]["name"] for each in wire.get(RESOURCES[kind].path("default")).body["items"]
    }
    assert stored.isdisjoint({*refused, *BAD_NAMES.values()})


# What may change of a TrainingJob: for every field a value and another one.

CHANGES: Mapping[str, tuple[Any, Any]] = {
    "image": ("a", "b"),
    "entrypoint": (["a.py"], ["b.py"]),
    "env": ([{"name": "A", "value": "1"}], [{"name": "A", "value": "2"}]),
    "envFromSecret": ("a", "b"),
    "volumes": (
        [{"name": "a", "claimName": "a", "mountPath": "/a"}],
        [{"name": "a", "claimName": "a", "mountPath": "/b"}],
    ),
    "numNodes": (2, 3),
    "numProcPerNode": (2, "auto"),
    "resourcesPerNode": ({"limits": {"nvidia.com/gpu": 1}}, {"limits": {"nvidia.com/gpu": 2}}),
    "checkpoint": ({"volume": "a"}, {"uri": "lepton-store://a"}),
    "managedBy": ("lepton.ai/lepton-operator", "kueue.x-k8s.io/multikueue"),
    "output": ({"model": "a"}, {"model": "b"}),
    "imagePullSecrets": ([{"name": "a"}], [{"name": "b"}]),
    "serviceAccountName": ("a", "b"),
    "terminationGracePeriodSeconds": (1, 2),
    "sharedMemory": ("1Gi", "2Gi"),
    "fsGroup": (1, 2),
    "runAsUser": (1, 2),
}
PLACEMENT: Mapping[str, tuple[Any, Any]] = {
    "runtimeClassName": ("a", "b"),
    "schedulerName": ("a", "b"),
    "podLabels": ({"a": "a"}, {"a": "b"}),
    "podAnnotations": ({"a": "a"}, {"a": "b"}),
    "nodeSelector": ({"a": "a"}, {"a": "b"}),
    "tolerations": ([{"key": "a"}], [{"key": "b"}]),
    "priorityClassName": ("a", "b"),
}
MUTABLE: Mapping[str, tuple[Any, Any]] = {
    "suspend": (False, True),
    "activeDeadlineSeconds": (60, 120),
    "ttlSecondsAfterFinished": (60, 0),
    "failurePolicy": ({"maxRestarts": 1}, {"maxRestarts": 2}),
}
JOBS = RESOURCES["TrainingJob"]


@pytest.fixture(scope="module")
def jobs(wire: Wire) -> Wire:
    """`full` says something in every field, `bare` only what it must; `held` is suspended."""
    full = {name: values[0] for name, values in {**CHANGES, **PLACEMENT, **MUTABLE}.items()}
    specs = {"full": full, "held": full | {"suspend": True}, "bare": ENTRYPOINT}
    for name, spec in specs.items():
        made = wire.create(JOBS.path("default"), manifest("TrainingJob", name, spec))
        assert made.accepted, made.sentence
    return wire


def change(jobs: Wire, name: str, field: str, value: Any) -> str:
    """Return why the API server refuses to change a field of the spec; empty if it does not."""
    path = JOBS.path("default", name)
    return jobs.merge(path, {"spec": {field: value}}, dry_run=True).sentence


def test_the_table_has_every_field() -> None:
    fields = {str(field.alias) for field in TrainingJobSpec.model_fields.values()}
    assert fields == CHANGES.keys() | PLACEMENT.keys() | MUTABLE.keys()


@pytest.mark.parametrize("field", CHANGES)
def test_what_a_job_is_never_changes(jobs: Wire, field: str) -> None:
    first, second = CHANGES[field]
    sentence = f"{field} cannot change while the job exists: delete it and create another"
    for name in ("full", "held"):
        assert sentence in change(jobs, name, field, second)
    assert sentence in change(jobs, "bare", field, first)


@pytest.mark.parametrize("field", [field for field in CHANGES if field != "entrypoint"])
def test_nothing_is_taken_away_either(jobs: Wire, field: str) -> None:
    assert f"{field} cannot change" in change(jobs, "full", field, None)


@pytest.mark.parametrize("field", PLACEMENT)
def test_where_a_job_runs_changes_only_while_it_is_suspended(jobs: Wire, field: str) -> None:
    _, second = PLACEMENT[field]
    sentence = f"{field} cannot change while the job exists: suspend the job first, or delete it"
    assert sentence in change(jobs, "full", field, second)
    assert sentence in change(jobs, "full", field, None)
    assert change(jobs, "held", field, second) == ""
    assert change(jobs, "held", field, None) == ""


@pytest.mark.parametrize("field", MUTABLE)
def test_what_is_done_with_a_job_may_change(jobs: Wire, field: str) -> None:
    for name in ("full", "bare"):
        assert change(jobs, name, field, MUTABLE[field][1]) == ""


# Taken


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda each: each.stem)
def test_every_example_is_taken(kubectl: Kubectl, file: Path) -> None:
    kubectl.run("apply", "--dry-run=server", "--validate=strict", "-f", str(file))


# Shown


@pytest.mark.parametrize("kind", OWN_KINDS)
def test_a_fresh_object_does_not_look_finished(kubectl: Kubectl, kind: str) -> None:
    """kstatus compares observedGeneration; a status in the manifest is not taken."""
    claimed = {"status": {"observedGeneration": 1, "conditions": []}}
    kubectl.apply(manifest(kind, "fresh") | claimed)
    found = kubectl.get(RESOURCES[kind].plural, "fresh")
    assert found
    assert found["status"] == {"observedGeneration": -1}


@pytest.mark.parametrize("definition", crds.DEFINITIONS, ids=lambda each: each.kind)
def test_kubectl_explains_every_field_in_our_words(
    kubectl: Kubectl, definition: crds.Definition
) -> None:
    printed = " ".join(kubectl.run("explain", f"{definition.short}.spec").split())
    for name, field in definition.spec.model_fields.items():
        assert field.description, name
        assert " ".join(field.description.split()) in printed
    assert definition.kind in kubectl.run("explain", definition.short)


COLUMNS = {
    "tj": "NAME READY REASON STEP NODES ATTEMPT VERSION AGE",
    "lm": "NAME READY REASON VERSION SCORE AGE",
    "lisvc": "NAME READY REASON VERSION REPLICAS DESIRED AGE",
}


def test_kubectl_get_shows_the_columns_by_short_name_and_by_category(kubectl: Kubectl) -> None:
    kubectl.apply(*(manifest(kind, "digits") for kind in OWN_KINDS))
    for short, columns in COLUMNS.items():
        head, row = kubectl.run("get", short).splitlines()
        assert head.split() == columns.split()
        assert row.startswith("digits")
        assert "MESSAGE" in kubectl.run("get", short, "-o", "wide")
    assert kubectl.run("get", "lepton", "-o", "name").split() == [
        "inferenceservice.lepton.ai/digits",
        "leptonmodel.lepton.ai/digits",
        "trainingjob.lepton.ai/digits",
    ]


SERVICES = RESOURCES["InferenceService"]


def test_a_service_is_scaled_whose_manifest_says_nothing_of_replicas(
    kubectl: Kubectl, wire: Wire
) -> None:
    kubectl.apply(manifest("InferenceService", "digits"))
    path = SERVICES.path(kubectl.namespace, "digits")
    assert wire.get(f"{path}/scale").body["spec"] == {"replicas": 1}
    kubectl.run("scale", "lisvc/digits", "--replicas=3")
    assert wire.get(path).body["spec"]["replicas"] == 3
    status = {"observedGeneration": 2, "selector": "a=b", "replicas": {"current": 2}}
    assert wire.replace_status(path, status).accepted
    assert wire.get(f"{path}/scale").body["status"] == {"replicas": 2, "selector": "a=b"}


def test_nobody_fights_over_an_object(kubectl: Kubectl, wire: Wire) -> None:
    """GitOps applies the manifest, the operator its status, an autoscaler the replicas."""
    applied = manifest("InferenceService", "digits") | {"status": {"url": "http://elsewhere"}}

    def apply() -> str:
        gitops = ("--server-side", "--field-manager=gitops")
        return kubectl.run("apply", *gitops, "-f", "-", given=json.dumps(applied))

    apply()
    path = SERVICES.path(kubectl.namespace, "digits")
    status = {"observedGeneration": 1, "url": "http://digits:8000"}
    assert wire.replace_status(path, status).accepted
    kubectl.run("scale", "lisvc/digits", "--replicas=3")
    before = wire.get(path).body
    assert "serverside-applied" in apply()
    after = wire.get(path).body
    assert after["metadata"]["resourceVersion"] == before["metadata"]["resourceVersion"]
    assert (after["spec"]["replicas"], after["status"]["url"]) == (3, status["url"])
