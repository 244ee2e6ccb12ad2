"""Which cluster a command works on: the embedded one, or one that a person named on purpose."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from e2e.cluster.cluster import Cluster
from e2e.cluster.layout import LOCKS, ClusterError, lock

KUBECONFIG = "LEPTON_KUBECONFIG"
CONTEXT = "LEPTON_CONTEXT"


@dataclass(frozen=True)
class Target:
    """A cluster as its clients see it; `embedded` is None for a person's own."""

    kubeconfig: Path
    context: str
    embedded: Cluster | None = None

    def alone(self, purpose: str) -> AbstractContextManager[None]:
        """One process of this machine at a time does this to an embedded cluster."""
        if self.embedded is None:
            return nullcontext()
        name = self.embedded.name
        waiting = f"Another process is busy with the {purpose} of cluster {name!r}; waiting ..."
        return lock(LOCKS / f"{name}.{purpose}.lock", waiting)


def own(environment: Mapping[str, str] = os.environ) -> Target | None:
    """The person's own cluster, if both its kubeconfig and its context are named.

    A plain KUBECONFIG in the environment, or a current context, never chooses a cluster: tests
    would run on whatever was looked at last.
    """
    kubeconfig, context = environment.get(KUBECONFIG), environment.get(CONTEXT)
    if not kubeconfig and not context:
        return None
    if not kubeconfig or not context:
        missing = KUBECONFIG if not kubeconfig else CONTEXT
        raise ClusterError(
            f"{missing} is not set. To run on a cluster of your own name both its kubeconfig and "
            "its context (`make ... KUBECONFIG=file CONTEXT=name`); to run on the embedded "
            "cluster name neither."
        )
    path = Path(kubeconfig).expanduser().resolve()
    if not path.is_file():
        raise ClusterError(f"{KUBECONFIG} names {path}, and there is no such file.")
    return Target(path, context)


def of(cluster: Cluster) -> Target:
    return Target(cluster.kubeconfig, cluster.context, cluster)
