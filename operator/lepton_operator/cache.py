"""What is known of the cluster: the newest seen state of every object that plans read.

It is fed by watches, by lists, and by the answers to our own writes. Whichever comes late loses:
a resourceVersion is never replaced by an older one, and a UID that was deleted never comes back.
A deleted pod stays as a tombstone, because the kubelet removes a drained pod right after its last
status, and a plan may not have seen it yet.
"""

from __future__ import annotations

import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import NamedTuple

from lepton_operator import bodies, names
from lepton_operator.api.common import StatusModel
from lepton_operator.bodies import Body
from lepton_operator.plan import Reference
from lepton_operator.views import (
    NodeView,
    ObjectView,
    PodView,
    ScalerView,
    ServiceView,
    VersionUse,
)

MAX_TOMBSTONES = 20_000
MAX_TOMBSTONE_SECONDS = 3600.0
MAX_DELETED_UIDS = 50_000

_SERVICE_KIND = "InferenceService"
_DOOR_PREFIX = names.door_uid("")
_OTHER_CHILDREN = frozenset({"Deployment", "PodDisruptionBudget", "NetworkPolicy"})


class Key(NamedTuple):
    """One of our own objects; what the queue holds."""

    kind: str
    namespace: str
    name: str


@dataclass(slots=True, eq=False)
class OwnObject:
    """An object of one of our kinds. `parsed` is kept with the version it was parsed from."""

    key: Key
    uid: str
    generation: int
    resource_version: str
    model: str | None
    body: Body
    uses: frozenset[VersionUse] = frozenset()  # of that model
    parsed: StatusModel | Exception | None = None

    @property
    def reference(self) -> Reference:
        return Reference(self.key.kind, self.key.namespace, self.key.name, self.uid)


Child = PodView | ServiceView | ObjectView
Value = OwnObject | Child | NodeView | ScalerView


@dataclass(frozen=True, slots=True)
class Change:
    """What an event changed; None stands for an object that is not there.

    `turned`: it was its namespace's first or last service, or the first or last of its doors that
    takes requests. Noted at once, since several changes may be looked at together.
    """

    before: Value | None
    after: Value | None
    turned: bool = False


@dataclass(slots=True)
class _Entry:
    kind: str
    namespace: str
    version: str
    order: int  # how many entries had been put before this one
    value: Value


@dataclass(slots=True)
class Listing:
    """A list in progress: what was there before it began and is not in it has been deleted."""

    kind: str
    covers: Callable[[Value], bool]
    began: int
    seen: set[str] = field(default_factory=set)


