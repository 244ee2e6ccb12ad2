"""All the reading: lists, and the views that plans read."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

from pydantic import ValidationError

from lepton_operator import errors, names
from lepton_operator.api.common import StatusModel
from lepton_operator.api.inference import InferenceService
from lepton_operator.api.model import LeptonModel
from lepton_operator.api.training import TrainingJob
from lepton_operator.cache import Cache, Change, Child, Key, OwnObject, Value, namespace_of
from lepton_operator.cluster import Cluster
from lepton_operator.parsing import Own, parse
from lepton_operator.readers import Readers
from lepton_operator.settings import Settings
from lepton_operator.views import (
    Fault,
    GatewayView,
    InferenceView,
    ModelView,
    NodeView,
    PodView,
    Refusal,
    TrainingView,
)

KINDS: Mapping[str, type[StatusModel]] = {
    "TrainingJob": TrainingJob,
    "LeptonModel": LeptonModel,
    "InferenceService": InferenceService,
}
_CHILD_KINDS: Mapping[str, tuple[str, ...]] = {
    "TrainingJob": ("Pod",),
    "LeptonModel": ("Pod",),
    "InferenceService": ("Pod", "Service", "PodDisruptionBudget"),
    names.DOOR_KIND: ("Pod", "Deployment", "PodDisruptionBudget", "NetworkPolicy"),
}
_WATCHED_CHILDREN = ("Pod", "Service", "Deployment", "PodDisruptionBudget", "NetworkPolicy")
_SCALERS = ("HorizontalPodAutoscaler",)

# Between them doors and watches have their turn.
_OBJECTS_AT_A_TIME = 50

View = TrainingView | ModelView | InferenceView | GatewayView
Refusals = tuple[Refusal, ...]


@dataclass(frozen=True, slots=True)
class Observer:
    cluster: Cluster
    cache: Cache
    settings: Settings
    readers: Readers

    @property
    def namespaces(self) -> tuple[str | None, ...]:
        """The namespaces that are watched; None stands for all."""
        return self.settings.watch_namespaces or (None,)

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds that are watched: ours, their children, and nodes if we may see them."""
        found = (*KINDS, *_WATCHED_CHILDREN, *_SCALERS)
        return found if self.settings.watch_namespaces else (*found, "Node")

    def view(self, own: OwnObject, refusals: Refusals) -> View:
        """Return what the plan of this object reads; raises ValidationError for its own spec."""
        return _VIEWS[own.key.kind](self, own, refusals)

    async def relist(self, own: OwnObject) -> list[Change]:
        """Read the object and its children live; for a door the services that need it, too."""
        key = own.key
        selector = names.selector(names.owner_labels(key.kind, key.name))
        lists = [
            self._list(kind, key.namespace, selector, _owned_by(own))
            for kind in _CHILD_KINDS[key.kind]
        ]
        if key.kind == names.DOOR_KIND:
            covers = _within(key.namespace)
            lists.append(self._list("InferenceService", key.namespace, None, covers))
        changes = await asyncio.gather(self.refresh(own), *lists)
        return [each for some in changes for each in some]

    async def refresh(self, own: OwnObject) -> list[Change]:
        """Read the object itself live; a door is none."""
        key = own.key
        if key.kind == names.DOOR_KIND:
            return []
        try:
            body = await self.cluster.get(key.kind, key.namespace, key.name)
        except errors.NotFound:
            change = self.cache.remove(key.kind, own.body)
        else:
            change = self.cache.put(key.kind, body)
        return [change] if change else []

    async def relist_kind(self, kind: str) -> list[Change]:
        """List all objects of a kind live; what vanished since the last look is removed."""
        changes: list[Change] = []
        for namespace in self.namespaces:
            within = namespace if kind != "Node" else None
            changes += await self._list(kind, within, None, _within(within))
        return changes

    async def _list(
        self,
        kind: str,
        namespace: str | None,
        selector: str | None,
        covers: Callable[[Value], bool],
    ) -> list[Change]:
        changes: list[Change] = []
        listing = self.cache.begin_listing(kind, covers)
        async for page in self.cluster.list_pages(kind, namespace, selector):
            for first in range(0, len(page), _OBJECTS_AT_A_TIME):
                changes += self.cache.take(listing, page[first : first + _OBJECTS_AT_A_TIME])
                await asyncio.sleep(0)
        return changes + self.cache.end_listing(listing)

    def _training(self, own: OwnObject, refusals: Refusals) -> TrainingView:
        pods = self.cache.pods(own.uid)
        return TrainingView(
            job=parse(own, TrainingJob),
            defaults=self.settings.defaults,
            pods=pods,
            model=self._model(own),
            nodes=self._nodes(),
            refusals=refusals,
            told=self.readers.telemetry.of(pods),
        )

    def _modelled(self, own: OwnObject, refusals: Refusals) -> ModelView:
        place = (own.key.namespace, own.key.name)
        return ModelView(
            model=parse(own, LeptonModel),
            defaults=self.settings.defaults,
            pods=self.cache.pods(own.uid),
            jobs=self._others(TrainingJob, self.cache.jobs(*place)),
            uses=self.cache.uses(*place),
            nodes=self._nodes(),
            refusals=refusals,
        )

    def _inference(self, own: OwnObject, refusals: Refusals) -> InferenceView:
        faults = self.readers.outliers.of(own.key.namespace, own.key.name)
        pods = self.cache.pods(own.uid)
        return InferenceView(
            service=parse(own, InferenceService),
            defaults=self.settings.defaults,
            pods=tuple(self._as_told(pod, faults) for pod in pods),
            kubernetes_service=self.cache.service(own.uid),
            budget=next(iter(self.cache.objects(own.uid)), None),
            ports=self.cache.ports(own.key.namespace),
            model=self._model(own),
            nodes=self._nodes(),
            refusals=refusals,
            doors=self.cache.pods(names.door_uid(own.key.namespace)),
            traffic=self.readers.traffic.told(own.key.namespace),
            listening=self.readers.listening.told(own.key.namespace),
            scaling=self.readers.autoscaler.told(own),
        )

    def _as_told(self, pod: PodView, faults: Mapping[str, Fault]) -> PodView:
        """Return the pod with what is known of it by others than the API server."""
        fault = faults.get(pod.ip or "") if not pod.gone else None
        fetched = self.readers.downloads.of(pod)
        return replace(pod, fault=fault, fetched=fetched) if fault or fetched else pod

    def _gateway(self, own: OwnObject, refusals: Refusals) -> GatewayView:
        namespace = own.key.namespace
        return GatewayView(
            namespace=namespace,
            needed=self.cache.serves(namespace),
            settings=self.settings,
            objects=self.cache.objects(own.uid),
            pods=self.cache.pods(own.uid),
            refusals=refusals,
            bypassed=self.cache.bypassed(namespace),
        )

    def _nodes(self) -> tuple[NodeView, ...] | None:
        capacity = self.readers.capacity
        return None if capacity is None else capacity.of(self.cache.nodes())

    def _model(self, own: OwnObject) -> LeptonModel | None:
        if own.model is None:
            return None
        keys = [Key("LeptonModel", own.key.namespace, own.model)]
        return next(iter(self._others(LeptonModel, keys)), None)

    def _others(self, kind: type[Own], keys: Iterable[Key]) -> tuple[Own, ...]:
        """Return other objects that a plan reads; one that is not valid is as if it were absent."""
        owns = (self.cache.own(key) for key in keys if KINDS[key.kind] is kind)
        found = (self._valid(own, kind) for own in owns if own)
        return tuple(each for each in found if each)

    def _valid(self, own: OwnObject, kind: type[Own]) -> Own | None:
        try:
            return parse(own, kind)
        except ValidationError:
            return None


_VIEWS: Mapping[str, Callable[[Observer, OwnObject, Refusals], View]] = {
    "TrainingJob": Observer._training,  # noqa: SLF001 - of the class above
    "LeptonModel": Observer._modelled,  # noqa: SLF001
    "InferenceService": Observer._inference,  # noqa: SLF001
    names.DOOR_KIND: Observer._gateway,  # noqa: SLF001
}


def _owned_by(own: OwnObject) -> Callable[[Value], bool]:
    owner = (own.key.namespace, own.uid)
    return lambda value: isinstance(value, Child) and (value.namespace, value.owner_uid) == owner


def _within(namespace: str | None) -> Callable[[Value], bool]:
    return lambda value: namespace is None or namespace_of(value) == namespace
