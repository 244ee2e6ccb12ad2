"""Every manifest in examples/, applied as it is; and what the README promises of the first."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from e2e import demo, installation
from e2e.cluster.target import Target
from e2e.installation import ROOT, SYSTEM
from e2e.kubectl import Kubectl
from e2e.waiting import is_ready, is_true, wait_until

EXAMPLES = sorted((ROOT / "examples").glob("*.yaml"))
KINDS = "trainingjobs,leptonmodels,inferenceservices"
SHARED_FOLDER = "examples"


@pytest.fixture(scope="module")
def applied(installed: Target) -> Iterator[Kubectl]:
    """A namespace in which all examples have come to rest: the one training of a session."""
    name = "e2e-examples"
    kubectl = installation.kubectl(installed, name)
    installation.make_namespace(kubectl, name)
    installation.give_store(kubectl)
    installation.give_door(kubectl)
    with shared_folder(installed):
        for file in EXAMPLES:
            kubectl.apply_file(file)

        def unfinished() -> list[str]:
            return [each["metadata"]["name"] for each in kubectl.list(KINDS) if not at_rest(each)]

        wait_until(unfinished, lambda left: not left, "everything is ready")
        yield kubectl
        kubectl.delete("namespace", name, "--wait=false")


@contextmanager
def shared_folder(target: Target) -> Iterator[None]:
    """What a user's cluster has and the embedded one has not: a volume for all nodes."""
    if target.embedded is None:
        yield
        return
    folder = target.embedded.layout.state / SHARED_FOLDER
    folder.mkdir(parents=True)
    folder.chmod(0o777)
    real_nodes = {"key": "node.lepton.ai/e2e", "operator": "In", "values": ["true"]}
    volume = {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": SHARED_FOLDER},
        "spec": {
            "capacity": {"storage": "1Gi"},
            "accessModes": ["ReadWriteMany"],
            "local": {"path": str(folder)},
            "nodeAffinity": {
                "required": {"nodeSelectorTerms": [{"matchExpressions": [real_nodes]}]}
            },
        },
    }
    kubectl = installation.kubectl(target, SYSTEM)
    kubectl.apply(volume)
    yield
    kubectl.delete("pv", SHARED_FOLDER, "--wait=false")
    shutil.rmtree(folder, ignore_errors=True)


def at_rest(each: dict[str, Any]) -> bool:
    return is_true(each, "Complete") if each["kind"] == "TrainingJob" else is_ready(each)


def test_the_served_model_was_trained_gated_and_evaluated_on_unseen_digits(
    applied: Kubectl,
) -> None:
    model = applied.get("leptonmodel", "digits")
    assert model is not None
    (version,) = model["status"]["versions"]
    lineage = version["lineage"]
    assert lineage["trainingJob"] == "digits"
    assert re.fullmatch("sha256:[0-9a-f]{12}", lineage["imageDigest"])
    assert re.fullmatch("sha256:[0-9a-f]{12}", lineage["dataDigest"])
    assert version["gate"]["outcome"] == "Passed"
    assert version["evaluation"]["samples"] == 2000
    assert float(version["evaluation"]["metrics"]["accuracy"]) >= 0.92


def test_triton_reads_a_digit_over_the_service(applied: Kubectl) -> None:
    told = demo.predict(applied)
    assert re.search(r"The model reads: \d", told), told


@pytest.mark.parametrize("words", ["Ready", "Reason", "Age"])
def test_kubectl_get_shows_what_matters(applied: Kubectl, words: str) -> None:
    listed = applied.run("get", "tj,lm,lisvc")
    assert listed.count(words.upper()) == 3


def test_the_category_lists_all_three_kinds(applied: Kubectl) -> None:
    listed = applied.run("get", "lepton", "-o", "name").split()
    assert {line.partition("/")[0] for line in listed} == {
        "trainingjob.lepton.ai",
        "leptonmodel.lepton.ai",
        "inferenceservice.lepton.ai",
    }
