"""From what the operator knows of the cluster to what its doors are told."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

from pydantic import ValidationError

from lepton_operator import logs
from lepton_operator.api.inference import InferenceService
from lepton_operator.cache import Cache, Change, Key, OwnObject
from lepton_operator.door.catalogue import Catalogue
from lepton_operator.door.config import runtime, service_config
from lepton_operator.door.listeners import ASSUMED_TARGET_MILLISECONDS
from lepton_operator.door.served import Served, endpoints, place, served
from lepton_operator.settings import DoorDefaults
from lepton_operator.views import NodeView, PodView

_KIND = "InferenceService"

_log = logs.logger(__name__)


@dataclass(slots=True)
class Feed:
    """Keeps a catalogue at what the cache says. Begun once the cache is full, told of each change.

    What it remembers of a service is what its doors were told last: where something can't be read
    for now (its Service was deleted by hand, its spec is not valid), that stays as it was.
    """

    cache: Cache
    parse: Callable[[OwnObject], InferenceService]
    defaults: DoorDefaults
    catalogue: Catalogue = field(default_factory=Catalogue)
    _served: dict[Key, Served] = field(default_factory=dict)
    _targets: dict[str, dict[str, int]] = field(default_factory=dict)  # by namespace and service
    _retargeted: set[str] = field(default_factory=set)  # namespaces
    _began: bool = False

    def begin(self) -> None:
        """Take in everything; until now changes were not followed."""
        self._began = True
        self._refresh(self.cache.own_keys())

    def note(self, change: Change) -> None:
        """Take in a change of the cache: the services that it is about, and no other."""
        if self._began and _matters(change):
            self._refresh(self.cache.affected(change))

    def _refresh(self, keys: Iterable[Key]) -> None:
        for key in keys:
            if key.kind == _KIND:
                self._guarded(key)
        while self._retargeted:
            namespace = self._retargeted.pop()
            self.catalogue.replace(namespace, runtime(self._targets[namespace]))

    def _guarded(self, key: Key) -> None:
        try:
            self._look(key)
        except Exception:  # noqa: BLE001 - a defect about one service must not end the others
            _log.exception(
                "This is a defect of the operator; the doors keep what they have of a service",
                namespace=key.namespace,
                service=key.name,
            )

    def _look(self, key: Key) -> None:
        own = self.cache.own(key)
        if own is None:
            self._remove(key)
            return
        self.catalogue.know(key.namespace, key.name)
        port = self._port(own)
        if port is None:
            return
        holder = self.cache.ports(key.namespace).get(port)
        if holder is not None and holder.owner_uid != own.uid:
            self._withdraw(key)
            return
        found = self._read(own, port)
        if found is not None and found != self._served.get(key):
            self._put(key, found)

    def _port(self, own: OwnObject) -> int | None:
        service, before = self.cache.service(own.uid), self._served.get(own.key)
        if service is not None and service.door_port is not None:
            return service.door_port
        return before.port if before is not None else None

    def _read(self, own: OwnObject, port: int) -> Served | None:
        pods = self.cache.pods(own.uid)
        try:
            return served(self.parse(own), port, pods, self.defaults)
        except ValidationError:
            before = self._served.get(own.key)
            places = endpoints(own.key.name, pods)
            return replace(before, port=port, endpoints=places) if before else None

    def _put(self, key: Key, found: Served) -> None:
        before = self._served.get(key)
        self._served[key] = found
        self.catalogue.put(key.namespace, key.name, service_config(found))
        assumed = before.target_milliseconds if before else ASSUMED_TARGET_MILLISECONDS
        if found.target_milliseconds != assumed:
            self._targets.setdefault(key.namespace, {})[key.name] = found.target_milliseconds
            self._retargeted.add(key.namespace)

    def _withdraw(self, key: Key) -> None:
        if self._served.pop(key, None):
            self.catalogue.withdraw(key.namespace, key.name)

    def _remove(self, key: Key) -> None:
        self._served.pop(key, None)
        self.catalogue.remove(key.namespace, key.name)
        if self._targets.get(key.namespace, {}).pop(key.name, None):
            self._retargeted.add(key.namespace)


def _matters(change: Change) -> bool:
    """Tell whether a change can be about what a door has to know; most are not."""
    before, after = change.before, change.after
    if isinstance(before or after, NodeView):
        return False
    if isinstance(before, OwnObject) and isinstance(after, OwnObject):
        return before.generation != after.generation
    if isinstance(before, PodView) and isinstance(after, PodView):
        return place(before) != place(after) or before.labels != after.labels
    return True
