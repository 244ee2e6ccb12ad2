"""What two runs that are both right have in common."""

from __future__ import annotations

import json

import pytest

from tests.resilience import snapshot, writes
from tests.resilience.writes import Target

JOBS = "/apis/lepton.ai/v1alpha1/namespaces/one/trainingjobs"


@pytest.mark.parametrize(
    ("method", "path", "target"),
    [
        ("POST", "/api/v1/namespaces/one/pods", Target("create", "pods", "made")),
        ("PATCH", f"{JOBS}/gang/status", Target("patch", "trainingjobs/status", "gang")),
        ("DELETE", f"{JOBS}/gang", Target("delete", "trainingjobs", "gang")),
        (
            "DELETE",
            "/api/v1/namespaces/one/pods/digits-serve-7",
            Target("delete", "pods", "digits-serve-N"),
        ),
    ],
)
def test_a_write_has_the_same_name_in_every_run(method: str, path: str, target: Target) -> None:
    body = json.dumps({"metadata": {"name": "made"}}).encode()
    assert writes.parse(method, path, body) == ("one", target)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/api/v1/namespaces/one/pods"),
        ("POST", "/api/v1/namespaces/one/events"),
        ("PUT", "/apis/coordination.k8s.io/v1/namespaces/one/leases/lepton-operator"),
    ],
)
def test_reads_events_and_the_lease_are_no_kill_points(method: str, path: str) -> None:
    assert writes.parse(method, path, b"") is None


def pod(name: str, **more: str) -> dict[str, object]:
    return {"kind": "Pod", "metadata": {"name": name, **more}}


def test_uids_times_addresses_nodes_and_free_numbers_are_not_compared() -> None:
    one = {
        **pod("digits-serve-0", uid="1", resourceVersion="2"),
        "status": {"podIP": "10.62.0.1", "said": "one, fake-1, 2026-11-22T05:00:00Z"},
    }
    other = {
        **pod("digits-serve-3", uid="4", resourceVersion="5"),
        "status": {"podIP": "10.62.0.9", "said": "two, fake-2, 2026-11-22T06:07:08.9Z"},
    }
    assert snapshot.leaves("one", [one]) == snapshot.leaves("two", [other])


def test_a_difference_is_told_by_its_path() -> None:
    wanted = snapshot.leaves("one", [{**pod("a"), "status": {"phase": "Running"}}])
    found = snapshot.leaves("one", [{**pod("a"), "status": {"phase": "Failed"}}, pod("b")])
    assert snapshot.differences(wanted, found) == [
        'Pod a[0].status.phase: "Running" became "Failed"',
        'Pod b[0].kind: absent became "Pod"',
        "Pod b[0].metadata.annotations: absent became {}",
        'Pod b[0].metadata.name: absent became "b"',
    ]
