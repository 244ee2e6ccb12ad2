"""The ledgers of all TrainingJobs as Prometheus counters: read from their statuses when asked for.

A status outlives pods and operators, so the counters go on where they were. They are as fresh as
the status, which is written each 30 s while a training tells something new.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from lepton_operator.api.training import Spent
from lepton_operator.cache import Cache
from lepton_operator.training.ledger import held_for_nothing

_KIND = "TrainingJob"
_UNOBSERVED = "unobserved"
_WASTED = "wastedGpuSeconds"
_UNSETTLED = 2  # the last attempt, and the one before it, of which pods that were kept tell yet


class LedgerCollector(Collector):
    """Yields what is in the cache at that moment, if this is the operator that is to tell it."""

    def __init__(self, cache: Cache, tells: Callable[[], bool]) -> None:
        self._cache = cache
        self._tells = tells

    def collect(self) -> Iterator[Metric]:
        """Yield the counters of every job that has a ledger."""
        labels = ["namespace", "training_job"]
        time = CounterMetricFamily(
            "lepton_trainingjob_seconds",
            "What the time of a TrainingJob went into.",
            labels=[*labels, "class"],
        )
        gpus = CounterMetricFamily(
            "lepton_trainingjob_gpu_seconds",
            "GPU seconds that a TrainingJob held, by their use: useful or wasted.",
            labels=[*labels, "use"],
        )
        for job, status in self._statuses():
            for name, seconds in settled(status).items():
                time.add_metric([*job, name], seconds)
            gpus.add_metric([*job, "useful"], _number(status["ledger"].get("usefulGpuSeconds")))
            gpus.add_metric([*job, "wasted"], settled_waste(status))
        yield from (time, gpus)

    def _statuses(self) -> Iterator[tuple[list[str], Mapping[str, Any]]]:
        if not self._tells():
            return
        for key in self._cache.own_keys():
            own = self._cache.own(key) if key.kind == _KIND else None
            if own is not None and own.body["status"].get("ledger"):
                yield [key.namespace, key.name], own.body["status"]


def settled(status: Mapping[str, Any]) -> dict[str, float]:
    """Return the classes but for what may still be known better, since a counter never falls."""
    found = _spent(status["ledger"])
    for ledger in _unsettled(status):
        found[_UNOBSERVED] -= _number(ledger.get(_UNOBSERVED))
    return {name: max(0.0, seconds) for name, seconds in found.items()}


def settled_waste(status: Mapping[str, Any]) -> float:
    """Return the wasted GPU seconds, without the unobserved part that may prove useful."""
    found = _number(status["ledger"].get(_WASTED))
    for ledger in _unsettled(status):
        spent = _spent(ledger)
        if spent[_UNOBSERVED] > 0:
            part = spent[_UNOBSERVED] / held_for_nothing(spent)
            found -= _number(ledger.get(_WASTED)) * part
    return max(0.0, found)


def _spent(ledger: Mapping[str, Any]) -> dict[str, float]:
    return {name: _number(ledger.get(name)) for name in Spent.model_fields}


def _unsettled(status: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    attempts = (status.get("attempts") or ())[-_UNSETTLED:]
    return [each.get("ledger") or {} for each in attempts]


def _number(text: str | None) -> float:
    return float(text) if text else 0.0
