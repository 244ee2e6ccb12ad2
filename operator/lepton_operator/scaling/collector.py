"""What was decided of each service last, as Prometheus gauges: read when they are asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from lepton_operator.cache import Key
from lepton_operator.scaling.account import Account

_PLACE = ("namespace", "service")


class DecisionCollector(Collector):
    """Yields nothing where nothing was decided: a standby has no accounts."""

    def __init__(self, accounts: Callable[[], Iterable[tuple[Key, Account]]]) -> None:
        self._accounts = accounts

    def collect(self) -> Iterator[Metric]:
        """Yield the gauges of every service that asks for a latency."""
        replicas = GaugeMetricFamily(
            "lepton_autoscaler_replicas",
            "Replicas by their state: wanted, ready, starting.",
            labels=[*_PLACE, "state"],
        )
        value = GaugeMetricFamily(
            "lepton_autoscaler_value",
            "The metric that the last decision was made by.",
            labels=[*_PLACE, "metric"],
        )
        target = GaugeMetricFamily(
            "lepton_autoscaler_target",
            "What the replicas can hold of that metric.",
            labels=[*_PLACE, "metric"],
        )
        held = GaugeMetricFamily(
            "lepton_autoscaler_held",
            "1 while there is nothing to decide by.",
            labels=list(_PLACE),
        )
        for key, account in self._accounts():
            place, last, found = [key.namespace, key.name], account.last, account.replicas
            if last is None or found is None:
                continue
            replicas.add_metric([*place, "wanted"], last.replicas)
            replicas.add_metric([*place, "ready"], found.ready)
            replicas.add_metric([*place, "starting"], len(found.starting_ages))
            value.add_metric([*place, last.metric], last.value)
            target.add_metric([*place, last.metric], last.target)
            held.add_metric(place, float(last.held))
        yield from (replicas, value, target, held)
