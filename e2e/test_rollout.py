"""What happens to a service costs its clients no request; `make bench-rollout` has all of it."""

from __future__ import annotations

import pytest

from e2e.cluster.target import Target
from e2e.kubectl import Kubectl
from e2e.rollout.events import EVENTS
from e2e.rollout.measure import Measured, measured

BEFORE_SECONDS = 2.0
AFTER_SECONDS = 3.0


def after(target: Target, kubectl: Kubectl, event: str) -> Measured:
    """Return what an event did; every bar that was missed fails the test."""
    found = measured(
        *(target, kubectl, event, EVENTS[event]),
        before_seconds=BEFORE_SECONDS,
        after_seconds=AFTER_SECONDS,
    )
    print(f"\n{event}: {found.told()}")
    assert not found.missed, found.failures[:5]
    return found


@pytest.mark.parametrize(
    ("event", "versions"),
    [
        ("new_version", {"1", "2"}),
        ("pod_deleted", {"1"}),
        ("door_replaced", {"1"}),
        ("failed_version", {"1"}),
    ],
)
def test_no_request_fails_after(
    installed: Target, namespace: Kubectl, event: str, versions: set[str]
) -> None:
    assert after(installed, namespace, event).versions == versions


@pytest.mark.parametrize("event", ["node_drained", "full_cluster_one_gpu_free"])
def test_no_request_fails_on_a_cluster_of_our_own_after(
    installed: Target, namespace: Kubectl, event: str
) -> None:
    if installed.embedded is None:
        pytest.skip("it would drain a person's nodes, or fill their GPUs")
    after(installed, namespace, event)
