"""kubectl against one cluster and namespace, as a user would type it."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from e2e.cluster import tool

Manifest = Mapping[str, Any]


class KubectlError(RuntimeError):
    """kubectl said no; the text is what it printed."""


@dataclass(frozen=True, slots=True)
class Kubectl:
    """Where kubectl acts: always a kubeconfig and a context named on purpose."""

    kubeconfig: Path
    context: str
    namespace: str = "default"

    def within(self, namespace: str) -> Kubectl:
        return replace(self, namespace=namespace)

    def run(self, *arguments: str, given: str | None = None, timeout_seconds: float = 60) -> str:
        """Run kubectl and return what it printed.

        Raises:
            KubectlError: with kubectl's own sentence, if its exit code is not 0.
        """
        done = subprocess.run(
            [*self._prefix(), *arguments],
            input=given,
            capture_output=True,
            text=True,
            timeout=timeout_seconds,
            check=False,
        )
        if done.returncode != 0:
            raise KubectlError(done.stderr.strip() or done.stdout.strip())
        return done.stdout

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start kubectl and return it running: what it prints comes by its stdout."""
        return subprocess.Popen(
            [*self._prefix(), *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def apply(self, *manifests: Manifest) -> None:
        listed = {"apiVersion": "v1", "kind": "List", "items": [dict(each) for each in manifests]}
        self.run("apply", "-f", "-", given=json.dumps(listed))

    def apply_file(self, path: Path) -> None:
        self.run("apply", "-f", str(path))

    def get(self, kind: str, name: str) -> dict[str, Any] | None:
        """Return the object, or None if there is none."""
        text = self.run("get", kind, name, "-o", "json", "--ignore-not-found")
        found: dict[str, Any] | None = json.loads(text) if text else None
        return found

    def list(self, kind: str, selector: str = "") -> Sequence[dict[str, Any]]:
        chosen = ("-l", selector) if selector else ()
        items: list[dict[str, Any]] = json.loads(self.run("get", kind, "-o", "json", *chosen))[
            "items"
        ]
        return items

    def delete(self, kind: str, name: str, *more: str) -> None:
        self.run("delete", kind, name, "--ignore-not-found", *more, timeout_seconds=120)

    def logs(self, pod: str, *more: str) -> str:
        return self.run("logs", pod, *more)

    def _prefix(self) -> tuple[str, ...]:
        where = ("--kubeconfig", str(self.kubeconfig), "--context", self.context)
        return (str(tool("kubectl")), *where, "--namespace", self.namespace)
