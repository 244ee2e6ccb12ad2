"""The chart on a real API server: what it takes, and what a release leaves or shares."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator
from copy import deepcopy
from pathlib import Path

import pytest
import yaml

from e2e.installation import CHART, RELEASE, SYSTEM
from e2e.kubectl import Kubectl, KubectlError
from e2e.waiting import wait_until
from tests.chart.conftest import CASES, TEAMS, Renders
from tests.helm import Document, Helm, HelmError, Releases

CRD = "trainingjobs.lepton.ai"
MODEL = {"apiVersion": "lepton.ai/v1alpha1", "kind": "LeptonModel", "metadata": {"name": "digits"}}
STRICTLY = ("--dry-run=server", "--validate=strict", "--warnings-as-errors")
# The CRDs are always the same; those of cert-manager and of prometheus-operator are not here.
ELSEWHERE = ("CustomResourceDefinition", "Certificate", "PodMonitor", "PrometheusRule")
ALONE = {"crds": {"create": False}, "priorityClasses": {"create": False}}


def judge(kubectl: Kubectl, documents: Iterable[Document]) -> None:
    """Have the API server look at documents of one namespace, or of none."""
    listed = {"apiVersion": "v1", "kind": "List", "items": list(documents)}
    kubectl.run("apply", *STRICTLY, "-f", "-", given=json.dumps(listed))


def within(namespace: str, documents: Iterable[Document]) -> list[Document]:
    return [each for each in documents if each["metadata"].get("namespace", SYSTEM) == namespace]


def pods(documents: Iterable[Document]) -> list[Document]:
    """What the controllers would make; of a template alone the API server only warns."""
    return [
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": each["metadata"],
            "spec": each["spec"]["template"]["spec"],
        }
        for each in documents
        if each["kind"] == "Deployment"
    ]


@pytest.mark.parametrize("case", CASES)
def test_the_api_server_takes_every_document_and_pod_without_a_warning(
    renders: Renders, kubectl: Kubectl, case: str
) -> None:
    documents = renders[case]
    if case != "default":
        documents = [each for each in documents if each["kind"] not in ELSEWHERE]
    assert pods(documents)
    judge(kubectl, within(SYSTEM, [*documents, *pods(documents)]))
    for team in TEAMS:
        if theirs := within(team, documents):
            judge(kubectl.within(team), theirs)


def test_the_judge_refuses_a_pod_that_may_be_root(renders: Renders, kubectl: Kubectl) -> None:
    (pod,) = deepcopy(pods(renders["default"]))
    pod["spec"]["securityContext"].pop("runAsNonRoot")
    with pytest.raises(KubectlError, match='violates PodSecurity "restricted:latest"'):
        judge(kubectl, [pod])


@pytest.fixture
def releases(helm: Helm, kubectl: Kubectl) -> Iterator[Releases]:
    """No release before and none after; what they keep is deleted by hand, as a person would."""
    found = Releases(helm, kubectl)
    yield found
    for name, namespace in found.all():
        found.uninstall(name, namespace)
    # The API server opens the store of a kind when its objects are first asked for. One that its
    # finalizer opens fails it once, and now and then it is then forgotten until the resync.
    for crd in found.names("crds"):
        found.names(crd)
    # Waited for: a CRD that is still going belongs to its old release when the next test installs.
    kubectl.run("delete", "crds", "--all", "--timeout=60s")
    # Nothing here takes a claim's finalizer away.
    kubectl.run("delete", "pvc", "--all", "--wait=false")


def test_an_upgrade_reaches_the_crds_and_keeps_what_cannot_change(
    releases: Releases, tmp_path: Path
) -> None:
    releases.install(CASES["store"], chart=_with_older_crds(tmp_path))
    before = releases.kubectl.get("deployment", RELEASE) or {}
    assert "Attempt" not in _columns(releases.kubectl)
    releases.install({**CASES["store"], "images": {"trainer": "localhost/lepton/trainer:next"}})
    assert "Attempt" in _columns(releases.kubectl)
    after = releases.kubectl.get("deployment", RELEASE) or {}
    assert after["spec"]["selector"] == before["spec"]["selector"]
    assert _checksum(after) != _checksum(before)


def test_an_uninstallation_keeps_the_crds_the_objects_and_the_models(releases: Releases) -> None:
    releases.install(CASES["store"])
    wait_until(lambda: _applied(releases.kubectl, MODEL), bool, "a server answers")
    releases.uninstall()
    kinds = (
        "deployments",
        "secrets",
        "serviceaccounts",
        "configmaps",
        "services",
        "poddisruptionbudgets",
    )
    assert [name for kind in kinds for name in releases.names(kind) if RELEASE in name] == []
    assert releases.names("leptonmodels") == ["digits"]
    assert releases.names("pvc") == [f"{RELEASE}-store"]
    # A release of another name takes over what this one has left.
    releases.install({}, "other", TEAMS[0], "--take-ownership")
    assert releases.names("leptonmodels") == ["digits"]


def test_an_upgrade_keeps_the_certificates_and_a_new_namespace_gets_one_of_the_same_authority(
    releases: Releases,
) -> None:
    system, team, other = (releases.kubectl.within(each) for each in (SYSTEM, *TEAMS))
    first = {"door": {"namespaces": [TEAMS[0]]}}
    releases.install(first)
    before = (_certificate(system, "lepton-operator-xds"), _certificate(team, "lepton-door"))
    releases.install(CASES["door"])
    after = (_certificate(system, "lepton-operator-xds"), _certificate(team, "lepton-door"))
    assert after == before
    assert _certificate(other, "lepton-door")["ca.crt"] == before[0]["ca.crt"]
    system.run("delete", "secret", "lepton-operator-xds-ca")
    releases.install(CASES["door"])
    renewed = [_certificate(each, "lepton-door")["ca.crt"] for each in (team, other)]
    assert renewed == [_certificate(system, "lepton-operator-xds")["ca.crt"]] * 2
    assert renewed[0] != before[0]["ca.crt"]


def test_a_second_release_looks_after_another_namespace(releases: Releases) -> None:
    releases.install({"watchNamespaces": [TEAMS[0]]})
    values = {"watchNamespaces": [TEAMS[1]]}
    with pytest.raises(HelmError, match="invalid ownership metadata"):
        releases.install(values, RELEASE, TEAMS[1])
    notes = releases.install({**ALONE, **values}, RELEASE, TEAMS[1])
    assert f"It looks after {TEAMS[1]} only" in notes
    assert "its pods ask for them: lepton-training, lepton-inference." in notes
    releases.uninstall(RELEASE, TEAMS[1])
    assert "lepton-training" in releases.names("priorityclasses")
    assert CRD in releases.names("crds")


def _certificate(kubectl: Kubectl, secret: str) -> dict[str, str]:
    found: dict[str, str] = (kubectl.get("secret", secret) or {})["data"]
    return found


def _with_older_crds(folder: Path) -> Path:
    """A copy of the chart whose CRD lacks a column."""
    older = folder / "older"
    shutil.copytree(CHART, older)
    file = older / "files" / "crds" / "trainingjobs.yaml"
    crd = yaml.load(file.read_text(), Loader=yaml.CSafeLoader)
    version = crd["spec"]["versions"][0]
    kept = [each for each in version["additionalPrinterColumns"] if each["name"] != "Attempt"]
    version["additionalPrinterColumns"] = kept
    file.write_text(yaml.dump(crd))
    return older


def _columns(kubectl: Kubectl) -> list[str]:
    found = kubectl.get("crd", CRD) or {}
    return [each["name"] for each in found["spec"]["versions"][0]["additionalPrinterColumns"]]


def _applied(kubectl: Kubectl, manifest: Document) -> bool:
    """A moment after its CRD a kind is not served yet."""
    try:
        kubectl.apply(manifest)
    except KubectlError:
        return False
    return True


def _checksum(deployment: Document) -> str:
    return str(deployment["spec"]["template"]["metadata"]["annotations"]["checksum/settings"])
