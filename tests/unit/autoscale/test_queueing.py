from __future__ import annotations

import math

import pytest

from lepton_operator.autoscale.queueing import (
    Door,
    Wait,
    capacity,
    erlang_c,
    mean_wait,
    replicas_for,
    share_late,
)

POOLED = Door("least-loaded", doors=1)
TWO_DOORS = Door("least-loaded", doors=2)
RANDOM = Door("random")


@pytest.mark.parametrize(
    ("servers", "offered", "waits"),
    [(2, 1.5, 0.642857), (10, 8, 0.409180), (20, 16, 0.256078), (100, 90, 0.216940)],
)
def test_erlangs_c_has_the_values_of_the_tables(servers: int, offered: float, waits: float) -> None:
    assert erlang_c(servers, offered) == pytest.approx(waits, abs=1e-6)


@pytest.mark.parametrize(("servers", "offered"), [(1, 0.5), (4, 3.2), (16, 14.4)])
def test_the_tail_is_exact_for_exponential_service_behind_one_door(
    servers: int, offered: float
) -> None:
    exact = erlang_c(servers, offered) * math.exp(-3 * (servers - offered))
    assert share_late(servers, offered, Wait(3, 0.05, 1.0, POOLED)) == pytest.approx(exact)


# Shares of requests that waited longer, from 20,000 s of bench/autoscaling's simulator: two
# doors, constant service.
@pytest.mark.parametrize(
    ("servers", "utilised", "slack", "simulated"),
    [
        (2, 0.4, 0.5, 0.1696),
        (2, 0.8, 1.0, 0.3759),
        (2, 0.8, 4.0, 0.0306),
        (4, 0.6, 0.5, 0.2518),
        (4, 0.8, 1.0, 0.1974),
        (4, 0.8, 2.0, 0.0408),
        (8, 0.8, 1.0, 0.0666),
        (8, 0.6, 0.5, 0.2200),
    ],
)
def test_two_doors_come_out_as_in_the_simulator(
    servers: int, utilised: float, slack: float, simulated: float
) -> None:
    found = share_late(servers, servers * utilised, Wait(slack, 0.05, 0.5, TWO_DOORS))
    assert found == pytest.approx(simulated, rel=0.33)


def test_random_balancing_is_a_queue_for_each_replica() -> None:
    of_one = share_late(1, 0.8, Wait(2, 0.05, 0.5, POOLED))
    assert share_late(16, 12.8, Wait(2, 0.05, 0.5, RANDOM)) == pytest.approx(of_one)


def test_fewer_doors_and_less_chance_hold_more() -> None:
    pooled, two, lot = (
        capacity(4, Wait(1.0, 0.05, 0.5, door)) for door in (POOLED, TWO_DOORS, RANDOM)
    )
    assert pooled > two > lot > 0


def test_capacity_grows_with_replicas_and_with_patience() -> None:
    by_replicas = [capacity(n, Wait(4, 0.05, 0.5, TWO_DOORS)) for n in range(1, 40)]
    by_slack = [capacity(4, Wait(slack, 0.05, 0.5, TWO_DOORS)) for slack in (0.1, 0.5, 1, 2, 8)]
    assert by_replicas == sorted(by_replicas)
    assert by_slack == sorted(by_slack)


def test_the_least_number_is_taken_that_holds() -> None:
    wait = Wait(4, 0.05, 0.5, TWO_DOORS)
    for offered in (0.01, 0.5, 2.0, 7.7, 31.0):
        replicas = replicas_for(offered, wait, 100)
        assert capacity(replicas, wait) >= offered
        assert replicas == 1 or capacity(replicas - 1, wait) < offered


@pytest.mark.parametrize("percentile", [90.0, 95.0, 99.0])
@pytest.mark.parametrize("slack", [1.5, 4.0])
def test_no_further_replica_would_save_more_than_it_costs(percentile: float, slack: float) -> None:
    wait = Wait(slack, 1 - percentile / 100, 0.5, TWO_DOORS)
    for offered in (0.3, 1.1, 2.4, 6.5, 17.0, 35.0):
        taken = replicas_for(offered, wait, 100)

        def cost(replicas: int, offered: float = offered) -> float:
            return replicas + offered * share_late(replicas, offered, wait) / wait.share

        # A load's key in the table of capacities is a hundredth wide.
        assert cost(taken) <= 1.01 * min(cost(n) for n in range(taken, taken + 20))
        assert share_late(taken, offered, wait) <= 1.01 * wait.share


def test_no_rate_needs_one_and_no_bound_is_passed() -> None:
    wait = Wait(4, 0.05, 0.5, TWO_DOORS)
    assert replicas_for(0, wait, 10) == 1
    assert replicas_for(1e6, wait, 10) == 10


def test_the_mean_wait_is_that_of_the_formulas() -> None:
    own, others = mean_wait(2, 1.5, POOLED)
    assert own == pytest.approx(erlang_c(2, 1.5) / 0.5)
    assert others == 0
    assert mean_wait(4, 2.0, TWO_DOORS)[1] == pytest.approx(0.5 * 0.5 / 2)
    assert mean_wait(2, 1.0, RANDOM)[0] == pytest.approx(1.0)
