"""What is asked of others than the API server's watches, beside the work on objects."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from lepton_operator.cache import Cache, Key
from lepton_operator.capacity import Capacity
from lepton_operator.cluster import Cluster
from lepton_operator.downloads import Downloads
from lepton_operator.listening import Listening
from lepton_operator.metrics import Metrics
from lepton_operator.outliers import Outliers
from lepton_operator.scaling.autoscaler import Autoscaler, autoscaler
from lepton_operator.settings import Settings
from lepton_operator.telemetry import Telemetry
from lepton_operator.traffic import Traffic


@dataclass(frozen=True, slots=True)
class Readers:
    """Each keeps what it was told last. `capacity` is None where nodes may not be seen."""

    telemetry: Telemetry
    traffic: Traffic
    listening: Listening
    outliers: Outliers
    downloads: Downloads
    autoscaler: Autoscaler
    capacity: Capacity | None

    def runs(self, wake: Callable[[Key], None]) -> list[Coroutine[Any, Any, None]]:
        """Return what has to run; `wake` is told about whose pods there is news."""
        every = (
            self.telemetry,
            self.traffic,
            self.listening,
            self.outliers,
            self.downloads,
            self.autoscaler,
        )
        asked = [each.run(wake) for each in every]
        return [*asked, self.capacity.run(wake)] if self.capacity is not None else asked


def readers(cluster: Cluster, cache: Cache, settings: Settings, metrics: Metrics) -> Readers:
    """Return readers that have been told nothing yet."""
    sees_nodes = not settings.watch_namespaces
    return Readers(
        Telemetry(cache),
        Traffic(cache),
        Listening(cache),
        Outliers(cache),
        Downloads(cache),
        autoscaler(cluster, cache, settings, metrics),
        Capacity(cluster, cache, settings.defaults.gpu_resource) if sees_nodes else None,
    )
