"""The rights that the chart grants are just those that the operator was seen to use."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from e2e.cluster import ControlPlane, control_plane
from e2e.cluster.layout import Layout
from e2e.installation import RELEASE, RESTRICTED, SYSTEM, TRITON
from e2e.kubectl import Kubectl
from e2e.waiting import wait_until
from lepton_operator import names
from tests.helm import Helm, Releases
from tests.integration.conftest import LEASE, Namespace, Operators, install_crds
from tests.integration.kubelet import Kubelet

ACCOUNTS = "system:serviceaccounts"
SEEN, GONE, SCALED = "an object is seen", "a pod is gone", "a service is scaled"
MODEL = {"version": 1, "digest": f"sha256:{'ab' * 32}", "sizeBytes": 1}
STRANGER = {
    "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
    "containers": [
        {
            "name": "stranger",
            "image": "stranger",
            "securityContext": {
                "allowPrivilegeEscalation": False,
                "capabilities": {"drop": ["ALL"]},
            },
        }
    ],
}
SERVED = {"model": {"name": "digits"}, "rollout": {"drainTimeoutSeconds": 1}}
DOOR_OBJECTS = (
    ("NetworkPolicy", "lepton-serve"),
    ("NetworkPolicy", "lepton-door"),
    ("Deployment", "lepton-door"),
    ("PodDisruptionBudget", "lepton-door"),
)


@dataclass(frozen=True, order=True)
class Right:
    """A verb on a kind of object."""

    verb: str
    group: str
    resource: str


@dataclass(frozen=True)
class Installation:
    """The chart in a namespace of its own, and an operator with the token of its account."""

    kubectl: Kubectl
    layout: Layout
    audited_before: int

    def granted(self) -> set[Right]:
        """What the roles say that are bound to the account."""
        chosen = ("-A", "-l", f"app.kubernetes.io/instance={RELEASE}", "-o", "json")
        listed = json.loads(self.kubectl.run("get", "clusterroles,roles", *chosen))
        return {
            Right(verb, group, resource)
            for role in listed["items"]
            for rule in role["rules"]
            for group in rule["apiGroups"]
            for resource in rule["resources"]
            for verb in rule["verbs"]
        }

    def requests(self) -> list[dict[str, Any]]:
        """What the operator asked of objects; to discover kinds everybody may."""
        user = f"system:serviceaccount:{self.kubectl.namespace}:{RELEASE}"
        events = islice(self.layout.audit_events(), self.audited_before, None)
        return [each for each in events if each["user"]["username"] == user and "objectRef" in each]


def used(events: Iterable[dict[str, Any]]) -> set[Right]:
    return {_right(each) for each in events}


def denied(events: Iterable[dict[str, Any]]) -> set[Right]:
    return {
        _right(each)
        for each in events
        if each["annotations"].get("authorization.k8s.io/decision") != "allow"
    }


def _right(event: dict[str, Any]) -> Right:
    target = event["objectRef"]
    parts = (target["resource"], target.get("subresource", ""))
    return Right(event["verb"], target.get("apiGroup", ""), "/".join(filter(None, parts)))


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """A control plane of its own, whose audit log has all that service accounts ask."""
    folder = tmp_path_factory.mktemp("audited")
    with control_plane(folder, audit=True, audited_readers=ACCOUNTS) as found:
        install_crds(found.api)
        yield found


Install = Callable[..., Installation]


@pytest.fixture
def install(plane: ControlPlane, tmp_path: Path) -> Iterator[Install]:
    """Install the chart, and start an operator from source in place of its pods."""
    kubectl = Kubectl(plane.kubeconfig, f"lepton-{plane.layout.name}", SYSTEM)
    releases = Releases(Helm(tmp_path), kubectl)
    system = make_namespace(plane, SYSTEM)
    operators = Operators(system, tmp_path / "token.kubeconfig", tmp_path)

    def installed(*namespaces: str) -> Installation:
        values = {"watchNamespaces": list(namespaces), "crds": {"create": False}, "triton": TRITON}
        releases.install(values)
        write_token_kubeconfig(operators.kubeconfig, plane, kubectl)
        before = sum(1 for _ in plane.layout.audit_events())
        operators.start(**settings(kubectl))
        return Installation(kubectl, plane.layout, before)

    yield installed
    for operator in operators.started:
        operator.end()
    releases.uninstall()
    system.delete("Lease", LEASE)


def make_namespace(plane: ControlPlane, name: str) -> Namespace:
    metadata = {"name": name, "labels": RESTRICTED}
    manifest = {"apiVersion": "v1", "kind": "Namespace", "metadata": metadata}
    plane.api.apply(f"/api/v1/namespaces/{name}", manifest)
    return Namespace(plane.api, name)


def settings(kubectl: Kubectl) -> dict[str, Any]:
    """The chart's, as the operator's pod would read them."""
    found = kubectl.get("configmap", RELEASE) or {}
    return dict(json.loads(found["data"]["settings.json"]))


def write_token_kubeconfig(file: Path, plane: ControlPlane, kubectl: Kubectl) -> None:
    server = {"server": plane.api.url, "certificate-authority": str(plane.authority.certificate)}
    token = kubectl.run("create", "token", RELEASE).strip()
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "here", "cluster": server}],
        "users": [{"name": RELEASE, "user": {"token": token}}],
        "contexts": [{"name": "here", "context": {"cluster": "here", "user": RELEASE}}],
        "current-context": "here",
    }
    file.write_text(json.dumps(content))


def test_a_cluster_wide_operator_uses_all_that_it_is_granted_and_no_more(
    plane: ControlPlane, install: Install
) -> None:
    work = make_namespace(plane, "everywhere")
    installation = install()
    work_in_every_way(work)
    assert_exact(installation)


def test_a_namespaced_operator_neither_needs_nor_asks_for_anything_elsewhere(
    plane: ControlPlane, install: Install
) -> None:
    work, elsewhere = make_namespace(plane, "here"), make_namespace(plane, "elsewhere")
    installation = install(work.name)
    elsewhere.train()
    work_in_every_way(work)
    requests = assert_exact(installation)
    assert {each["objectRef"]["namespace"] for each in requests} == {work.name, SYSTEM}
    ignored = elsewhere.get("TrainingJob", "digits") or {}
    assert ignored["status"] == {"observedGeneration": -1}
    assert elsewhere.pods() == []


def assert_exact(installation: Installation) -> list[dict[str, Any]]:
    """The last request may be on its way, so what is not used yet is waited for."""
    granted = installation.granted()
    wait_until(
        lambda: granted - used(installation.requests()), lambda unused: not unused, SEEN, "unused"
    )
    requests = installation.requests()
    assert denied(requests) == set()
    assert used(requests) == granted
    return requests


def work_in_every_way(work: Namespace) -> None:
    train_and_hand_over(work)
    train_again(work)
    serve(work)
    meet_strangers(work)
    close_the_door(work)


def train_and_hand_over(work: Namespace) -> None:
    """Two nodes train, the result becomes a version, and the job goes when its time has come."""
    kubelet = Kubelet(work)
    work.train(numNodes=2, output={"model": "digits"}, ttlSecondsAfterFinished=0)
    for rank in (0, 1):
        kubelet.run(f"digits-train-1-{rank}", f"10.0.0.{rank + 1}")
    work.wait_for_reason("TrainingJob", "digits", "Running")
    kubelet.succeed("digits-train-1-1", record())
    kubelet.succeed("digits-train-1-0", record(model=MODEL))
    kubelet.succeed("digits-index-1", record(versions=[MODEL]))
    wait_until(lambda: work.get("TrainingJob", "digits"), lambda found: found is None, GONE)


def train_again(work: Namespace) -> None:
    """A pod vanishes, which is believed only after a second look."""
    work.train("lossy")
    work.wait_for_reason("TrainingJob", "lossy", "Scheduling")
    work.delete("Pod", "lossy-train-1-0")
    wait_until(work.pods, lambda found: "lossy-train-2-0" in found, "an attempt is closed")


def serve(work: Namespace) -> None:
    """One of two serving pods becomes one too many; somebody changes the Service by hand; and two
    are the least.
    """
    work.apply("InferenceService", "digits", spec=SERVED | {"replicas": 2})
    for index in (0, 1):
        Kubelet(work).run(f"digits-serve-{index}", f"10.0.1.{index + 1}")
    work.wait_for_reason("InferenceService", "digits", "DoorNotReady")
    Kubelet(work).open_door()
    work.wait_for_reason("InferenceService", "digits", "Serving")
    mend(work)
    service = work.path("Service", "digits")
    work.api.patch(service, {"spec": {"selector": {"stranger": "yes"}}})
    wait_until(lambda: work.api.get(service), lambda found: "stranger" not in str(found), SEEN)
    work.apply("InferenceService", "digits", spec=SERVED | {"replicas": 1})
    wait_until(work.pods, lambda found: "digits-serve-1" not in found, GONE)
    bounds = {"minReplicas": 2, "maxReplicas": 2, "target": {"latencyMilliseconds": 500}}
    work.apply("InferenceService", "digits", spec=SERVED | {"autoscaling": bounds})
    own = work.path("InferenceService", "digits")
    wait_until(lambda: work.api.get(own), lambda it: it and it["spec"]["replicas"] == 2, SCALED)


def mend(work: Namespace) -> None:
    """Somebody changes by hand what protects the pods, and what is recorded of the door."""
    stranger = {"podSelector": {"matchLabels": {"stranger": "yes"}}}
    recorded = {"annotations": {names.RESOLVED: "stranger"}}
    changes: dict[tuple[str, str], dict[str, Any]] = {
        ("PodDisruptionBudget", "digits-serve"): {"spec": {"maxUnavailable": "99%"}},
        ("NetworkPolicy", "lepton-serve"): {"spec": stranger},
        ("Deployment", "lepton-door"): {"metadata": recorded},
    }
    for (kind, name), change in changes.items():
        path = work.path(kind, name)
        before = parts(wait_until(partial(work.api.get, path), bool, SEEN))
        work.api.patch(path, change)
        wait_until(partial(parts_at, work, path), before.__eq__, SEEN)


def parts_at(work: Namespace, path: str) -> tuple[Any, Any]:
    return parts(work.api.get(path))


def parts(found: dict[str, Any] | None) -> tuple[Any, Any]:
    """What the operator says of an object."""
    assert found
    return found["metadata"].get("annotations"), found["spec"]


def close_the_door(work: Namespace) -> None:
    """The last services go, and the door with them; others have its names when one comes."""
    specs = {each: (work.get(*each) or {})["spec"] for each in DOOR_OBJECTS}
    for name in ("digits", "taken"):
        work.delete("InferenceService", name)
    for (kind, name), spec in specs.items():
        wait_until(partial(work.get, kind, name), lambda found: found is None, GONE)
        work.apply(kind, name, spec=spec)
    work.apply("InferenceService", "last", spec=SERVED)
    work.wait_for_reason("InferenceService", "last", "Starting")


def meet_strangers(work: Namespace) -> None:
    """Objects of others have the names that ours would get."""
    work.apply("Service", "taken", spec={"ports": [{"port": 80}], "selector": {"app": "another"}})
    work.apply("InferenceService", "taken", spec=SERVED)
    work.wait_for_reason("InferenceService", "taken", "NameTaken")
    work.apply("Pod", "taken-train-1-0", spec=STRANGER)
    work.train("taken")
    work.wait_for_reason("TrainingJob", "taken", "NameTaken")


def record(**more: Any) -> str:
    """What a container leaves in its termination message."""
    return json.dumps({"outcome": "Succeeded", "reason": "Succeeded", **more})
