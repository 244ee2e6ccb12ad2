"""What a kubelet would say of pods in an API server that has none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from e2e.waiting import wait_until
from lepton_operator import names
from tests.integration.conftest import Namespace

_STARTED = "2026-11-22T04:00:00Z"
DOOR = "lepton-door-0"
# Of the `restricted` Pod Security Standard.
_DOOR_SPEC = {
    "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
    "containers": [
        {
            "name": "door",
            "image": "door:test",
            "securityContext": {
                "allowPrivilegeEscalation": False,
                "capabilities": {"drop": ["ALL"]},
            },
        }
    ],
}


@dataclass(frozen=True, slots=True)
class Kubelet:
    """Plays the pods of one namespace, as soon as they are there."""

    namespace: Namespace

    def run(self, name: str, address: str = "10.0.0.1") -> None:
        """All containers run, and the pod is ready."""
        conditions = ("Initialized", "ContainersReady", "Ready")
        self._say(
            name,
            {"running": {"startedAt": _STARTED}},
            phase="Running",
            podIP=address,
            podIPs=[{"ip": address}],
            conditions=[
                {"type": each, "status": "True", "lastTransitionTime": _STARTED}
                for each in conditions
            ],
        )

    def bind(self, name: str, node: str) -> None:
        """Put a pod on a node, as a scheduler does."""
        target = {"apiVersion": "v1", "kind": "Node", "name": node}
        binding = {"apiVersion": "v1", "kind": "Binding", "metadata": {"name": name}}
        path = self.namespace.path("Pod", name, "binding")
        self.namespace.api.create(path, {**binding, "target": target})

    def lose(self, name: str) -> None:
        """Say what the node controller says of a pod whose kubelet is silent."""
        conditions = [{"type": "Ready", "status": "False", "lastTransitionTime": _STARTED}]
        path = self.namespace.path("Pod", name, "status")
        self.namespace.api.patch(path, {"status": {"conditions": conditions}})

    def end(self, name: str) -> None:
        """A pod on a node that was deleted is gone once its kubelet says so."""
        self.namespace.api.delete(f"{self.namespace.path('Pod', name)}?gracePeriodSeconds=0")

    def open_door(self, address: str = "10.0.9.1") -> None:
        """A pod of the namespace's door is ready: nobody makes those of a Deployment here."""
        metadata = {"labels": names.door_labels(), "name": DOOR}
        self.namespace.apply("Pod", DOOR, metadata=metadata, spec=_DOOR_SPEC)
        self.run(DOOR, address)

    def succeed(self, name: str, record: str) -> None:
        """All containers ended by 0, and left this record."""
        ended = {"exitCode": 0, "reason": "Completed", "message": record, "finishedAt": _STARTED}
        self._say(name, {"terminated": ended}, phase="Succeeded")

    def _say(self, name: str, state: Mapping[str, Any], **status: Any) -> None:
        pod = wait_until(lambda: self.namespace.get("Pod", name), bool, "an object is seen", name)
        containers = [
            {
                "name": each["name"],
                "image": each["image"],
                "imageID": "",
                "ready": "running" in state,
                "restartCount": 0,
                "state": state,
            }
            for each in (pod or {})["spec"]["containers"]
        ]
        change = {"status": {**status, "containerStatuses": containers}}
        self.namespace.api.patch(self.namespace.path("Pod", name, "status"), change)
