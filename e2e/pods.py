"""Pods that clients make themselves, under the `restricted` standard like any other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def restricted_pod(name: str, container: Mapping[str, Any], **spec: Any) -> dict[str, Any]:
    """Return a pod of one container; `spec` is further fields of the pod's spec."""
    security = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name},
        "spec": {
            "securityContext": {
                "runAsNonRoot": True,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [{**container, "securityContext": security}],
            **spec,
        },
    }


def program_pod(name: str, container: Mapping[str, Any], **spec: Any) -> dict[str, Any]:
    """Return such a pod that runs a program once, as a user of its own."""
    pod = restricted_pod(
        name, container, restartPolicy="Never", automountServiceAccountToken=False, **spec
    )
    pod["spec"]["securityContext"]["runAsUser"] = 1000
    return pod


def ended(pod: Mapping[str, Any] | None) -> bool:
    return pod is not None and pod["status"].get("phase") in {"Succeeded", "Failed"}
