"""The newest resources of every namespace, and who is told when one of them changes.

A change of one service touches its own resources only: nothing is rebuilt, copied or compared
besides. Resources of a service that is there are never withdrawn because something about it is
not known yet; see `is_gone`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

from lepton_operator.door.config import runtime, service_of
from lepton_operator.door.resources import Kind, Resource

Identity = tuple[Kind, str]


class Follower(Protocol):
    """Who is told what is new."""

    def touch(self, kind: Kind, name: str) -> None:
        """Take in that a resource is new, changed or gone."""

    def review(self, service: str) -> None:
        """Take in that it is known only now what a service has: a door may have other things."""


@dataclass(slots=True)
class Shelf:
    """The resources of one namespace."""

    resources: dict[Kind, dict[str, Resource]] = field(
        default_factory=lambda: {kind: {} for kind in Kind}
    )
    by_service: dict[str, frozenset[Identity]] = field(default_factory=dict)
    services: set[str] = field(default_factory=set)
    followers: list[Follower] = field(default_factory=list)

    def get(self, kind: Kind, name: str) -> Resource | None:
        return self.resources[kind].get(name)

    def names(self, kind: Kind) -> Collection[str]:
        return self.resources[kind].keys()

    def is_gone(self, kind: Kind, name: str) -> bool:
        """Tell whether a door that has this resource, which is not here, is to drop it.

        That is so if its service was seen deleted, or has another in its place. A service that
        is there, but of which too little is known to serve it, keeps what a door has.
        """
        if kind is Kind.RUNTIME:
            return False
        service = service_of(name)
        return service not in self.services or service in self.by_service


class Catalogue:
    def __init__(self) -> None:
        self._shelves: dict[str, Shelf] = {}

    def shelf(self, namespace: str) -> Shelf:
        """Return what the doors of a namespace are told; without services, that there are none."""
        found = self._shelves.get(namespace)
        if found is None:
            found = self._shelves[namespace] = Shelf()
            self.replace(namespace, runtime({}))
        return found

    def know(self, namespace: str, service: str) -> None:
        """Take in that a service is there, whether or not anything can be said of it."""
        self.shelf(namespace).services.add(service)

    def put(self, namespace: str, service: str, resources: Iterable[Resource]) -> None:
        """Take in all resources of a service; those that it had before and has no more are gone."""
        shelf = self.shelf(namespace)
        shelf.services.add(service)
        found = {(each.kind, each.name): each for each in resources}
        before = self._settle(shelf, service, frozenset(found))
        for each in found.values():
            self.replace(namespace, each)
        self._drop(shelf, before - found.keys())

    def replace(self, namespace: str, resource: Resource) -> None:
        """Take in one resource."""
        shelf = self.shelf(namespace)
        place = shelf.resources[resource.kind]
        before = place.get(resource.name)
        if before is None or before.version != resource.version:
            place[resource.name] = resource
            self._tell(shelf, resource.kind, resource.name)

    def withdraw(self, namespace: str, service: str) -> None:
        """Drop the resources of a service that is there, but must not be served."""
        shelf = self.shelf(namespace)
        self._drop(shelf, self._settle(shelf, service, frozenset()))

    def remove(self, namespace: str, service: str) -> None:
        """Drop what belonged to a service that was seen deleted."""
        shelf = self.shelf(namespace)
        shelf.services.discard(service)
        self._drop(shelf, self._settle(shelf, service, frozenset()))
        del shelf.by_service[service]

    @contextmanager
    def followed(self, namespace: str, follower: Follower) -> Iterator[None]:
        """Have somebody told of every change in a namespace."""
        shelf = self.shelf(namespace)
        shelf.followers.append(follower)
        try:
            yield
        finally:
            shelf.followers.remove(follower)

    def _settle(
        self, shelf: Shelf, service: str, identities: frozenset[Identity]
    ) -> frozenset[Identity]:
        """Note what a service has now; return what it had, as far as that was known."""
        before = shelf.by_service.get(service)
        shelf.by_service[service] = identities
        if before is None:
            for follower in shelf.followers:
                follower.review(service)
        return before or frozenset()

    def _drop(self, shelf: Shelf, identities: Iterable[Identity]) -> None:
        for kind, name in identities:
            del shelf.resources[kind][name]
            self._tell(shelf, kind, name)

    def _tell(self, shelf: Shelf, kind: Kind, name: str) -> None:
        for follower in shelf.followers:
            follower.touch(kind, name)
