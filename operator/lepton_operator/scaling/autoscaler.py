"""Sets the number of replicas of every service that asks for a latency, each two seconds.

Beside the work on objects, and as others do it: through `/scale`. Where an HPA scales a service,
and where nothing is known, the number stays as it is.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

from pydantic import ValidationError

from lepton_operator import errors, logs, names
from lepton_operator.api.autoscaling import Autoscaling
from lepton_operator.api.inference import InferenceService
from lepton_operator.autoscale.values import Decision, Spec
from lepton_operator.build.door import HEALTH_PORT
from lepton_operator.cache import Cache, Key, OwnObject
from lepton_operator.cluster import Cluster
from lepton_operator.conditions import Extra
from lepton_operator.inference.draining import takes_requests
from lepton_operator.metrics import Metrics
from lepton_operator.parsing import inference_service
from lepton_operator.scaling.account import Account
from lepton_operator.scaling.asked import asked
from lepton_operator.scaling.collector import DecisionCollector
from lepton_operator.scaling.replicas import replicas, samples_of
from lepton_operator.scaling.saying import active, at_zero, by_another, limits
from lepton_operator.scaling.sources import Sources, Told, fresh, joined, sources
from lepton_operator.settings import Settings
from lepton_operator.signals.counts import Counts, Service
from lepton_operator.views import PodView, ScalingView

ROUND_SECONDS = 2.0
# Between them doors and watches have their turn.
_SERVICES_AT_A_TIME = 25

_log = logs.logger(__name__)


@dataclass(frozen=True, slots=True)
class _Scaled:
    """A service that asks for a latency, as it is at this look."""

    own: OwnObject
    service: InferenceService
    wanted: Autoscaling
    doors: tuple[PodView, ...]  # of its namespace, that may have requests
    account: Account

    @property
    def place(self) -> Service:
        return Service(self.own.key.namespace, self.own.key.name)


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

    async def run(self, wake: Callable[[Key], None]) -> None:
        """Look for ever; `wake` is told whose status has something new to say."""
        async with sources(self._settings, self._port) as asking:
            while True:
                began = time.monotonic()
                await self.look(asking, wake)
                await asyncio.sleep(max(0.1, ROUND_SECONDS - (time.monotonic() - began)))

    async def look(self, asking: Sources, wake: Callable[[Key], None]) -> None:
        """Look once at every service that asks for a latency."""
        scaled = list(self._scaled())
        if not scaled:
            return
        began = time.thread_time()
        told = await asking.prometheus()
        now, most = time.time(), self._settings.prometheus.max_age_seconds
        known = {
            each.place: fresh(told.get(each.place), _names(each.doors), now, most)
            for each in scaled
        }
        silent = _silent(scaled, known)
        said = await asking.doors(silent)
        waiting = []
        for index, each in enumerate(scaled):
            decision = self._decide(each, known[each.place], said, asking.why, wake)
            if decision is not None:
                waiting.append(self._scale(each, decision, wake))
            if index % _SERVICES_AT_A_TIME == 0:
                await asyncio.sleep(0)
        self._metrics.scaling_seconds.observe(time.thread_time() - began)
        await asyncio.gather(*waiting)

    def _scaled(self) -> Iterator[_Scaled]:
        """Yield the services that ask for a latency, and forget all others."""
        before, self._accounts = self._accounts, {}
        doors: dict[str, tuple[PodView, ...]] = {}
        for key in self._cache.services():
            own = self._cache.own(key)
            service = _valid(own) if own is not None else None
            if own is None or service is None or service.spec.autoscaling is None:
                continue
            if key.namespace not in doors:
                pods = self._cache.pods(names.door_uid(key.namespace))
                doors[key.namespace] = tuple(pod for pod in pods if takes_requests(pod))
            account = before.get(own.uid) or _begun(service)
            self._accounts[own.uid] = account
            yield _Scaled(own, service, service.spec.autoscaling, doors[key.namespace], account)

    def _decide(
        self, scaled: _Scaled, known: Counts, said: Told, why: str, wake: Callable[[Key], None]
    ) -> Decision | None:
        """Take in what was counted; return a decision that is to be acted on."""
        account, now = scaled.account, time.time()
        pods = self._cache.pods(scaled.own.uid)
        account.replicas = replicas(pods, account.counted, datetime.fromtimestamp(now, UTC))
        counts = joined(known, said.get(scaled.place), [pod.name for pod in pods])
        account.source = "Prometheus" if known.doors else "Doors" if counts.doors else None
        totals = account.meter.add(counts)
        spec = self._asked(scaled)
        desired = scaled.service.spec.replicas
        samples = samples_of(totals, account.replicas, desired) if totals and counts.doors else None
        decision = account.decide(spec, samples, now)
        paused = self._paused(scaled)
        conditions = [
            paused or active(decision, account.source, why),
            *limits(spec, decision),
        ]
        if account.tell(conditions, now):
            wake(scaled.own.key)
        # A decision about nothing known is one for 0.
        return decision if paused is None and decision.replicas not in (0, desired) else None

    def _asked(self, scaled: _Scaled) -> Spec:
        """Return what the law is asked for: made once for each version of the object."""
        account = scaled.account
        if account.asked is None or account.asked[0] is not scaled.service:
            account.asked = scaled.service, asked(scaled.service, scaled.wanted, self._settings)
        return account.asked[1]

    def _paused(self, scaled: _Scaled) -> Extra | None:
        """Return why no decision about a service is acted on."""
        scalers = self._cache.scalers(scaled.own.key)
        if scalers:
            return by_another(scalers)
        return at_zero() if scaled.service.spec.replicas == 0 else None

    async def _scale(
        self, scaled: _Scaled, decision: Decision, wake: Callable[[Key], None]
    ) -> None:
        """Set the number, through `/scale`; what fails is tried again at the next look."""
        own, desired = scaled.own, scaled.service.spec.replicas
        key = own.key
        told = {"namespace": key.namespace, "service": key.name}
        try:
            await self._cluster.scale(own.reference, own.resource_version, decision.replicas)
        except errors.Conflict:
            _log.debug("A service changed while it was looked at", **told)
            return
        except errors.ApiError as error:
            _log.warning("A service could not be scaled", **told, error=error.message)
            return
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
        wake(key)


def _begun(service: InferenceService) -> Account:
    """Return an account that goes on with the decisions that the status tells."""
    told = service.status.autoscaling
    return Account(decisions=told.decisions if told else ())


def _valid(own: OwnObject) -> InferenceService | None:
    try:
        return inference_service(own)
    except ValidationError:
        return None


def _names(pods: Iterable[PodView]) -> list[str]:
    return [pod.name for pod in pods]


def _silent(scaled: Iterable[_Scaled], known: dict[Service, Counts]) -> list[PodView]:
    """Return the doors of which Prometheus told nothing that is new enough."""
    found = {
        door.uid: door
        for each in scaled
        for door in each.doors
        if door.name not in known[each.place].doors
    }
    return list(found.values())


def autoscaler(cluster: Cluster, cache: Cache, settings: Settings, metrics: Metrics) -> Autoscaler:
    """Return an autoscaler whose decisions are among the metrics."""
    found = Autoscaler(cluster, cache, settings, metrics)
    metrics.registry.register(DecisionCollector(found.accounts))
    return found
