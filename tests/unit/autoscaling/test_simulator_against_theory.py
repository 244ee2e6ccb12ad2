"""The event loop against closed forms, and request by request against another simulator (ciw)."""

from __future__ import annotations

import math

import ciw
import numpy as np
import pytest

from bench.autoscaling import world as w
from bench.autoscaling.queueing import erlang_c, mean_wait, wait_quantile
from bench.autoscaling.world import Floats, Load, Setting

SERVICE = 0.1
FOREVER = 1e9
# Successive waits depend on each other: at 80 % a mean over 400,000 has a standard error of 1 to
# 2 %, a 99th percentile one of 3 %.
CLOSE, CLOSE_TAIL = 0.05, 0.1


def poisson(rate: float, count: int, seed: int = 1) -> Floats:
    return np.cumsum(np.random.default_rng(seed).exponential(1 / rate, count))


def waits(load: Load, setting: Setting, replicas: int) -> Floats:
    world = w.open_world(load, replicas, replicas, FOREVER)
    w.advance(world, load, setting.physics._replace(target=FOREVER), FOREVER)
    assert world.counts[w.COMPLETED] == len(load.arrivals)
    waited: Floats = world.latency - load.service
    return waited


def simulated(replicas: int, rho: float, setting: Setting) -> Floats:
    rate = rho * replicas / SERVICE
    return waits(w.draw(poisson(rate, 400_000), setting, seed=2), setting, replicas)


def crommelin(servers: int, rate: float) -> float:
    """Return the mean wait in M/D/c: who is in service now has left after one service time."""
    size = 400
    offered = rate * SERVICE
    come = np.array(
        [math.exp(n * math.log(offered) - offered - math.lgamma(n + 1)) for n in range(size)]
    )
    step = np.zeros((size, size))
    for present in range(size):
        left = max(0, present - servers)
        step[present, left:] = come[: size - left]
    step /= step.sum(axis=1, keepdims=True)
    share = np.linalg.matrix_power(step, 1 << 14)[0]
    return float(share @ np.arange(size)) / rate - SERVICE


@pytest.mark.parametrize("replicas", [1, 4])
@pytest.mark.parametrize("rho", [0.5, 0.8])
def test_a_pool_of_exponential_servers_waits_as_erlang_says(replicas: int, rho: float) -> None:
    found = simulated(replicas, rho, Setting(service_cv=1, balancing="pooled"))
    rate = rho * replicas / SERVICE
    assert found.mean() == pytest.approx(mean_wait(replicas, rate, SERVICE, 1.0), rel=CLOSE)
    expected = wait_quantile(replicas, rate, SERVICE, 1.0, 0.99)
    assert np.quantile(found, 0.99) == pytest.approx(expected, rel=CLOSE_TAIL)
    assert (found > 1e-9).mean() == pytest.approx(erlang_c(replicas, rho * replicas), rel=CLOSE)


@pytest.mark.parametrize("replicas", [1, 4])
@pytest.mark.parametrize("rho", [0.5, 0.8])
def test_a_pool_of_constant_servers_waits_as_crommelin_says(replicas: int, rho: float) -> None:
    found = simulated(replicas, rho, Setting(balancing="pooled"))
    assert found.mean() == pytest.approx(crommelin(replicas, rho * replicas / SERVICE), rel=CLOSE)


def test_one_constant_server_waits_as_pollaczek_and_khinchine_say() -> None:
    assert crommelin(1, 8.0) == pytest.approx(0.8 * SERVICE / (2 * 0.2), rel=1e-3)


def test_replicas_chosen_at_random_are_so_many_single_servers() -> None:
    found = simulated(4, 0.8, Setting(balancing="random"))
    assert found.mean() == pytest.approx(0.8 * SERVICE / (2 * 0.2), rel=CLOSE)


def test_two_doors_of_least_load_lie_between_random_and_a_pool() -> None:
    means = [
        simulated(8, 0.9, Setting(balancing=balancing)).mean()
        for balancing in ("pooled", "least-loaded", "random")
    ]
    assert means == sorted(means)
    assert means[1] < means[2] / 4


@pytest.mark.parametrize(
    ("servers", "offered", "probability"),
    [(2, 1.5, 0.642857), (10, 8.0, 0.409180), (20, 16.0, 0.256078), (100, 90.0, 0.216940)],
)
def test_erlang_c_agrees_with_tables(servers: int, offered: float, probability: float) -> None:
    assert erlang_c(servers, offered) == pytest.approx(probability, abs=5e-7)


def _of_ciw(network: ciw.network.Network, count: int) -> Floats:
    simulation = ciw.Simulation(network)
    simulation.simulate_until_max_customers(count, method="Finish")
    records = sorted(simulation.get_all_records(), key=lambda record: record.id_number)
    return np.array([record.waiting_time for record in records])


def test_every_request_of_a_pool_waits_as_in_ciw() -> None:
    count, setting = 3000, Setting(service_cv=1, balancing="pooled")
    load = w.draw(poisson(24.0, count), setting, seed=3)
    network = ciw.create_network(
        arrival_distributions=[
            ciw.dists.Sequential([*np.diff(load.arrivals, prepend=0.0), math.inf])
        ],
        service_distributions=[ciw.dists.Sequential(list(load.service))],
        number_of_servers=[3],
    )
    assert waits(load, setting, 3) == pytest.approx(_of_ciw(network, count), abs=1e-6)


class LeastLoaded(ciw.routing.JoinShortestQueue):  # type: ignore[misc]
    """ciw's own counts those that wait only; a door knows who is in flight."""

    def get_queue_size(self, node_index: int) -> int:
        return int(self.simulation.nodes[node_index].number_of_individuals)


def test_every_request_behind_one_door_joins_the_shortest_queue_as_in_ciw() -> None:
    count, replicas, setting = 3000, 3, Setting()
    load = w.draw(poisson(27.0, count), setting, seed=4)
    load = load._replace(door=np.zeros(count, np.int64), tie=np.zeros(count))
    shortest = LeastLoaded(destinations=[2, 3, 4], tie_break="order")
    leave = [ciw.routing.Leave() for _ in range(replicas)]
    network = ciw.create_network(
        arrival_distributions=[
            ciw.dists.Sequential([*np.diff(load.arrivals, prepend=0.0), math.inf]),
            *[None] * replicas,
        ],
        service_distributions=[
            ciw.dists.Deterministic(0.0),
            *[ciw.dists.Deterministic(SERVICE)] * replicas,
        ],
        number_of_servers=[math.inf, *[1] * replicas],
        routing=ciw.routing.NetworkRouting(routers=[shortest, *leave]),
    )
    simulation = ciw.Simulation(network)
    simulation.simulate_until_max_customers(count, method="Finish")
    records = [each for each in simulation.get_all_records() if each.node != 1]
    expected = np.array([e.waiting_time for e in sorted(records, key=lambda e: e.id_number)])
    assert waits(load, setting, replicas) == pytest.approx(expected, abs=1e-6)
