"""Which pods are replicas, and what their starts took."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from lepton_operator import names
from lepton_operator.scaling.replicas import replicas
from lepton_operator.views import ContainerView, PodView

CREATED = datetime(2026, 11, 22, 4, tzinfo=UTC)
NOW = CREATED + timedelta(seconds=90)


def pod(name: str = "a", ready_after: float | None = None, **more: object) -> PodView:
    ready = None if ready_after is None else CREATED + timedelta(seconds=ready_after)
    found = PodView(
        name, "team", f"uid-{name}", "Running", CREATED, ready=ready is not None, ready_since=ready
    )
    return replace(found, **more)  # type: ignore[arg-type]


def test_ready_pods_serve_and_the_others_start() -> None:
    found = replicas([pod("a", 40), pod("b"), pod("c", 20)], frozenset({"uid-c"}), NOW)
    assert (found.ready, found.starting_ages, found.startups_seconds) == (2, (90.0,), (40.0,))
    assert found.known == {"uid-a", "uid-c"}


def test_what_goes_or_gets_no_requests_is_no_replica() -> None:
    going = [
        pod("a", 40, deleting=True),
        pod("b", 40, gone=True),
        pod("c", phase="Failed"),
        pod("d", 40, annotations={names.DRAINING: "2026-11-22T04:01:00Z"}),
    ]
    assert replicas(going, frozenset(), NOW).ready == 0
    assert replicas(going, frozenset(), NOW).starting_ages == ()


def test_a_pod_that_was_started_again_tells_no_start() -> None:
    again = pod("a", 40, containers=(ContainerView("triton", "running", restarts=1),))
    assert replicas([again], frozenset(), NOW).startups_seconds == ()


def test_clocks_that_differ_make_no_start_shorter_than_what_they_show() -> None:
    assert replicas([pod("a", -3)], frozenset(), NOW).startups_seconds == (1.0,)


def test_a_pod_whose_readiness_comes_back_has_not_started_anew() -> None:
    there = frozenset({"uid-a", "uid-gone"})
    away = replicas([pod("a")], there, NOW)
    assert away.known == {"uid-a"}
    assert replicas([pod("a", 80)], away.known, NOW).startups_seconds == ()


def test_a_first_look_takes_only_starts_that_are_alike() -> None:
    pods = [pod("a", 20), pod("b", 35), pod("c", 85)]
    assert replicas(pods, None, NOW).startups_seconds == (20.0, 35.0)
    assert replicas(pods, frozenset(), NOW).startups_seconds == (20.0, 35.0, 85.0)


def test_hours_without_a_gpu_are_no_start() -> None:
    assert replicas([pod("a", 7200)], frozenset(), NOW).startups_seconds == ()


def test_the_scheduler_says_what_has_no_room() -> None:
    waiting = pod(
        "a", unschedulable_message="0/3 nodes are available: 3 Insufficient nvidia.com/gpu."
    )
    assert replicas([waiting], None, NOW).without_room == (waiting.unschedulable_message,)
