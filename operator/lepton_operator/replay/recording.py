"""What was known of one service over a time, as Prometheus tells it; kept in a file of JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import msgspec

from lepton_operator.signals import prometheus
from lepton_operator.signals.counts import Counts, Service
from lepton_operator.signals.prometheus import Series, SignalError, Times

STEP_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Look:
    """What was known at a time, in seconds since the epoch; `wanted` is spec.replicas."""

    time: float
    counts: Counts
    ready: int
    starting: int
    wanted: int


@dataclass(frozen=True, slots=True)
class Recording:
    """The looks at a service, `step_seconds` apart."""

    namespace: str
    service: str
    step_seconds: float
    looks: tuple[Look, ...]

    def write(self, path: Path) -> None:
        """Write it to a file; raises OSError."""
        path.write_bytes(msgspec.json.encode(self))

    @property
    def doors(self) -> int:
        """The most doors that told something at once."""
        return max((len(look.counts.doors) for look in self.looks), default=0)


def load(path: Path) -> Recording:
    """Read a file; raises OSError and ValueError."""
    return msgspec.json.decode(path.read_bytes(), type=Recording)


async def record(
    url: str, matchers: Mapping[str, str], service: Service, times: Times
) -> Recording:
    """Ask a Prometheus; raises SignalError."""
    counted = prometheus.query(matchers, [service.namespace], service.name)
    async with aiohttp.ClientSession() as session:
        counts = await prometheus.read_range(session, url, counted, times)
        pods = await prometheus.read_range(session, url, _replicas(matchers, service), times)
    known, replicas = prometheus.at_each_step(counts), _by_time(pods)
    looks = (
        _look(at, known.get(at, {}).get(service, Counts()), replicas[at]) for at in sorted(replicas)
    )
    found = Recording(service.namespace, service.name, times.step_seconds, tuple(looks))
    if not any(look.counts.doors for look in found.looks):
        raise SignalError(
            f"Prometheus knows nothing of {service.namespace}/{service.name} in this time: neither "
            "what doors counted (envoy_http_downstream_rq_total) nor how many replicas there were "
            "(lepton_autoscaler_replicas, or else envoy_cluster_membership_healthy)."
        )
    return found


def _replicas(matchers: Mapping[str, str], service: Service) -> str:
    """Return the query for the replicas: the operator's, and what doors know where it tells none.

    Who scrapes the operator calls its own namespace `namespace`, and the service's
    `exported_namespace`, unless the scrape honours labels.
    """
    chosen = [f"{name}={prometheus.quoted(value)}" for name, value in sorted(matchers.items())]
    named = f"service={prometheus.quoted(service.name)}"
    within = prometheus.quoted(service.namespace)
    own, theirs = (
        f"lepton_autoscaler_replicas{{{','.join((f'{label}={within}', named, *chosen))}}}"
        for label in ("exported_namespace", "namespace")
    )
    healthy = ",".join((f"namespace={within}", named, *chosen))
    told = f'label_replace({own} or {theirs}, "counted", "$1", "state", "(.*)")'
    doors = prometheus.named("healthy", f"max(envoy_cluster_membership_healthy{{{healthy}}})")
    return f"max by (counted) ({told}) or {doors}"


def _by_time(series: list[Series]) -> dict[float, dict[str, int]]:
    found: dict[float, dict[str, int]] = {}
    for each in series:
        for value in each.values:
            found.setdefault(value.at, {})[each.metric.reckoned] = int(float(value.text))
    return found


def _look(at: float, counts: Counts, replicas: Mapping[str, int]) -> Look:
    ready = replicas.get("ready", replicas.get("healthy", 0))
    starting = replicas.get("starting", 0)
    return Look(at, counts, ready, starting, replicas.get("wanted", ready + starting))
