"""In any order of events, with the leader replaced anywhere, the doors end with the same."""

from __future__ import annotations

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from lepton_operator.api.inference import InferenceService
from lepton_operator.cache import Cache, OwnObject
from lepton_operator.door.config import service_of
from lepton_operator.door.feed import Feed
from lepton_operator.door.resources import Kind
from lepton_operator.settings import DoorDefaults
from tests.unit.door.cluster import TEAM, inference_service, kubernetes_service, serving_pod
from tests.unit.door.test_subscriptions import Door, come_back

PORTS = (18_231, 18_232, 18_233, 18_234)
SERVED = (Kind.CLUSTER, Kind.ENDPOINTS, Kind.LISTENER, Kind.ROUTES)

NAMES = ("digits", "letters")
named = st.sampled_from(NAMES)
phases = st.sampled_from(("Running", "Failed"))


def parse(own: OwnObject) -> InferenceService:
    return InferenceService.model_validate(own.body)


class DoorWorld(RuleBasedStateMachine):
    """The objects as the API server has them, a leader that sees each event, and a door."""

    def __init__(self) -> None:
        super().__init__()
        self.version = 0
        self.objects: dict[tuple[str, str], dict[str, Any]] = {}
        self.incarnations: dict[str, int] = {}
        self.recreations: dict[str, int] = {}
        self.ports: dict[str, int] = {}  # that a Kubernetes Service said last
        self.deleted: set[str] = set()  # since the door was looked at
        self.seen: set[str] = set()  # the services that the door listened for then
        self.lead()
        self.door = Door(self.feed.catalogue)
        for kind in (Kind.CLUSTER, Kind.LISTENER):
            self.door.ask(kind)

    @initialize()
    def begin(self) -> None:
        """Begin with services that are served."""
        for name, port in zip(NAMES, PORTS, strict=False):
            self.apply(name, 1)
            self.lead_to(name, port)
            self.pod(name, ready=True, phase="Running")

    def lead(self) -> None:
        """Begin as a leader does: list everything, and then serve."""
        self.cache = Cache("nvidia.com/gpu")
        for (kind, _), body in self.objects.items():
            self.cache.put(kind, body)
        self.feed = self.begun()

    def begun(self) -> Feed:
        found = Feed(self.cache, parse, DoorDefaults())
        found.begin()
        return found

    def put(self, kind: str, name: str, body: dict[str, Any]) -> None:
        self.version += 1
        body["metadata"]["resourceVersion"] = str(self.version)
        self.objects[kind, name] = body
        change = self.cache.put(kind, body)
        if change is not None:
            self.feed.note(change)

    def delete(self, kind: str, name: str) -> bool:
        body = self.objects.pop((kind, name), None)
        change = self.cache.remove(kind, body) if body else None
        if change is not None:
            self.feed.note(change)
        return body is not None

    def uid(self, name: str) -> str:
        return f"{name}-{self.incarnations.get(name, 0)}"

    @rule(name=named, concurrency=st.integers(1, 3))
    def apply(self, name: str, concurrency: int) -> None:
        limits = {"concurrency": concurrency}
        body = inference_service(name, self.uid(name), self.version, limits=limits)
        self.put("InferenceService", name, body)

    @rule(name=named)
    def delete_service(self, name: str) -> None:
        """As a person deletes it: what belongs to it goes before or after, as it happens."""
        if self.delete("InferenceService", name):
            self.deleted.add(name)
            self.incarnations[name] = self.incarnations.get(name, 0) + 1

    @rule(name=named, port=st.sampled_from(PORTS))
    def lead_to(self, name: str, port: int) -> None:
        """Have the name's Kubernetes Service lead to a port; it is made if there is none."""
        made = self.objects.get(("Service", name))
        owner = self.uid(name)
        if made and made["metadata"]["ownerReferences"][0]["uid"] != owner:
            return  # Kubernetes has not removed the one of the service before
        body = kubernetes_service(name, owner, port)
        body["metadata"]["uid"] += f"-{self.recreations.get(name, 0)}"
        self.ports[name] = port
        self.put("Service", name, body)

    @rule(name=named)
    def delete_kubernetes_service(self, name: str) -> None:
        if self.delete("Service", name):
            self.recreations[name] = self.recreations.get(name, 0) + 1

    @rule(name=named, ready=st.booleans(), phase=phases)
    def pod(self, name: str, ready: bool, phase: str) -> None:  # noqa: FBT001 - given by name
        pod = f"{name}-serve-{self.incarnations.get(name, 0)}"
        self.put("Pod", pod, serving_pod(pod, self.uid(name), name, ready=ready, phase=phase))

    @rule()
    def another_leads(self) -> None:
        self.lead()
        self.door = come_back(self.feed.catalogue, self.door)

    def listening(self) -> set[str]:
        return {service_of(name) for name in self.door.has.get(Kind.LISTENER, {})}

    def has_a_rival(self, name: str) -> bool:
        """Whether another Service leads to the port that this one led to last."""
        return any(
            each["spec"]["ports"][0]["targetPort"] == self.ports[name]
            for (kind, other), each in self.objects.items()
            if kind == "Service" and other != name
        )

    @invariant()
    def nothing_leaves_a_door_that_was_not_deleted(self) -> None:
        self.follow()
        before, self.seen = self.seen, self.listening()
        for name in before - self.seen - self.deleted:
            assert self.has_a_rival(name), f"{name} left the door, and nobody deleted it"
        self.deleted.clear()

    def follow(self) -> None:
        """Do what Envoy does: ask for the endpoints and routes of what it has, and no others."""
        self.door.settle()
        clusters = set(self.door.has.get(Kind.CLUSTER, {}))
        for kind, wanted in ((Kind.ENDPOINTS, clusters), (Kind.ROUTES, self.listening())):
            has = self.door.has.get(kind, {})
            dropped, new = has.keys() - wanted, wanted - has.keys()
            for name in dropped:
                del has[name]
            if dropped or new or kind not in self.door.has:
                self.door.ask(kind, *new, drop=dropped)
        self.door.settle()

    @invariant()
    def a_new_leader_would_say_the_same(self) -> None:
        """What was told bit by bit is what one tells who sees it all at once; the door has it."""
        self.follow()
        whole = self.begun().catalogue.shelf(TEAM)
        told = self.feed.catalogue.shelf(TEAM)
        for kind in SERVED:
            for name in whole.names(kind):
                resource = whole.get(kind, name)
                assert resource is not None
                assert told.get(kind, name) == resource
                assert self.door.has[kind][name] == resource.version


TestDoorWorld = DoorWorld.TestCase
TestDoorWorld.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
