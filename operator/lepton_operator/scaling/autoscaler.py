"""Sets the number of replicas of every service that asks for a latency, each two seconds.

Beside the work on objects, and as others do it: through `/scale`. Where an HPA scales a service,
and where nothing is known, the number stays as it is.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from pydantic import ValidationError

from lepton_operator import errors, logs, names
from lepton_operator.api.autoscaling import Autoscaling
from lepton_operator.api.inference import InferenceService
from lepton_operator.autoscale.values import Decision, Samples, Spec
from lepton_operator.build.door import HEALTH_PORT
from lepton_operator.cache import Cache, Key, OwnObject
from lepton_operator.cluster import Cluster
from lepton_operator.conditions import Extra
from lepton_operator.inference.draining import takes_requests
from lepton_operator.metrics import Metrics
from lepton_operator.parsing import inference_service
from lepton_operator.scaling.account import Account, begun
from lepton_operator.scaling.asked import asked
from lepton_operator.scaling.collector import DecisionCollector
from lepton_operator.scaling.replicas import replicas, samples_of
from lepton_operator.scaling.saying import active, at_zero, by_another, limits, never_asked, refused
from lepton_operator.scaling.sources import (
    Sources,
    Told,
    ended,
    fresh,
    is_over,
    sources,
    started,
    wait_a_while,
    why_not,
)
from lepton_operator.settings import Settings
from lepton_operator.signals.counts import Counts, Service
from lepton_operator.views import PodView, ScalingView

ROUND_SECONDS = 2.0
# Between them doors and watches have their turn.
_SERVICES_AT_A_TIME = 25

Wake = Callable[[Key], None]

_log = logs.logger(__name__)


@dataclass(frozen=True, slots=True)
class _Doors:
    """The doors of a namespace that may have requests, by their names; and the ready ones."""

    pods: Mapping[str, PodView]
    ready: frozenset[str]


@dataclass(frozen=True, slots=True)
class _Scaled:
    """A service that asks for a latency, as it is at this look."""

    own: OwnObject
    service: InferenceService
    wanted: Autoscaling
    doors: _Doors
    account: Account

    @property
    def place(self) -> Service:
        return Service(self.own.key.namespace, self.own.key.name)


@dataclass(frozen=True, slots=True)
class _Heard:
    """What Prometheus and doors told last, and why Prometheus did not, if it did not."""

    prometheus: Told
    max_age_seconds: float
    why: str = ""
    doors: Told = field(default_factory=dict)

    def by_prometheus(self, scaled: _Scaled, now: float) -> Counts:
        told = self.prometheus.get(scaled.place)
        return fresh(told, scaled.doors.pods, now, self.max_age_seconds)

    def by_doors(self, scaled: _Scaled, now: float) -> Counts:
        return fresh(self.doors.get(scaled.place), scaled.doors.pods, now, self.max_age_seconds)

    def why_not_prometheus(self, scaled: _Scaled, now: float) -> str:
        told = self.prometheus.get(scaled.place)
        return self.why or why_not(told, scaled.doors.pods, now, self.max_age_seconds)


class Autoscaler:
    """Looks at all services, and remembers of each what the law needs of the past."""

    def __init__(
        self,
        cluster: Cluster,
        cache: Cache,
        settings: Settings,
        metrics: Metrics,
        port: int = HEALTH_PORT,
    ) -> None:
        self._cluster = cluster
        self._cache = cache
        self._settings = settings
        self._metrics = metrics
        self._port = port
        self._accounts: dict[str, Account] = {}  # by UID

    def told(self, own: OwnObject) -> ScalingView | None:
        """Return what a service's status is to say; None if nothing was looked at yet."""
        account = self._accounts.get(own.uid)
        return account.view if account else None

    def accounts(self) -> Iterator[tuple[Key, Account]]:
        """Yield what is known of each service that is there."""
        for key in self._cache.services():
            own = self._cache.own(key)
            if own is not None and own.uid in self._accounts:
                yield key, self._accounts[own.uid]

    async def run(self, wake: Wake) -> None:
        """Look for ever; `wake` is told whose status has something new to say."""
        async with sources(self._settings, self._port) as asking:
            try:
                while True:
                    began = time.monotonic()
                    await self.look(asking, wake)
                    await asyncio.sleep(max(0.1, ROUND_SECONDS - (time.monotonic() - began)))
            finally:
                await ended(each.writing for each in self._accounts.values())

    async def look(self, asking: Sources, wake: Wake) -> None:
        """Look once at every service that asks for a latency."""
        scaled = list(self._scaled())
        if not scaled:
            return
        max_age = self._settings.prometheus.max_age_seconds
        services = {Service(each.namespace, each.name) for each in self._cache.services()}
        told = _Heard(await asking.prometheus(services), max_age, asking.why)
        known = [told.by_prometheus(each, time.time()) for each in scaled]
        silent = _silent(scaled, known)
        heard = replace(told, doors=await asking.doors(silent, services))
        spent = 0.0
        for first in range(0, len(scaled), _SERVICES_AT_A_TIME):
            began = time.thread_time()
            last = first + _SERVICES_AT_A_TIME
            for each, counts in zip(scaled[first:last], known[first:last], strict=True):
                self._guarded(each, counts, heard, wake)
            spent += time.thread_time() - began
            await asyncio.sleep(0)
        self._metrics.scaling_seconds.observe(spent)
        await wait_a_while(each.account.writing for each in scaled)

    def _scaled(self) -> Iterator[_Scaled]:
        """Yield the services that ask for a latency, and forget all others."""
        before, self._accounts = self._accounts, {}
        doors: dict[str, _Doors] = {}
        for key in self._cache.services():
            own = self._cache.own(key)
            service = _valid(own) if own is not None else None
            if own is None or service is None or service.spec.autoscaling is None:
                continue
            if key.namespace not in doors:
                doors[key.namespace] = self._doors(key.namespace)
            account = before.get(own.uid) or begun(service)
            self._accounts[own.uid] = account
            yield _Scaled(own, service, service.spec.autoscaling, doors[key.namespace], account)

    def _doors(self, namespace: str) -> _Doors:
        pods = self._cache.pods(names.door_uid(namespace))
        found = {pod.name: pod for pod in pods if takes_requests(pod)}
        return _Doors(found, frozenset(name for name, pod in found.items() if pod.ready))

    def _guarded(self, scaled: _Scaled, known: Counts, heard: _Heard, wake: Wake) -> None:
        try:
            self._decide(scaled, known, heard, wake)
        except Exception:  # noqa: BLE001 - a defect about one service must not end the others
            _log.exception(
                "This is a defect of the operator; the number of a service's replicas stays",
                namespace=scaled.own.key.namespace,
                service=scaled.own.key.name,
            )

    def _decide(self, scaled: _Scaled, known: Counts, heard: _Heard, wake: Wake) -> None:
        """Take in what was counted, decide, and act on it."""
        account, now, desired = scaled.account, time.time(), scaled.service.spec.replicas
        asked_themselves = heard.by_doors(scaled, now)
        counts = Counts({**asked_themselves.doors, **known.doors}, known.tritons)
        account.source = "Prometheus" if known.doors else "Doors" if counts.doors else None
        spec, samples = self._asked(scaled), self._samples(scaled, counts, now)
        decision = account.decide(spec, samples, now, desired)
        if decision.replicas == desired:
            account.is_not_refused()
        paused = self._paused(scaled)
        found = paused or self._active(scaled, decision, heard, now)
        room = account.replicas.without_room if account.replicas is not None else ()
        conditions = [found, *limits(spec, decision, room)]
        if account.tell(conditions, scaled.own.generation, now):
            wake(scaled.own.key)
        may_write = is_over(account.writing) and time.monotonic() >= account.writes_again_at
        if decision.replicas != desired and paused is None and may_write:
            account.writing = started(self._scale(scaled, decision, wake))

    def _samples(self, scaled: _Scaled, counts: Counts, now: float) -> Samples | None:
        account, pods = scaled.account, self._cache.pods(scaled.own.uid)
        account.replicas = replicas(pods, account.known, datetime.fromtimestamp(now, UTC))
        ours = {pod.name: counts.tritons[pod.name] for pod in pods if pod.name in counts.tritons}
        there = {pod.name for pod in pods}
        totals = account.meter.add(Counts(counts.doors, ours), scaled.doors.pods, there)
        if totals is None:
            return None
        whole = counts.doors.keys() >= scaled.doors.ready
        return samples_of(totals, account.replicas, scaled.service.spec.replicas, whole=whole)

    def _asked(self, scaled: _Scaled) -> Spec:
        """Return what the law is asked for: made once for each version of the object."""
        account = scaled.account
        if account.asked is None or account.asked[0] is not scaled.service:
            account.asked = scaled.service, asked(scaled.service, scaled.wanted, self._settings)
        return account.asked[1]

    def _active(self, scaled: _Scaled, decision: Decision, heard: _Heard, now: float) -> Extra:
        account = scaled.account
        if account.refused:
            return refused(account.refused)
        if account.source is not None and not account.has_learned:
            return never_asked()
        asked_prometheus = account.source == "Prometheus"
        why = "" if asked_prometheus else heard.why_not_prometheus(scaled, now)
        return active(decision, account.source, why)

    def _paused(self, scaled: _Scaled) -> Extra | None:
        """Return why no decision about a service is acted on."""
        scalers = self._cache.scalers(scaled.own.key)
        if scalers:
            return by_another(scalers)
        return at_zero() if scaled.service.spec.replicas == 0 else None

    async def _scale(self, scaled: _Scaled, decision: Decision, wake: Wake) -> None:
        """Set the number, through `/scale`; what fails is tried again at the next look."""
        own, desired = scaled.own, scaled.service.spec.replicas
        told = {"namespace": own.key.namespace, "service": own.key.name}
        try:
            await self._cluster.scale(own.reference, own.resource_version, decision.replicas)
        except errors.Conflict:
            _log.debug("A service has changed, and is looked at again", **told)
            return
        except errors.NotLeader:
            return
        except errors.ApiError as error:
            if error.message != scaled.account.refused:
                _log.warning("A service could not be scaled", **told, error=error.message)
            scaled.account.was_refused(error, time.monotonic())
            return
        scaled.account.is_not_refused()
        self._metrics.scalings.labels("up" if decision.replicas > desired else "down").inc()
        _log.info(
            "Scaled",
            **told,
            before=desired,
            after=decision.replicas,
            metric=decision.metric,
            value=round(decision.value, 3),
            target=round(decision.target, 3),
            reason=decision.reason,
        )
        scaled.account.decided(decision, time.time())
        wake(own.key)


def _silent(scaled: Iterable[_Scaled], known: Iterable[Counts]) -> list[PodView]:
    """Return the doors of which Prometheus tells nothing that is new enough."""
    found = {
        door.uid: door
        for each, counts in zip(scaled, known, strict=True)
        for name, door in each.doors.pods.items()
        if name not in counts.doors
    }
    return list(found.values())


def _valid(own: OwnObject) -> InferenceService | None:
    try:
        return inference_service(own)
    except ValidationError:
        return None


def autoscaler(cluster: Cluster, cache: Cache, settings: Settings, metrics: Metrics) -> Autoscaler:
    """Return an autoscaler whose decisions are among the metrics."""
    found = Autoscaler(cluster, cache, settings, metrics)
    metrics.registry.register(DecisionCollector(found.accounts))
    return found
