"""What of the cluster reaches the doors, and what never leaves them by mistake."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from structlog.testing import capture_logs

from lepton_operator.api.inference import InferenceService
from lepton_operator.cache import Cache, Change, OwnObject
from lepton_operator.door.feed import Feed
from lepton_operator.door.resources import Kind
from lepton_operator.names import DOOR_PORT, owner_labels
from lepton_operator.settings import DoorDefaults
from tests.unit.door.cluster import TEAM, inference_service, kubernetes_service, serving_pod


def parse(own: OwnObject) -> InferenceService:
    return InferenceService.model_validate(own.body)


def of_old(announced: str) -> dict[str, Any]:
    """A Service that leads past the doors."""
    body = kubernetes_service("old", "svc-2", "http")
    body["metadata"]["annotations"] = {DOOR_PORT: announced}
    body["spec"]["selector"] = owner_labels("InferenceService", "old")
    return body


class Scene:
    """A cache, and a feed that is told of its changes; who follows it hears of each resource."""

    def __init__(self, read: Callable[[OwnObject], InferenceService] = parse) -> None:
        self.cache = Cache("nvidia.com/gpu")
        self.feed = Feed(self.cache, read, DoorDefaults())
        self.heard: list[str] = []
        self.shelf = self.feed.catalogue.shelf(TEAM)
        self.shelf.followers.append(self)
        self.version = 0

    def touch(self, kind: Kind, name: str) -> None:
        self.heard.append(f"{kind.word} {name}")

    def review(self, service: str) -> None:
        pass

    def put(self, kind: str, body: dict[str, Any]) -> Change | None:
        self.version += 1
        body["metadata"]["resourceVersion"] = str(self.version)
        change = self.cache.put(kind, body)
        if change is not None:
            self.feed.note(change)
        return change

    def delete(self, kind: str, body: dict[str, Any]) -> None:
        change = self.cache.remove(kind, body)
        assert change
        self.feed.note(change)

    def begin(self) -> Scene:
        """A service with one ready pod, which the doors know."""
        self.put("InferenceService", inference_service())
        self.put("Service", kubernetes_service())
        self.put("Pod", serving_pod())
        self.feed.begin()
        self.heard.clear()
        return self

    def names(self, kind: Kind = Kind.LISTENER) -> list[str]:
        return sorted(self.shelf.names(kind))


ENDPOINTS = ["ClusterLoadAssignment digits/http", "ClusterLoadAssignment digits/grpc"]


def test_nothing_is_told_before_everything_is_known() -> None:
    scene = Scene()
    scene.put("InferenceService", inference_service())
    scene.put("Service", kubernetes_service())
    assert scene.heard == []
    scene.feed.begin()
    assert scene.names() == ["digits:18231"]


def test_a_service_without_a_port_has_no_resources_yet() -> None:
    scene = Scene().begin()
    scene.put("InferenceService", inference_service("new", "svc-2"))
    assert scene.heard == []
    scene.put("Service", kubernetes_service("new", "svc-2", 18_232))
    assert scene.names() == ["digits:18231", "new:18232"]


def test_the_doors_listen_for_a_service_before_it_leads_to_them() -> None:
    scene = Scene().begin()
    scene.put("InferenceService", inference_service("old", "svc-2"))
    past, announced = (of_old(each) for each in ("", "18232"))
    scene.put("Service", past)
    assert scene.names() == ["digits:18231"]
    scene.put("Service", announced)
    assert scene.names() == ["digits:18231", "old:18232"]
    scene.heard.clear()
    scene.put("Service", kubernetes_service("old", "svc-2", 18_232))
    assert scene.heard == []


def test_a_changed_endpoint_touches_its_own_endpoints_only() -> None:
    scene = Scene().begin()
    scene.put("Pod", serving_pod(ready=False))
    assert scene.heard == ENDPOINTS


@pytest.mark.parametrize(
    "change", [{"phase": "Running", "reason": "said something"}, {"annotations": {"theirs": "1"}}]
)
def test_most_of_what_happens_to_a_pod_is_nothing_to_a_door(change: dict[str, Any]) -> None:
    scene = Scene().begin()
    scene.put("Pod", serving_pod(**change))
    assert scene.heard == []


def test_a_written_status_is_nothing_to_a_door() -> None:
    scene = Scene().begin()
    scene.put("InferenceService", inference_service() | {"status": {"version": 3}})
    assert scene.heard == []


def test_other_limits_touch_clusters_and_routes() -> None:
    scene = Scene().begin()
    scene.put("InferenceService", inference_service(generation=2, limits={"concurrency": 5}))
    assert scene.heard == ["Cluster digits/http", "Cluster digits/grpc"]


def test_a_service_that_lost_its_service_by_hand_stays_as_it_was() -> None:
    scene = Scene().begin()
    scene.delete("Service", kubernetes_service())
    assert scene.names() == ["digits:18231"]
    scene.put("Pod", serving_pod(ready=False))
    assert scene.heard == ENDPOINTS


def test_a_service_whose_spec_is_not_valid_keeps_its_limits_and_follows_its_pods() -> None:
    scene = Scene().begin()
    scene.put("InferenceService", inference_service(generation=2, limits={"queue": "many"}))
    scene.put("Pod", serving_pod(ready=False))
    assert scene.names() == ["digits:18231"]
    assert scene.heard == ENDPOINTS


def test_only_the_deletion_of_the_object_itself_takes_it_away() -> None:
    scene = Scene().begin()
    scene.delete("Pod", serving_pod())
    scene.delete("Service", kubernetes_service())
    assert scene.names() == ["digits:18231"]
    scene.delete("InferenceService", inference_service())
    assert [scene.names(kind) for kind in Kind if kind is not Kind.RUNTIME] == [[]] * 4


def test_of_two_services_on_one_port_only_the_older_is_served() -> None:
    scene = Scene().begin()
    scene.put("InferenceService", inference_service("young", "svc-2"))
    younger = "2026-11-22T05:00:00Z"
    scene.put("Service", kubernetes_service("young", "svc-2", created=younger))
    assert scene.names() == ["digits:18231"]
    scene.put("Service", kubernetes_service("young", "svc-2", 18_232, created=younger))
    assert scene.names() == ["digits:18231", "young:18232"]


def test_an_older_service_that_is_seen_later_takes_its_port_back() -> None:
    scene = Scene().begin()
    scene.put("InferenceService", inference_service("old", "svc-2"))
    scene.put("Service", kubernetes_service("old", "svc-2", created="2026-11-22T03:00:00Z"))
    assert scene.names() == ["old:18231"]


def test_targets_are_told_once_they_are_not_the_ones_that_every_listener_assumes() -> None:
    assert "Runtime lepton-door" not in heard_of_another(DoorDefaults())
    other = DoorDefaults(latency_target_milliseconds=200)
    assert "Runtime lepton-door" in heard_of_another(other)


def heard_of_another(defaults: DoorDefaults) -> list[str]:
    scene = Scene()
    scene.feed.defaults = defaults
    scene.begin()
    scene.put("InferenceService", inference_service("new", "svc-2"))
    scene.put("Service", kubernetes_service("new", "svc-2", 18_232))
    return scene.heard


def test_a_defect_about_one_service_holds_up_no_other() -> None:
    def read(own: OwnObject) -> InferenceService:
        if own.key.name == "broken":
            raise ZeroDivisionError
        return parse(own)

    scene = Scene(read).begin()
    with capture_logs() as logs:
        scene.put("InferenceService", inference_service("broken", "svc-2"))
        scene.put("Service", kubernetes_service("broken", "svc-2", 18_232))
        scene.put("Pod", serving_pod(ready=False))
    assert scene.heard == ENDPOINTS
    assert {each["service"] for each in logs} == {"broken"}
