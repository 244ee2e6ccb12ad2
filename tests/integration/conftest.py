"""A real API server over etcd, without nodes or controllers, and operators as processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from e2e.cluster.api import Api
from e2e.cluster.bare import control_plane
from e2e.cluster.control_plane import ControlPlane
from e2e.cluster.layout import ClusterError
from e2e.cluster.ports import free_port
from e2e.deadlines import DEADLINES_SECONDS
from e2e.waiting import wait_until
from lepton_operator import cluster as clusters
from lepton_operator.cluster import RESOURCES, Cluster
from lepton_operator.metrics import Metrics
from tests.integration import door as doors
from tests.integration.door import Door

ROOT = Path(__file__).parents[2]
CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
SERVES = "a server answers"
IMAGES = {kind: f"{kind}:test" for kind in ("agent", "trainer", "triton", "door")}
DEFAULTS = {"images": IMAGES, "triton": {"minimumVersion": "2.51.0"}}
LEASE = "lepton-operator"
# Long enough for two busy cores; tests about the Lease choose their own.
PATIENT_LEASE = {"leaseSeconds": 60, "renewDeadlineSeconds": 40, "retrySeconds": 1}

Json = Mapping[str, Any]
Names = list[str]


@pytest.fixture(scope="session")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    with control_plane(tmp_path_factory.mktemp("plane")) as found:
        install_crds(found.api)
        yield found


def install_crds(api: Api) -> None:
    """Have our kinds served."""
    for file in sorted((ROOT / "crds").glob("*.yaml")):
        crd = yaml.safe_load(file.read_text())
        api.apply(f"{CRDS}/{crd['metadata']['name']}", crd)
    wait_until(lambda: all(map(partial(serves, api), clusters.OWN_KINDS)), bool, SERVES)


def serves(api: Api, kind: str) -> bool:
    """Whether a kind is served: a moment after its CRD its storage is not ready yet (429)."""
    try:
        return api.get(RESOURCES[kind].path()) is not None
    except ClusterError:
        return False


@dataclass(frozen=True)
class Namespace:
    """A namespace of one test, and what a person does in it."""

    api: Api
    name: str

    def path(self, kind: str, name: str = "", subresource: str = "") -> str:
        return RESOURCES[kind].path(self.name, name, subresource)

    def get(self, kind: str, name: str) -> dict[str, Any] | None:
        return self.api.get(self.path(kind, name))

    def list(self, kind: str) -> list[dict[str, Any]]:
        found = self.api.get(self.path(kind)) or {}
        return sorted(found["items"], key=lambda each: str(each["metadata"]["name"]))

    def apply(self, kind: str, name: str, **parts: Any) -> None:
        manifest = {
            "apiVersion": RESOURCES[kind].api_version,
            "kind": kind,
            "metadata": {"name": name, "namespace": self.name},
        }
        self.api.apply(self.path(kind, name), manifest | parts)

    def train(self, name: str = "digits", **spec: Any) -> None:
        self.apply("TrainingJob", name, spec={"entrypoint": ["train.py"], **spec})

    def delete(self, kind: str, name: str) -> None:
        self.api.delete(self.path(kind, name))

    def end_pod(self, name: str, **terminated: Any) -> None:
        """Say what a kubelet would say: the pod's container ended."""
        pod = self.get("Pod", name)
        assert pod
        state = {"terminated": {"exitCode": 1, "reason": "Error", **terminated}}
        status = {"name": "train", "ready": False, "restartCount": 0, "state": state}
        required = {"image": "trainer:test", "imageID": ""}
        change = {"phase": "Failed", "containerStatuses": [status | required]}
        self.api.patch(self.path("Pod", name, "status"), {"status": change})

    def pods(self) -> Names:
        return [pod["metadata"]["name"] for pod in self.list("Pod")]

    def wait_for_pods(self, *names: str) -> None:
        wait_until(self.pods, lambda found: found == sorted(names), "an object is seen")

    def wait_for_reason(self, kind: str, name: str, reason: str) -> str:
        """Wait for the reason of Ready; return its message."""

        def look() -> dict[str, Any]:
            found = self.get(kind, name) or {}
            conditions = found.get("status", {}).get("conditions", ())
            return next((each for each in conditions if each["type"] == "Ready"), {})

        seen = wait_until(look, lambda found: found.get("reason") == reason, "a condition shows")
        return str(seen["message"])


@dataclass
class Operator:
    """An operator as a process of its own."""

    process: subprocess.Popen[bytes]
    log: Path
    port: int

    def says(self, text: str) -> bool:
        return text in self.log.read_text()

    def wait_until_it_says(self, text: str) -> None:
        wait_until(self.log.read_text, lambda seen: text in seen, "the operator leads", text)

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def wait(self) -> int:
        """Return its exit code, once it has ended."""
        return self.process.wait(DEADLINES_SECONDS["the operator ends"])

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.terminate()
            try:
                self.wait()
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        print(f"--- {self.log}\n{self.log.read_text()}")


@dataclass
class Operators:
    """Starts operators that see one namespace only, and have their Lease in it."""

    namespace: Namespace
    kubeconfig: Path
    folder: Path
    started: list[Operator] = field(default_factory=list)

    def start(
        self, identity: str = "first", kubeconfig: Path | None = None, **settings: Any
    ) -> Operator:
        """Start one and wait until it leads or stands by."""
        number = len(self.started)
        file = self.folder / f"settings-{number}.json"
        port = free_port()
        chosen = {
            "defaults": DEFAULTS,
            "watchNamespaces": [self.namespace.name],
            "leaderElection": PATIENT_LEASE,
            "httpPort": port,
            **settings,
        }
        file.write_text(json.dumps(chosen))
        log = self.folder / f"operator-{number}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "lepton_operator", "run"),
                    *("--settings", str(file)),
                    *("--kubeconfig", str(kubeconfig or self.kubeconfig)),
                ],
                stderr=output,
                env=os.environ | {"POD_UID": identity, "POD_NAMESPACE": self.namespace.name},
            )
        operator = Operator(process, log, port)
        self.started.append(operator)
        wait_until(
            log.read_text,
            lambda seen: "Everything is listed" in seen or "Standing by" in seen,
            "the operator leads",
        )
        return operator

    def lease(self) -> dict[str, Any]:
        found = self.namespace.get("Lease", LEASE) or {}
        return dict(found.get("spec", {}))


@pytest.fixture
def namespace(plane: ControlPlane, request: pytest.FixtureRequest) -> Namespace:
    name = request.node.name.replace("_", "-").split("[")[0].lower()[-40:].strip("-")
    manifest = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
    plane.api.apply(f"/api/v1/namespaces/{name}", manifest)
    return Namespace(plane.api, name)


@pytest.fixture
def operators(plane: ControlPlane, namespace: Namespace, tmp_path: Path) -> Iterator[Operators]:
    found = Operators(namespace, plane.layout.kubeconfig, tmp_path)
    try:
        yield found
    finally:
        for operator in found.started:
            operator.end()


@pytest.fixture
def door() -> Iterator[Door]:
    """A door that answers at its address; `Kubelet.open_door` has its pod there."""
    with doors.serving() as found:
        yield found


@pytest.fixture
async def client(plane: ControlPlane) -> AsyncIterator[Cluster]:
    """The operator's own client."""
    found = await clusters.connect(plane.layout.kubeconfig, Metrics())
    yield found
    await found.close()
