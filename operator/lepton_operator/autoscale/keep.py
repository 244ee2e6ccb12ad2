"""Which replicas are kept, although the present demand does not need them.

Beside the real service runs a *reference*, in arithmetic: the same demand, served by what the
law would want if it kept nothing back; a replica that it wants is ready a start-up later. Where
the reference has too few, requests are late. That is what a further replica would have been worth:
a second in which requests are late counts 1 / (1 - percentile/100) times the replicas that its
demand needs, and half as much again (`scene`), because who asks for the 95th percentile takes one
late request for nineteen in time (the newsvendor's ratio).

Of each replica there is an account. It is credited with its share of that worth when the reference
lacked it, and pays a replica-second each second that the present demand does not need it. While it
is in credit the replica is kept. One that only starts must be worth its start-up first. No account
holds more than one return of the demand has cost at most: to keep what stands idle for as long as
its absence would cost, once, is at most twice as dear as knowing the future (ski rental).
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from operator import attrgetter

from lepton_operator.autoscale.values import Moment, Overload, Worth

NOTHING = Worth()

_time = attrgetter("time")


def troughs(before: tuple[Moment, ...], moment: Moment) -> tuple[Moment, ...]:
    """Return the moments whose reference no later one was as low as, up to a new moment.

    The least since any time is then that of the first of them since it.
    """
    kept = len(before)
    while kept and before[kept - 1].reference >= moment.reference:
        kept -= 1
    return (*before[:kept], moment)


def reference_ready(
    moments: tuple[Moment, ...],
    troughs: tuple[Moment, ...],
    now: float,
    startup_seconds: float,
    began_with: int,
) -> int:
    """Return how many replicas of the reference are ready: wanted for a whole start-up."""
    place = bisect_right(moments, now - startup_seconds, key=_time)
    if place == 0:
        least = troughs[0].reference if troughs else began_with
        return max(1, min(began_with, least))
    since = bisect_left(troughs, moments[place - 1].time, key=_time)
    return max(1, troughs[since].reference)


def to_drain(
    busy: float, backlog: float, ready_seconds: float, horizon: float, late_second: float
) -> int:
    """Return how many replicas a backlog is worth, or 0 if it will have gone before they come.

    All in replicas and replica-seconds: `busy` are kept busy by what arrives, `backlog` waits,
    `ready_seconds` is what those that are ready or come by themselves can do within the horizon, a
    start-up. m more replicas drain what is left then, B, in B / m; until then each request is late,
    which costs `late_second` a second, and each of the m has cost a start-up. The sum
    late_second x B / m + m x horizon is least at m = sqrt(late_second x B / horizon).
    """
    left = backlog + busy * horizon - ready_seconds
    if left <= 0:
        return 0
    return math.ceil(busy + math.sqrt(late_second * left / horizon))


def account(worth: tuple[Worth, ...], seconds: float, base: int) -> tuple[Worth, ...]:
    """Let replicas above `base` pay for the time that passed."""
    if len(worth) <= base:
        return worth
    return (*worth[:base], *(_pay(each, seconds) for each in worth[base:]))


def _pay(worth: Worth, seconds: float) -> Worth:
    if worth is NOTHING:
        return worth
    credit = min(worth.credit, worth.most) - seconds
    return Worth(credit, worth.most) if credit > 0 else NOTHING


def late(
    worth: tuple[Worth, ...], overload: Overload | None, ready: int, needed: int, cost: float
) -> tuple[tuple[Worth, ...], Overload]:
    """Credit the replicas that an overload lacks with another stretch of late requests.

    All that are missing are needed for any request to be in time, so each gets an equal share.
    """
    before = overload or Overload(ready, needed)
    ready, needed = min(before.ready, ready), max(before.needed, needed)
    missing = max(needed, ready + 1)
    share = cost / (missing - ready)
    overload = Overload(ready, needed, before.cost + share)
    padded = worth + (NOTHING,) * (missing - len(worth))
    credited = (
        Worth(each.credit + share, max(each.most, overload.cost)) for each in padded[ready:missing]
    )
    return (*padded[:ready], *credited, *padded[missing:]), overload


def kept(worth: tuple[Worth, ...], present: int, startup_seconds: float) -> int:
    """Return the highest replica that is worth keeping, or starting."""
    for index in range(len(worth), 0, -1):
        held = worth[index - 1].credit
        if held > (0.0 if index <= present else startup_seconds):
            return index
    return 0
