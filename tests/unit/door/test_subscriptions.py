"""One door's side of the delta protocol, without a network."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from envoy.service.discovery.v3.discovery_pb2 import DeltaDiscoveryRequest, DeltaDiscoveryResponse
from google.rpc.status_pb2 import Status

from lepton_operator.door.catalogue import Catalogue
from lepton_operator.door.config import service_config
from lepton_operator.door.resources import Kind
from lepton_operator.door.served import Served
from lepton_operator.door.subscriptions import MAX_NAMES, Refusal, Subscriptions, TooManyNamesError
from tests.unit.door.builders import PODS, a_served

TEAM = "team"


class Door:
    """A door that acknowledges what it gets, unless it is slow."""

    def __init__(self, catalogue: Catalogue, had: dict[Kind, dict[str, str]] | None = None) -> None:
        self.has = had or {}
        self.shelf = catalogue.shelf(TEAM)
        self.subscriptions = Subscriptions(self.shelf)
        self.shelf.followers.append(self.subscriptions)

    def ask(self, kind: Kind, *names: str, drop: Iterable[str] = ()) -> None:
        self.subscriptions.receive(
            DeltaDiscoveryRequest(
                type_url=kind.value,
                resource_names_subscribe=names,
                resource_names_unsubscribe=drop,
                initial_resource_versions=self.has.get(kind, {}),
            )
        )

    def take(self) -> DeltaDiscoveryResponse | None:
        """Take the next answer, without a word."""
        answer = self.subscriptions.answer()
        if answer is not None:
            has = self.has.setdefault(Kind(answer.type_url), {})
            has.update({each.name: each.version for each in answer.resources})
            for name in answer.removed_resources:
                has.pop(name, None)
        return answer

    def say(self, answer: DeltaDiscoveryResponse, error: str = "") -> Refusal | None:
        request = DeltaDiscoveryRequest(type_url=answer.type_url, response_nonce=answer.nonce)
        if error:
            request.error_detail.CopyFrom(Status(message=error))
        return self.subscriptions.receive(request)

    def settle(self) -> list[DeltaDiscoveryResponse]:
        """Take and acknowledge all that comes; return it."""
        found = []
        while answer := self.take():
            self.say(answer)
            found.append(answer)
        return found


def told(answers: Iterable[DeltaDiscoveryResponse]) -> list[tuple[str, list[str], list[str]]]:
    return [
        (
            Kind(each.type_url).word,
            [resource.name for resource in each.resources],
            list(each.removed_resources),
        )
        for each in answers
    ]


def a_catalogue(*services: Served) -> Catalogue:
    found = Catalogue()
    for service in services:
        put(found, service)
    return found


def put(catalogue: Catalogue, service: Served) -> None:
    catalogue.put(TEAM, service.name, service_config(service))


def settled(catalogue: Catalogue) -> Door:
    """A door that asked for everything, as Envoy does, and got it."""
    door = Door(catalogue)
    door.ask(Kind.RUNTIME, "lepton-door")
    door.ask(Kind.CLUSTER)
    door.ask(Kind.LISTENER)
    door.settle()
    door.ask(Kind.ENDPOINTS, *catalogue.shelf(TEAM).names(Kind.CLUSTER))
    door.ask(Kind.ROUTES, *catalogue.shelf(TEAM).names(Kind.ROUTES))
    door.settle()
    return door


def come_back(catalogue: Catalogue, door: Door) -> Door:
    """The door on a new stream, as Envoy begins it: with all that it has."""
    found = Door(catalogue, door.has)
    for kind in Kind:
        is_whole = kind in (Kind.CLUSTER, Kind.LISTENER)
        found.ask(kind, *(() if is_whole else door.has.get(kind, {})))
    return found


def test_a_door_without_services_is_told_so() -> None:
    door = Door(Catalogue())
    door.ask(Kind.CLUSTER)
    assert told(door.settle()) == [("Cluster", [], [])]


def test_a_door_that_comes_back_gets_nothing_new() -> None:
    catalogue = a_catalogue(a_served(), a_served("other", 10_001))
    assert told(come_back(catalogue, settled(catalogue)).settle()) == []


def test_a_door_that_comes_back_gets_what_changed() -> None:
    catalogue = a_catalogue(a_served(), a_served("other", 10_001))
    door = settled(catalogue)
    renewed = a_catalogue(a_served(endpoints=PODS[:1]), a_served("other", 10_001))
    answers = told(come_back(renewed, door).settle())
    assert answers == [("ClusterLoadAssignment", ["digits/grpc", "digits/http"], [])]


def test_a_change_of_one_service_touches_nothing_else() -> None:
    catalogue = a_catalogue(*(a_served(f"s{number}", 10_000 + number) for number in range(20)))
    door = settled(catalogue)
    put(catalogue, a_served("s7", 10_007, endpoints=()))
    assert told(door.settle()) == [("ClusterLoadAssignment", ["s7/grpc", "s7/http"], [])]


def test_the_endpoints_of_a_changed_cluster_are_sent_again_after_it() -> None:
    catalogue = a_catalogue(a_served())
    door = settled(catalogue)
    limits = a_served().limits
    put(catalogue, a_served(limits=type(limits)(limits.body_bytes, limits.timeout_seconds, 5, 5)))
    assert told(door.settle()) == [
        ("Cluster", ["digits/grpc", "digits/http"], []),
        ("ClusterLoadAssignment", ["digits/grpc", "digits/http"], []),
    ]


def test_a_slow_door_gets_the_newest_state_once() -> None:
    catalogue = a_catalogue(a_served(endpoints=()))
    door = settled(catalogue)
    put(catalogue, a_served(endpoints=PODS[:1]))
    unread = door.take()
    assert unread
    for number in range(1000):
        put(catalogue, a_served(endpoints=PODS[: number % 2]))
        assert door.take() is None
    door.say(unread)
    assert told(door.settle()) == []  # it ended as it was when it was sent
    put(catalogue, a_served(endpoints=()))
    assert len(door.settle()) == 1


def test_what_a_door_refuses_is_named_and_not_sent_again() -> None:
    catalogue = a_catalogue(a_served(), a_served("other", 10_001))
    door = Door(catalogue)
    door.ask(Kind.LISTENER)
    answer = door.take()
    assert answer
    message = "Error adding/updating listener(s) other:10001: in use"
    assert door.say(answer, message) == Refusal(Kind.LISTENER, ("other",), message)
    assert door.settle() == []


def test_a_refusal_that_names_nothing_is_about_all_that_was_sent() -> None:
    catalogue = a_catalogue(a_served(), a_served("other", 10_001))
    door = Door(catalogue)
    door.ask(Kind.LISTENER)
    answer = door.take()
    assert answer
    refusal = door.say(answer, "no")
    assert refusal
    assert refusal.services == ("digits", "other")


def test_an_answer_to_something_older_counts_for_nothing() -> None:
    door = settled(a_catalogue(a_served()))
    stale = DeltaDiscoveryRequest(type_url=Kind.LISTENER.value, response_nonce="0")
    stale.error_detail.CopyFrom(Status(message="late"))
    assert door.subscriptions.receive(stale) is None


def test_a_deleted_service_goes_with_all_that_it_had() -> None:
    catalogue = a_catalogue(a_served(), a_served("other", 10_001))
    door = settled(catalogue)
    catalogue.remove(TEAM, "digits")
    assert told(door.settle()) == [
        ("Cluster", [], ["digits/grpc", "digits/http"]),
        ("ClusterLoadAssignment", [], ["digits/grpc", "digits/http"]),
        ("Listener", [], ["digits:18231"]),
        ("RouteConfiguration", [], ["digits"]),
    ]


def test_a_service_that_was_deleted_while_nobody_led_goes_too() -> None:
    door = settled(a_catalogue(a_served(), a_served("other", 10_001)))
    renewed = a_catalogue(a_served("other", 10_001))
    removed = [each for _, _, names in told(come_back(renewed, door).settle()) for each in names]
    assert "digits:18231" in removed
    assert "other:10001" not in removed


def test_nothing_goes_of_a_service_that_is_there_but_of_which_too_little_is_known() -> None:
    door = settled(a_catalogue(a_served()))
    unsure = Catalogue()
    unsure.know(TEAM, "digits")
    assert told(come_back(unsure, door).settle()) == []


def test_what_is_known_late_of_a_service_is_what_a_door_has() -> None:
    """A new leader found it without its Service, and does not know what the one before told."""
    had = settled(a_catalogue(a_served(), a_served("other", 10_001)))
    unsure = a_catalogue(a_served("other", 10_001))
    unsure.know(TEAM, "digits")
    door = come_back(unsure, had)
    assert told(door.settle()) == []
    put(unsure, a_served(port=10_005))
    assert told(door.settle()) == [("Listener", ["digits:10005"], ["digits:18231"])]


def test_a_service_of_which_nothing_was_known_goes_when_it_is_deleted() -> None:
    unsure = Catalogue()
    unsure.know(TEAM, "digits")
    door = come_back(unsure, settled(a_catalogue(a_served())))
    unsure.remove(TEAM, "digits")
    assert "digits:18231" in [name for _, _, names in told(door.settle()) for name in names]


def test_a_service_that_moved_loses_its_old_listener_only() -> None:
    catalogue = a_catalogue(a_served())
    door = settled(catalogue)
    put(catalogue, a_served(port=10_005))
    assert told(door.settle()) == [("Listener", ["digits:10005"], ["digits:18231"])]


def test_a_door_that_asks_again_gets_it_again() -> None:
    catalogue = a_catalogue(a_served())
    door = settled(catalogue)
    door.ask(Kind.ROUTES, drop=["digits"])
    put(catalogue, a_served(limits=a_served().limits))
    assert door.settle() == []
    door.ask(Kind.ROUTES, "digits")
    assert told(door.settle()) == [("RouteConfiguration", ["digits"], [])]


def test_a_door_cannot_ask_for_ever_more_names() -> None:
    door = Door(Catalogue())
    half = MAX_NAMES // 2
    door.ask(Kind.ROUTES, *(f"digits-{number}" for number in range(half)))
    door.ask(Kind.ROUTES, *(f"digits-{number}" for number in range(half, 2 * half)))
    with pytest.raises(TooManyNamesError):
        door.ask(Kind.ROUTES, "one-more")


def test_what_nobody_serves_is_not_answered() -> None:
    door = Door(a_catalogue(a_served()))
    door.subscriptions.receive(DeltaDiscoveryRequest(type_url="type.googleapis.com/other"))
    assert door.settle() == []
