"""Helm with a file of values, as a person gives them to it."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from e2e.cluster import tool
from e2e.cluster.tools import KUBERNETES_VERSION
from e2e.installation import CHART, RELEASE, SYSTEM
from e2e.kubectl import Kubectl

Document = dict[str, Any]
Values = Mapping[str, Any]


class HelmError(RuntimeError):
    """Helm said no; the text is what it printed."""


@dataclass(frozen=True, slots=True)
class Helm:
    """Helm, with a folder for what it is given."""

    folder: Path

    def run(self, *arguments: str, values: Values | None = None) -> str:
        file = self.folder / "values.json"
        file.write_text(json.dumps(values))
        given = () if values is None else ("--values", str(file))
        argv = (str(tool("helm")), *arguments, *given)
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise HelmError(done.stderr.strip() or done.stdout.strip())
        return done.stdout

    def render(self, values: Values | None = None, namespace: str = SYSTEM) -> list[Document]:
        where = ("--namespace", namespace, "--kube-version", KUBERNETES_VERSION)
        text = self.run("template", RELEASE, str(CHART), *where, values=values)
        return [each for each in yaml.load_all(text, Loader=yaml.CSafeLoader) if each]


@dataclass(frozen=True, slots=True)
class Releases:
    """Releases of the chart, none of which waits for pods: there is nothing that runs them."""

    helm: Helm
    kubectl: Kubectl

    def install(
        self,
        values: Values | None = None,
        name: str = RELEASE,
        namespace: str = SYSTEM,
        *more: str,
        chart: Path = CHART,
    ) -> str:
        """Install or upgrade; what Helm prints ends with the chart's notes."""
        where = ("--namespace", namespace, *self._target(), *more)
        return self.helm.run("upgrade", "--install", name, str(chart), *where, values=values)

    def uninstall(self, name: str = RELEASE, namespace: str = SYSTEM) -> None:
        self.helm.run("uninstall", name, "--namespace", namespace, *self._target())

    def all(self) -> list[tuple[str, str]]:
        listed = self.helm.run("list", "--all", "-A", "-o", "json", *self._target())
        return [(each["name"], each["namespace"]) for each in json.loads(listed)]

    def names(self, kind: str, namespace: str = SYSTEM) -> list[str]:
        found = self.kubectl.within(namespace).list(kind)
        return [each["metadata"]["name"] for each in found]

    def _target(self) -> tuple[str, ...]:
        at = self.kubectl
        return ("--kubeconfig", str(at.kubeconfig), "--kube-context", at.context)
