"""From a rate to replicas: which share of requests waits too long.

Replicas behind a door that sends each request to the least loaded are taken for M/G/c, those of a
door that picks any for c times M/G/1. P(W > t) = C exp(-t / tau), with Erlang's C and
tau = S V / (c - a), where a is the offered load (rate x S) and V = (Ca^2 + Cs^2) / 2 the
variability of arrivals and service (Allen and Cunneen; exact for M/M/c, where V = 1).

Each of several doors knows its own requests only. One that a door believes idle is busy with
another door's request with probability (1 - 1/doors) of its utilisation; what remains of that one
is spread evenly over [0, S], as it is where service takes always the same time, which inference
nearly does. That wait comes on top (`_behind_other_doors`). Against the simulator of
bench/autoscaling (two doors, 1 to 16 replicas, 40 to 80 % utilised, constant service) the share
that waits longer than one service time is within a third of what is simulated, or a tenth of a
percent.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

Balancing = Literal["least-loaded", "random"]

# An error of the rate becomes one of the wait 1 / (1 - utilisation) times as large. At 0.95, a
# twentieth in the rate (two standard errors of a count of 1,600) is as much as the wait itself.
_MOST_UTILISED = 0.95
# Rates below a hundredth of what a replica serves are alike; a table's keys, a hundredth apart.
_RESOLUTION = 0.01
_BISECTIONS = 20


@dataclass(frozen=True, slots=True)
class Door:
    """How requests reach replicas."""

    balancing: Balancing = "least-loaded"
    doors: int = 2


@dataclass(frozen=True, slots=True)
class Wait:
    """How long a request may wait and how many may wait longer, in units of the service time."""

    slack: float  # (target - service time) / service time
    share: float  # of requests that may wait longer
    variability: float  # (Ca^2 + Cs^2) / 2
    door: Door


def erlang_c(servers: int, offered: float) -> float:
    """Return the probability that a request waits in M/M/c; `offered` is rate x service time."""
    if offered >= servers:
        return 1.0
    blocked = 1.0
    for each in range(1, servers + 1):
        blocked = offered * blocked / (each + offered * blocked)
    return blocked / (1 - offered / servers * (1 - blocked))


def share_late(servers: int, offered: float, wait: Wait) -> float:
    """Return the share of requests that wait longer than `wait.slack` service times."""
    if offered <= 0:
        return 0.0
    if offered >= servers:
        return 1.0
    if wait.door.balancing == "random":
        offered, servers = offered / servers, 1
    waits = erlang_c(servers, offered)
    decay = (servers - offered) / wait.variability
    alone = waits * math.exp(-decay * wait.slack)
    if servers == 1 or wait.door.doors == 1:
        return alone
    hidden = (1 - 1 / wait.door.doors) * offered / servers
    return (1 - hidden) * alone + hidden * _behind_other_doors(waits, decay, wait.slack)


def _behind_other_doors(waits: float, decay: float, slack: float) -> float:
    """Return P(W + U > slack), where U is even over [0, 1] and P(W > t) = waits exp(-decay t)."""
    if slack >= 1:
        return waits * math.exp(-decay * slack) * math.expm1(min(decay, 700.0)) / decay
    return 1 - slack + waits * -math.expm1(-decay * slack) / decay


def mean_wait(servers: int, offered: float, door: Door) -> tuple[float, float]:
    """Return the mean wait in service times: its part in V (for V = 1), and the other doors'."""
    if door.balancing == "random":
        return offered / max(servers - offered, 1e-9), 0.0
    if servers == 1:
        return erlang_c(1, offered) / max(1 - offered, 1e-9), 0.0
    hidden = (1 - 1 / door.doors) * offered / servers
    return erlang_c(servers, offered) / max(servers - offered, 1e-9), hidden / 2


def capacity(servers: int, wait: Wait) -> float:
    """Return the largest offered load for which so many replicas are enough.

    They keep `wait`, and one more would save less than it costs, where a late request weighs
    1 / `wait.share` as much as its work: of the loads that they hold, not the last few percent.
    """
    return _capacity(servers, *_rounded(wait))


def _rounded(wait: Wait) -> tuple[int, float, int, Door]:
    """Return what capacities are tabulated by: logarithms, in hundredths."""
    return (
        round(math.log(max(wait.slack, _RESOLUTION)) / _RESOLUTION),
        wait.share,
        round(math.log(wait.variability) / _RESOLUTION),
        wait.door,
    )


@lru_cache(maxsize=65_536)
def _capacity(servers: int, log_slack: int, share: float, log_v: int, door: Door) -> float:
    slack, variability = math.exp(log_slack * _RESOLUTION), math.exp(log_v * _RESOLUTION)
    wait = Wait(slack, share, variability, door)
    low, high = 0.0, servers * _MOST_UTILISED
    if _enough(servers, high, wait):
        return high
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        if _enough(servers, middle, wait):
            low = middle
        else:
            high = middle
    return low


def _enough(servers: int, offered: float, wait: Wait) -> bool:
    late = share_late(servers, offered, wait)
    saved = offered * (late - share_late(servers + 1, offered, wait)) / wait.share
    return late <= wait.share and saved <= 1


def replicas_for(offered: float, wait: Wait, most: int) -> int:
    """Return the least number of replicas that is enough, at least 1 and at most `most`."""
    rounded = _rounded(wait)
    replicas = max(1, math.ceil(offered))
    while replicas < most and _capacity(replicas, *rounded) < offered:
        replicas += 1
    return min(replicas, most)