class Cache:
    def __init__(self, gpu_resource: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._gpu_resource = gpu_resource
        self._clock = clock
        self._order = 0
        self._entries: dict[str, _Entry] = {}  # by UID
        self._own: dict[Key, OwnObject] = {}
        self._keys: dict[str, Key] = {}  # of our own objects, by UID
        self._children: dict[str, dict[str, Child]] = {}  # by owner's UID, by UID
        self._users: dict[tuple[str, str], set[Key]] = {}  # by namespace and model
        self._uses: dict[tuple[str, str], Counter[VersionUse]] = {}  # by namespace and model
        self._services: dict[str, set[Key]] = {}  # InferenceServices, by namespace
        self._draining: dict[str, PodView] = {}  # by UID
        self._without_room: dict[str, PodView] = {}  # by UID
        self._initialising: dict[str, PodView] = {}  # by UID
        self._doors: dict[str, PodView] = {}  # pods of doors, by UID
        self._claims: dict[tuple[str, int], dict[str, ServiceView]] = {}  # of the doors' ports
        self._ports: dict[str, dict[int, ServiceView]] = {}  # by namespace: who holds a port
        self._past_doors: dict[str, set[str]] = {}  # UIDs of Services, by namespace
        self._scalers: dict[Key, dict[str, ScalerView]] = {}  # by what they scale, by UID
        self._nodes: dict[str, NodeView] = {}  # by UID
        self._sorted_nodes: tuple[NodeView, ...] | None = ()
        self._tombstones: OrderedDict[str, tuple[float, PodView]] = OrderedDict()
        self._deleted: OrderedDict[str, None] = OrderedDict()

    def own(self, key: Key) -> OwnObject | None:
        """Return one of our own objects; for a door, which is none, what stands for it."""
        if key.kind == names.DOOR_KIND:
            return _door_object(key)
        return self._own.get(key)

    def knows(self, uid: str) -> bool:
        """Whether the object with this UID is among those that are seen."""
        return uid in self._entries

    def own_keys(self) -> list[Key]:
        """Return the keys of all our own objects, and of the doors that are needed or there."""
        owners = (uid.split("/") for uid in self._children if uid.startswith(_DOOR_PREFIX))
        namespaces = {*self._services, *(namespace for _, namespace in owners)}
        return [*self._own, *(door_key(each) for each in sorted(namespaces))]

    def services(self) -> list[Key]:
        """Return the keys of all InferenceServices."""
        return [key for keys in self._services.values() for key in keys]

    def serves(self, namespace: str) -> bool:
        """Whether a namespace has InferenceServices."""
        return namespace in self._services

    def draining(self) -> list[PodView]:
        """Return the pods that are marked to get no new requests."""
        return list(self._draining.values())

    def without_room(self) -> list[PodView]:
        """Return the pods that no node has room for."""
        return list(self._without_room.values())

    def initialising(self) -> list[PodView]:
        """Return the pods that an init container works in."""
        return list(self._initialising.values())

    def doors(self) -> list[PodView]:
        """Return the pods of the doors of all namespaces."""
        return list(self._doors.values())

    def owner(self, child: Child) -> Key | None:
        """Return the key of the object that a child belongs to."""
        return self._keys.get(child.owner_uid or "")

    def pods(self, owner: str) -> tuple[PodView, ...]:
        """Return the pods of an owner's UID, tombstones included, by name."""
        pods = (each for each in self._children_of(owner) if isinstance(each, PodView))
        return tuple(sorted(pods, key=lambda pod: (pod.name, pod.created)))

    def service(self, owner: str) -> ServiceView | None:
        """Return the Service of an owner's UID."""
        children = self._children_of(owner)
        return next((each for each in children if isinstance(each, ServiceView)), None)

    def objects(self, owner: str) -> tuple[ObjectView, ...]:
        """Return the children of an owner's UID that are neither pods nor Services, by name."""
        found = (each for each in self._children_of(owner) if isinstance(each, ObjectView))
        return tuple(sorted(found, key=lambda each: (each.kind, each.name)))

    def ports(self, namespace: str) -> Mapping[int, ServiceView]:
        """Return the door's ports that are taken in a namespace, each with its Service.

        Of several that lead to one port it belongs to the oldest.
        """
        return MappingProxyType(self._ports.get(namespace, {}))

    def bypassed_namespaces(self) -> list[str]:
        """Return the namespaces in which a Service leads past the doors."""
        return list(self._past_doors)

    def bypassed(self, namespace: str) -> bool:
        """Tell whether a Service of a namespace leads to serving pods, past the doors."""
        return namespace in self._past_doors

    def scalers(self, key: Key) -> list[str]:
        """Return the names of the HorizontalPodAutoscalers that scale an object."""
        return sorted(each.name for each in self._scalers.get(key, {}).values())

    def _children_of(self, owner: str) -> Iterator[Child]:
        """Yield what an owner's UID controls; of what is in other namespaces, that is a forgery."""
        key = self._keys.get(owner)
        for child in self._children.get(owner, {}).values():
            if key is None or child.namespace == key.namespace:
                yield child

    def jobs(self, namespace: str, model: str) -> list[Key]:
        """Return the jobs that hand their result to this model."""
        users = self._users.get((namespace, model), ())
        return sorted(key for key in users if key.kind == "TrainingJob")

    def uses(self, namespace: str, model: str) -> frozenset[VersionUse]:
        """Return the versions of this model that services use."""
        return frozenset(self._uses.get((namespace, model), ()))

    def nodes(self) -> tuple[NodeView, ...]:
        if self._sorted_nodes is None:
            self._sorted_nodes = tuple(sorted(self._nodes.values(), key=lambda node: node.name))
        return self._sorted_nodes

    def counts(self) -> dict[str, int]:
        """Return the number of objects of each kind, tombstones apart."""
        found: dict[str, int] = {"tombstones": len(self._tombstones)}
        for entry in self._entries.values():
            found[entry.kind] = found.get(entry.kind, 0) + 1
        return found

    def put(self, kind: str, body: Body) -> Change | None:
        """Take in an object's state; None if nothing is new about it."""
        metadata = body["metadata"]
        uid, version = metadata["uid"], metadata["resourceVersion"]
        known = self._entries.get(uid)
        if uid in self._deleted or (known and not _newer(version, known.version)):
            return None
        value = self._value(kind, body)
        before = known.value if known else None
        namespace = metadata.get("namespace", "")
        stood = self._standing(namespace)
        if isinstance(value, OwnObject) and not known:
            self._displace(value.key)
        self._order += 1
        self._entries[uid] = _Entry(kind, namespace, version, self._order, value)
        self._index(uid, before, value)
        if before == value:
            return None
        return Change(before, value, turned=self._standing(namespace) != stood)

    def remove(self, kind: str, body: Body) -> Change | None:
        """Take in that an object was deleted, with its last state; None if it was not known."""
        uid = body["metadata"]["uid"]
        if uid in self._deleted and uid not in self._tombstones:
            return None
        return self._removed(uid, self._value(kind, body))

    def vanish(self, uid: str) -> Change | None:
        """Take in that an object is not there any more, whose last state nobody saw."""
        entry = self._entries.get(uid)
        return self._removed(uid, entry.value) if entry else None

    def begin_listing(self, kind: str, covers: Callable[[Value], bool] | None = None) -> Listing:
        """Mark the moment before a list is asked for; `covers` says which objects it would hold."""
        return Listing(kind, covers or (lambda _: True), self._order)

    def take(self, listing: Listing, page: Iterable[Body]) -> list[Change]:
        """Take in a page of a list."""
        found = list(page)
        listing.seen.update(each["metadata"]["uid"] for each in found)
        changes = (self.put(listing.kind, each) for each in found)
        return [change for change in changes if change is not None]

    def end_listing(self, listing: Listing) -> list[Change]:
        """Remove what the whole list did not hold although it should have."""
        vanished = [
            (uid, entry.value)
            for uid, entry in self._entries.items()
            if entry.kind == listing.kind
            and entry.order <= listing.began
            and uid not in listing.seen
            and listing.covers(entry.value)
        ]
        return [self._removed(uid, value) for uid, value in vanished]

    def forget(self, tombstones: Iterable[PodView]) -> None:
        """Drop tombstones that a plan saw and whose meaning is in the status."""
        for pod in tombstones:
            if self._tombstones.pop(pod.uid, None):
                self._drop_child(pod)

    def affected(self, change: Change) -> set[Key]:
        """Return the keys whose plans read what this change is about."""
        value = change.after or change.before
        if isinstance(value, OwnObject):
            return self._affected_by_own(value, change)
        if isinstance(value, NodeView):
            return self._affected_by_node(value.name)
        scalers = [each for each in (change.before, change.after) if isinstance(each, ScalerView)]
        if scalers:
            return {_scaled(each) for each in scalers} & self._own.keys()
        children = [each for each in (change.before, change.after) if isinstance(each, Child)]
        rivals = (each for child in children for each in self._rivals(child))
        found = {key for each in (*children, *rivals) if (key := self._waits_for(each))}
        if any(map(_is_door_pod, children)):
            found |= self._affected_by_door(children[0].namespace, change)
        if _leads_past_doors(change.before) != _leads_past_doors(change.after):
            found.add(door_key(children[0].namespace))
        return found

    def _affected_by_door(self, namespace: str, change: Change) -> set[Key]:
        """Return the services that wait for a door at all, or for the word of each.

        For each door wait the drain of a pod, and a Service that is still to be led to them.
        """
        if change.turned:
            return set(self._services.get(namespace, ()))
        if not _serves_otherwise(change):
            return set()
        waiting: list[Value] = [
            *(pod for pod in self._draining.values() if pod.namespace == namespace),
            *(self._entries[uid].value for uid in self._past_doors.get(namespace, ())),
        ]
        found = (self.owner(each) for each in waiting if isinstance(each, Child))
        return {key for key in found if key}

    def _rivals(self, child: Child) -> Iterable[ServiceView]:
        """Return the Services that lead to the same port of the door."""
        if not isinstance(child, ServiceView) or child.door_port is None:
            return ()
        return self._claims.get((child.namespace, child.door_port), {}).values()

    def _value(self, kind: str, body: Body) -> Value:
        if kind == "Pod":
            return bodies.pod_view(body)
        if kind == "Service":
            return bodies.service_view(body)
        if kind in _OTHER_CHILDREN:
            return bodies.object_view(kind, body)
        if kind == "Node":
            return bodies.node_view(body, self._gpu_resource)
        if kind == "HorizontalPodAutoscaler":
            return bodies.scaler_view(body)
        return _own_object(kind, body)

    def _displace(self, key: Key) -> None:
        """Remove the object that had this key before, whose deletion was not seen yet."""
        old = self._own.get(key)
        if old:
            self._removed(old.uid, old)

    def _index(self, uid: str, before: Value | None, value: Value) -> None:
        if isinstance(value, OwnObject):
            self._unindex_model(before)
            self._own[value.key] = value
            self._keys[uid] = value.key
            if value.key.kind == _SERVICE_KIND:
                self._services.setdefault(value.key.namespace, set()).add(value.key)
            self._index_model(value)
        elif isinstance(value, Child):
            if isinstance(before, Child) and before.owner_uid != value.owner_uid:
                self._drop_child(before)
            if value.owner_uid:
                self._children.setdefault(value.owner_uid, {})[uid] = value
            self._mark(uid, value)
            self._index_port(before, value)
            self._index_way(uid, value.namespace, past_doors=_leads_past_doors(value))
        elif isinstance(value, ScalerView):
            self._unindex_scaler(before)
            self._scalers.setdefault(_scaled(value), {})[uid] = value
        else:
            self._nodes[uid] = value
            self._sorted_nodes = None

    def _mark(self, uid: str, child: Child) -> None:
        self._unmark(uid)
        if not isinstance(child, PodView):
            return
        if names.DRAINING in child.annotations:
            self._draining[uid] = child
        if any(each.state == "running" and not each.ready for each in child.init_containers):
            self._initialising[uid] = child
        if _is_door_pod(child):
            self._doors[uid] = child
        if child.unschedulable_message and not (child.finished or child.deleting):
            self._without_room[uid] = child

    def _unmark(self, uid: str) -> None:
        self._draining.pop(uid, None)
        self._without_room.pop(uid, None)
        self._initialising.pop(uid, None)
        self._doors.pop(uid, None)

    def _removed(self, uid: str, last: Value) -> Change:
        namespace = namespace_of(last)
        stood = self._standing(namespace)
        entry = self._entries.pop(uid, None)
        before = entry.value if entry else last
        self._deleted[uid] = None
        if len(self._deleted) > MAX_DELETED_UIDS:
            self._deleted.popitem(last=False)
        self._unindex(uid, before, last)
        return Change(before, None, turned=self._standing(namespace) != stood)

    def _unindex(self, uid: str, before: Value, last: Value) -> None:
        self._unmark(uid)
        if isinstance(last, OwnObject):
            self._remove_own(last)
        elif isinstance(last, PodView):
            self._bury(last)
        elif isinstance(last, ScalerView):
            self._unindex_scaler(before)
        elif isinstance(last, NodeView):
            self._nodes.pop(uid, None)
            self._sorted_nodes = None
        else:
            self._drop_child(last)
            self._index_port(before, None)
            self._index_way(uid, last.namespace, past_doors=False)

    def _remove_own(self, last: OwnObject) -> None:
        if (current := self._own.get(last.key)) and current.uid == last.uid:
            self._unindex_model(current)
            del self._own[last.key]
            self._leave_namespace(last.key)
        self._keys.pop(last.uid, None)
        children = self._children.get(last.uid, {})
        self.forget([each for each in children.values() if isinstance(each, PodView)])

    def _leave_namespace(self, key: Key) -> None:
        services = self._services.get(key.namespace, set())
        services.discard(key)
        if not services:
            self._services.pop(key.namespace, None)

    def _bury(self, last: PodView) -> None:
        """Keep a pod's last state, unless nobody is left who would read it."""
        owner = last.owner_uid
        if not owner or owner in self._deleted:
            self._drop_child(last)
            return
        gone = replace(last, gone=True)
        self._children.setdefault(owner, {})[last.uid] = gone
        self._tombstones[last.uid] = (self._clock(), gone)
        self.forget(list(self._worn_tombstones()))

    def _worn_tombstones(self) -> Iterator[PodView]:
        oldest_kept = self._clock() - MAX_TOMBSTONE_SECONDS
        surplus = len(self._tombstones) - MAX_TOMBSTONES
        for index, (buried, pod) in enumerate(self._tombstones.values()):
            if index >= surplus and buried >= oldest_kept:
                return
            yield pod

    def _drop_child(self, child: Child) -> None:
        children = self._children.get(child.owner_uid or "", {})
        children.pop(child.uid, None)
        if not children:
            self._children.pop(child.owner_uid or "", None)

    def _index_port(self, before: Value | None, value: Value | None) -> None:
        if isinstance(before, ServiceView) and before.door_port is not None:
            self._claims.get((before.namespace, before.door_port), {}).pop(before.uid, None)
            self._settle_port(before.namespace, before.door_port)
        if isinstance(value, ServiceView) and value.door_port is not None and value.owner_uid:
            claims = self._claims.setdefault((value.namespace, value.door_port), {})
            claims[value.uid] = value
            self._settle_port(value.namespace, value.door_port)

    def _index_way(self, uid: str, namespace: str, *, past_doors: bool) -> None:
        found = self._past_doors.get(namespace, set())
        if past_doors:
            self._past_doors[namespace] = found | {uid}
        elif found <= {uid}:
            self._past_doors.pop(namespace, None)
        else:
            found.discard(uid)

    def _settle_port(self, namespace: str, port: int) -> None:
        claims = self._claims.get((namespace, port), {})
        if claims:
            oldest = min(claims.values(), key=lambda each: (each.created, each.uid))
            self._ports.setdefault(namespace, {})[port] = oldest
            return
        self._claims.pop((namespace, port), None)
        ports = self._ports.get(namespace, {})
        ports.pop(port, None)
        if not ports:
            self._ports.pop(namespace, None)

    def _unindex_scaler(self, value: Value | None) -> None:
        if isinstance(value, ScalerView):
            known = self._scalers.get(_scaled(value), {})
            known.pop(value.uid, None)
            if not known:
                self._scalers.pop(_scaled(value), None)

    def _index_model(self, value: OwnObject) -> None:
        if value.model:
            place = (value.key.namespace, value.model)
            self._users.setdefault(place, set()).add(value.key)
            self._uses.setdefault(place, Counter()).update(value.uses)

    def _unindex_model(self, value: Value | None) -> None:
        if isinstance(value, OwnObject) and value.model:
            place = (value.key.namespace, value.model)
            users = self._users.get(place, set())
            users.discard(value.key)
            self._uses[place] -= Counter(value.uses)
            if not users:
                self._users.pop(place, None)
                self._uses.pop(place, None)

    def _standing(self, namespace: str) -> tuple[bool, bool]:
        """Return whether a namespace has services, and a door that takes requests."""
        doors = self._children.get(names.door_uid(namespace), {}).values()
        has_door = any(isinstance(each, PodView) and each.stays_ready for each in doors)
        return namespace in self._services, has_door

    def _waits_for(self, child: Child) -> Key | None:
        """Return the owner; or, if that is gone, what has its name now and needs the child's."""
        if child.owner_uid == names.door_uid(child.namespace):
            return door_key(child.namespace)
        owner = self._keys.get(child.owner_uid or "")
        if owner is not None:
            return owner if owner.namespace == child.namespace else None
        named = _named_owner(child)
        return named if named in self._own else None

    def _affected_by_own(self, value: OwnObject, change: Change) -> set[Key]:
        key = value.key
        found = {key}
        if change.turned:
            found.add(door_key(key.namespace))
        if key.kind == "LeptonModel":
            found.update(self._users.get((key.namespace, key.name), ()))
        told = [_told_model(each) for each in (change.before, change.after)]
        if told[0] != told[1]:
            found |= {Key("LeptonModel", key.namespace, model) for model, _ in filter(None, told)}
        return found

    def _affected_by_node(self, name: str) -> set[Key]:
        """Return the owners of the node's pods, and of pods that wait for any node."""
        pods = (e.value for e in self._entries.values() if isinstance(e.value, PodView))
        owners = {
            pod.owner_uid
            for pod in pods
            if not pod.finished and (pod.node == name or pod.node is None)
        }
        return {self._keys[uid] for uid in owners if uid in self._keys}


def namespace_of(value: Value) -> str:
    """Return the namespace of an object; a node has none."""
    if isinstance(value, OwnObject):
        return value.key.namespace
    return "" if isinstance(value, NodeView) else value.namespace


def door_key(namespace: str) -> Key:
    return Key(names.DOOR_KIND, namespace, names.DOOR)


def _scaled(scaler: ScalerView) -> Key:
    return Key(scaler.kind, scaler.namespace, scaler.target)


def _door_object(key: Key) -> OwnObject:
    """Return what stands for a door among our own objects: nothing is stored of it."""
    body = {"metadata": {"name": key.name, "namespace": key.namespace}, "spec": {}, "status": {}}
    return OwnObject(key, names.door_uid(key.namespace), 0, "", None, body)


def _told_model(value: Value | None) -> tuple[str, object] | None:
    """Return the model that an object names, with what that one's plan reads of the object."""
    if not isinstance(value, OwnObject) or not value.model:
        return None
    if value.key.kind == _SERVICE_KIND:
        return (value.model, value.uses) if value.uses else None
    return value.model, value.body["status"].get("output")


def _leads_past_doors(value: Value | None) -> bool:
    """Tell whether this is a Service of ours that leads to serving pods themselves."""
    return isinstance(value, ServiceView) and bool(value.owner_uid) and value.leads_past_doors


def _is_door_pod(child: Child) -> bool:
    return isinstance(child, PodView) and child.owner_uid == names.door_uid(child.namespace)


def _serves_otherwise(change: Change) -> bool:
    """Whether a door pod came, went, or began or ceased to take requests."""
    before, after = change.before, change.after
    if not (isinstance(before, PodView) and isinstance(after, PodView)):
        return True
    return (before.ready, before.deleting, before.phase) != (
        after.ready,
        after.deleting,
        after.phase,
    )


def _own_object(kind: str, body: Body) -> OwnObject:
    metadata = body["metadata"]
    return OwnObject(
        key=Key(kind, metadata["namespace"], metadata["name"]),
        uid=metadata["uid"],
        generation=int(metadata.get("generation", 0)),
        resource_version=metadata["resourceVersion"],
        model=bodies.model_name(kind, body),
        body=bodies.trimmed(body),
        uses=bodies.version_uses(body) if kind == _SERVICE_KIND else frozenset(),
    )


def _named_owner(child: Child) -> Key:
    if isinstance(child, ServiceView | ObjectView):
        return Key("InferenceService", child.namespace, child.name)
    labels = child.labels
    return Key(labels.get(names.KIND, ""), child.namespace, labels.get(names.NAME, ""))


def _newer(version: str, known: str) -> bool:
    """Compare resourceVersions: numbers, as Kubernetes 1.35 promises, or else by arrival."""
    if version.isdigit() and known.isdigit():
        return int(version) > int(known)
    return version != known
