"""How many replicas a rate needs: steady-state formulas, compiled, for bounds and one rival.

Sources: Erlang's formulas; Allen and Cunneen's approximation of G/G/c; an exponential tail of the
wait, P(W > t) = C exp(-t C / Wq), exact for M/M/c. This is the benchmark's own yardstick: the
operator's law has its own code.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from bench.autoscaling.compiled import compiled


class Goal(NamedTuple):
    """What is asked of a service, and what one of its replicas does."""

    target_seconds: float
    percentile: float
    service_seconds: float
    service_cv2: float  # squared coefficient of variation of the service time
    pooled: bool  # the door sends each request to the least loaded; else to any


@compiled
def erlang_c(servers: int, offered: float) -> float:
    """Return the probability that a request waits in M/M/c; `offered` is rate x service time."""
    if offered >= servers:
        return 1.0
    blocked = 1.0
    for each in range(1, servers + 1):
        blocked = offered * blocked / (each + offered * blocked)
    return blocked / (1 - offered / servers * (1 - blocked))


@compiled
def mean_wait(servers: int, rate: float, service_seconds: float, service_cv2: float) -> float:
    """Return the mean wait in M/G/c in seconds (Allen-Cunneen; exact for M/M/c and M/G/1)."""
    offered = rate * service_seconds
    if offered >= servers:
        return math.inf
    waits = erlang_c(servers, offered)
    return waits * service_seconds / (servers - offered) * (1 + service_cv2) / 2


@compiled
def wait_quantile(
    servers: int, rate: float, service_seconds: float, service_cv2: float, share: float
) -> float:
    """Return the wait in seconds that this share of requests does not exceed."""
    offered = rate * service_seconds
    if offered >= servers:
        return math.inf
    waits = erlang_c(servers, offered)
    if waits <= 1 - share:
        return 0.0
    wait = mean_wait(servers, rate, service_seconds, service_cv2)
    return wait / waits * math.log(waits / (1 - share))


@compiled
def service_quantile(service_seconds: float, service_cv2: float, share: float) -> float:
    """Return a service time's quantile: constant at 0, exponential at 1, linear between."""
    tail = -math.log(1 - share)
    return service_seconds * (1 + math.sqrt(service_cv2) * (tail - 1))


@compiled
def meets(replicas: int, rate: float, goal: Goal) -> bool:
    """Tell whether so many replicas hold the goal at a steady rate a second (Poisson)."""
    share = goal.percentile / 100
    servers, each = (replicas, rate) if goal.pooled else (1, rate / replicas)
    wait = wait_quantile(servers, each, goal.service_seconds, goal.service_cv2, share)
    service = service_quantile(goal.service_seconds, goal.service_cv2, share)
    # Their quantiles' sum is above the sum's quantile; where nothing waits it is exact.
    return wait + service <= max(goal.target_seconds, service)


@compiled
def replicas_for(rate: float, goal: Goal) -> int:
    """Return the least number of replicas that hold the goal at a steady rate, at least 1.

    A target below the service time itself is taken as one that asks for no wait.
    """
    replicas = max(1, math.floor(rate * goal.service_seconds) + 1)
    while not meets(replicas, rate, goal):
        replicas += 1
    return replicas
