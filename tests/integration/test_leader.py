"""One leader at a time, on a real Lease."""

from __future__ import annotations

import asyncio
import signal
import time
from typing import Any

import pytest
from structlog.testing import capture_logs

from lepton_operator import errors
from lepton_operator.cluster import Cluster
from lepton_operator.leader import Candidate, Leader, LeaseLost
from lepton_operator.metrics import Metrics
from lepton_operator.settings import LeaderElection
from tests.integration.conftest import PATIENT_LEASE, Namespace, Operators

# It never runs out by itself while a test looks, however slow that is.
LONG = LeaderElection(name="long", lease_seconds=600, renew_deadline_seconds=500, retry_seconds=1)
SOON_SECONDS = 60
# For those that wait for its end; long enough to be renewed on two busy cores.
LEASE = {"leaseSeconds": 16, "renewDeadlineSeconds": 12, "retrySeconds": 1}


class Clock:
    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self.ahead


def leader(
    client: Cluster, namespace: Namespace, identity: str, clock: Clock | None = None
) -> Leader:
    return Leader(
        client, LONG, Candidate(namespace.name, identity), Metrics(), clock or time.monotonic
    )


def spec_of(namespace: Namespace) -> dict[str, Any]:
    found = namespace.get("Lease", "long")
    assert found
    return dict(found["spec"])


async def standing_by(candidate: Leader) -> asyncio.Task[None]:
    """Return its wait for the Lease, once it has seen that another one holds it."""
    with capture_logs() as said:
        waiting = asyncio.create_task(candidate.acquire())
        async with asyncio.timeout(SOON_SECONDS):
            while not any(it["event"] == "Standing by" for it in said):  # noqa: ASYNC110 - a log
                await asyncio.sleep(0.01)
    return waiting


async def test_the_first_one_holds_and_the_second_waits(
    client: Cluster, namespace: Namespace
) -> None:
    first, second = leader(client, namespace, "first"), leader(client, namespace, "second")
    await first.acquire()
    assert first.held()
    waiting = await standing_by(second)
    assert not second.held()
    waiting.cancel()


async def test_a_released_lease_is_taken_at_once(client: Cluster, namespace: Namespace) -> None:
    first, second = leader(client, namespace, "first"), leader(client, namespace, "second")
    await first.acquire()
    await first.release()
    assert not first.held()
    await asyncio.wait_for(second.acquire(), timeout=SOON_SECONDS)
    spec = spec_of(namespace)
    assert (spec["holderIdentity"], spec["leaseTransitions"]) == ("second", 2)


async def test_the_same_identity_goes_on_at_once(client: Cluster, namespace: Namespace) -> None:
    await leader(client, namespace, "pod").acquire()
    again = leader(client, namespace, "pod")
    await asyncio.wait_for(again.acquire(), timeout=SOON_SECONDS)
    assert spec_of(namespace)["leaseTransitions"] == 1


async def test_a_silent_holder_is_replaced_when_its_lease_ran_out_on_our_clock(
    client: Cluster, namespace: Namespace
) -> None:
    await leader(client, namespace, "silent").acquire()
    clock = Clock()
    second = leader(client, namespace, "second", clock)
    waiting = await standing_by(second)
    clock.ahead = LONG.lease_seconds
    await asyncio.wait_for(waiting, timeout=SOON_SECONDS)
    assert spec_of(namespace)["holderIdentity"] == "second"


async def test_a_blocked_loop_ends_the_claim_before_anything_is_written(
    client: Cluster, namespace: Namespace
) -> None:
    clock = Clock()
    first = leader(client, namespace, "first", clock)
    client.may_write = first.held
    await first.acquire()
    clock.ahead = LONG.renew_deadline_seconds + 0.1
    pod = {"kind": "Pod", "metadata": {"name": "late", "namespace": namespace.name}}
    with pytest.raises(errors.NotLeader):
        await client.create(pod)
    with pytest.raises(LeaseLost, match="so that a standby can take over"):
        await asyncio.wait_for(first.keep(), timeout=SOON_SECONDS)
    assert namespace.list("Pod") == []


async def test_a_stolen_lease_is_noticed_at_the_next_renewal(
    client: Cluster, namespace: Namespace
) -> None:
    first = leader(client, namespace, "first")
    await first.acquire()
    thief = {"spec": {"holderIdentity": "thief"}}
    namespace.api.patch(namespace.path("Lease", "long"), thief)
    with pytest.raises(LeaseLost, match="thief"):
        await asyncio.wait_for(first.keep(), timeout=SOON_SECONDS)


def test_a_standby_takes_over_within_seconds_of_sigterm(
    namespace: Namespace, operators: Operators
) -> None:
    first, second = operators.start("first"), operators.start("second")
    assert second.says("Standing by")
    first.signal(signal.SIGTERM)
    began = time.monotonic()
    second.wait_until_it_says("Everything is listed")
    took = time.monotonic() - began
    assert first.wait() == 0
    assert took < PATIENT_LEASE["renewDeadlineSeconds"], "the Lease was released, and did not end"
    namespace.train()
    namespace.wait_for_pods("digits-train-1-0")


def test_a_standby_takes_over_when_the_leader_is_killed(
    namespace: Namespace, operators: Operators
) -> None:
    first = operators.start("first", leaderElection=LEASE)
    second = operators.start("second", leaderElection=LEASE)
    namespace.train()
    namespace.wait_for_pods("digits-train-1-0")
    assert second.says("Ready to lead"), "it knows everything before it asks for the Lease"
    first.signal(signal.SIGKILL)
    began = time.monotonic()
    second.wait_until_it_says("Everything is listed")
    assert 3 < time.monotonic() - began < LEASE["leaseSeconds"] + 60  # busy cores
    said = second.log.read_text()
    assert said.index("Ready to lead") < said.index("Leading") < said.index("Everything is listed")
    namespace.train("another")
    namespace.wait_for_pods("another-train-1-0", "digits-train-1-0")


def test_a_leader_that_was_stopped_writes_nothing_when_it_goes_on(operators: Operators) -> None:
    first = operators.start("first", leaderElection=LEASE)
    second = operators.start("second", leaderElection=LEASE)
    first.signal(signal.SIGSTOP)
    second.wait_until_it_says("Everything is listed")
    first.signal(signal.SIGCONT)
    assert first.wait() == 1
    assert first.says("so that a standby can take over")
    assert operators.lease()["holderIdentity"] == "second"


def test_a_restarted_container_leads_at_once(operators: Operators) -> None:
    first = operators.start("pod-uid")
    first.signal(signal.SIGKILL)
    first.wait()
    again = operators.start("pod-uid")
    assert not again.says("Standing by")
    assert operators.lease()["leaseTransitions"] == 1
