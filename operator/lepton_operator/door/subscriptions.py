"""One door's side of the delta protocol: what it asked for, has, and is still to get.

No I/O: requests go in, answers come out. What waits for a door is a set of names, whose resources
are looked up when an answer is made: a slow door costs no memory, and gets the newest state. At
most one answer of a kind is on its way; what changes meanwhile is sent once.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass, field

from envoy.service.discovery.v3.discovery_pb2 import (
    DeltaDiscoveryRequest,
    DeltaDiscoveryResponse,
)

from lepton_operator.door.catalogue import Shelf
from lepton_operator.door.config import service_of
from lepton_operator.door.resources import Kind, Resource

EVERYTHING = "*"
_WHOLE_KINDS = frozenset({Kind.CLUSTER, Kind.LISTENER})
_KINDS = {kind.value: kind for kind in Kind}
MAX_NAMES = 50_000
"""Of a kind: two for each port of a namespace (`names.DOOR_PORTS`), and some that are old."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """A door's NACK, with the services whose resources it was about."""

    kind: Kind
    services: tuple[str, ...]
    message: str


@dataclass(slots=True)
class _Sent:
    nonce: str
    names: tuple[str, ...]


@dataclass(slots=True)
class _Subscription:
    """What a door has of one kind: `versions` by name, as far as it was sent or as it told.

    `brought`: the names by service that it had when it came.
    """

    whole: bool
    names: set[str] = field(default_factory=set)
    versions: dict[str, str] = field(default_factory=dict)
    brought: dict[str, list[str]] = field(default_factory=dict)
    waiting: set[str] = field(default_factory=set)
    owes_first: bool = False
    sent: _Sent | None = None

    def wants(self, name: str) -> bool:
        return self.whole or name in self.names


class TooManyNamesError(Exception):
    """A door asks for more than any namespace can have."""


class Subscriptions:
    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf
        self._subscriptions: dict[Kind, _Subscription] = {}
        self._nonces = itertools.count(1)

    def receive(self, request: DeltaDiscoveryRequest) -> Refusal | None:
        """Take in a door's request, which may be a NACK. Kinds that nobody serves are ignored.

        Raises TooManyNamesError.
        """
        kind = _KINDS.get(request.type_url)
        if kind is None:
            return None
        subscription = self._subscriptions.get(kind)
        if subscription is None:
            self._begin(kind, request)
            return None
        self._subscribe(subscription, request)
        if len(subscription.names) > MAX_NAMES:
            raise TooManyNamesError(f"more than {MAX_NAMES} names of {kind.word}")
        sent = subscription.sent
        if sent is None or request.response_nonce != sent.nonce:
            return None
        subscription.sent = None
        if not request.HasField("error_detail"):
            return None
        message = request.error_detail.message
        return Refusal(kind, _blamed(sent.names, message), message)

    def touch(self, kind: Kind, name: str) -> None:
        """Take in that a resource changed, or is gone."""
        subscription = self._subscriptions.get(kind)
        if subscription is not None and subscription.wants(name):
            subscription.waiting.add(name)

    def review(self, service: str) -> None:
        """Look again at all that the door brought of a service: what it was sent is known."""
        for subscription in self._subscriptions.values():
            subscription.waiting.update(subscription.brought.pop(service, ()))

    def answer(self) -> DeltaDiscoveryResponse | None:
        """Return what is to be sent now, if anything is and the door answered the last."""
        for kind in Kind:
            subscription = self._subscriptions.get(kind)
            if subscription is not None and subscription.sent is None:
                made = self._answer(kind, subscription)
                if made is not None:
                    return made
        return None

    def _begin(self, kind: Kind, request: DeltaDiscoveryRequest) -> None:
        """Begin. A door that comes back tells what it has, and gets nothing twice."""
        asked = set(request.resource_names_subscribe)
        whole = EVERYTHING in asked or (not asked and kind in _WHOLE_KINDS)
        found = _Subscription(whole, asked - {EVERYTHING}, dict(request.initial_resource_versions))
        for name in found.versions:
            found.brought.setdefault(service_of(name), []).append(name)
        found.waiting = found.names | found.versions.keys()
        if whole:
            found.waiting.update(self._shelf.names(kind))
            # A door is ready once it was told something, if only that there is nothing.
            found.owes_first = not found.versions
        self._subscriptions[kind] = found

    def _subscribe(self, subscription: _Subscription, request: DeltaDiscoveryRequest) -> None:
        for name in request.resource_names_subscribe:
            if name == EVERYTHING:
                continue
            subscription.names.add(name)
            subscription.versions.pop(name, None)  # who asks again has it no more
            subscription.waiting.add(name)
        for name in request.resource_names_unsubscribe:
            subscription.names.discard(name)
            if not subscription.whole:
                subscription.versions.pop(name, None)
                subscription.waiting.discard(name)

    def _answer(self, kind: Kind, subscription: _Subscription) -> DeltaDiscoveryResponse | None:
        waiting, subscription.waiting = sorted(subscription.waiting), set()
        changed = [each for name in waiting if (each := self._news(kind, subscription, name))]
        removed = [name for name in waiting if self._is_to_go(kind, subscription, name)]
        if not (changed or removed or subscription.owes_first):
            return None
        if kind is Kind.CLUSTER:
            self._resend_endpoints(
                each.name for each in changed if each.name in subscription.versions
            )
        subscription.owes_first = False
        subscription.versions.update({each.name: each.version for each in changed})
        for name in removed:
            subscription.versions.pop(name, None)
        nonce = str(next(self._nonces))
        subscription.sent = _Sent(nonce, tuple(each.name for each in changed))
        return _response(kind, nonce, changed, removed)

    def _news(self, kind: Kind, subscription: _Subscription, name: str) -> Resource | None:
        found = self._shelf.get(kind, name)
        if found is None or not subscription.wants(name):
            return None
        return found if subscription.versions.get(name) != found.version else None

    def _is_to_go(self, kind: Kind, subscription: _Subscription, name: str) -> bool:
        known = name in subscription.versions or name in subscription.names
        return known and not self._shelf.get(kind, name) and self._shelf.is_gone(kind, name)

    def _resend_endpoints(self, clusters: Iterable[str]) -> None:
        """Have endpoints sent again: a changed cluster is not used until they come."""
        endpoints = self._subscriptions.get(Kind.ENDPOINTS)
        if endpoints is None:
            return
        for name in clusters:
            if endpoints.wants(name):
                endpoints.versions.pop(name, None)
                endpoints.waiting.add(name)


def _response(
    kind: Kind, nonce: str, changed: Iterable[Resource], removed: Iterable[str]
) -> DeltaDiscoveryResponse:
    found = DeltaDiscoveryResponse(type_url=kind.value, nonce=nonce, removed_resources=removed)
    for each in changed:
        added = found.resources.add(name=each.name, version=each.version)
        added.resource.type_url = kind.value
        added.resource.value = each.body
    return found


def _blamed(sent: Iterable[str], message: str) -> tuple[str, ...]:
    """Return the services that a NACK names, or else all that it can be about."""
    services = {service_of(name) for name in sent}
    named = {service_of(name) for name in sent if name in message}
    return tuple(sorted(named or services))
