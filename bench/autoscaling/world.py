"""A service as a discrete-event model: doors, replicas with queues, starts that take their time.

Everything random is drawn before a run (`Load`), so that two laws meet the same requests, the same
service times and, start by start, the same start-up times. All times are in seconds.

The loop is compiled. A `World` is a tuple of arrays that `advance` and `scale` change in place.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from bench.autoscaling.compiled import inlined

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

DOORS = 2
# A door's own limits, the chart's defaults: concurrency 1024 and as many more that wait.
DOOR_LIMIT = 2048
# A distribution of start-ups whose standard deviation is a fifth of its mean (the mean is given):
# images lie on the node or not, and a disk is shared. `--startup-cv` changes it.
STARTUP_CV = 0.2
# Further starts go through the draws again.
_STARTUP_DRAWS = 4096

FREE, STARTING, READY, DRAINING = range(4)

# How a door chooses. POOLED is one queue before all replicas, which no door here has: it is what
# the closed forms describe.
LEAST_LOADED, RANDOM, POOLED = range(3)
BALANCINGS = {"least-loaded": LEAST_LOADED, "random": RANDOM, "pooled": POOLED}

# Places in World.counts; the last two are the ends of the pooled queue.
NEXT, IN_FLIGHT, COMPLETED, LATE, REJECTED, CREATED, STARTED = range(7)
HIGH, DESIRED, SCALINGS, BATCHES, FIRST, LAST = range(7, 13)
# Places in World.sums, all in seconds but IN_FLIGHT_SECONDS (requests x seconds)
CLOCK, LATENCY, QUEUED, COMPUTED, GPU, IN_FLIGHT_SECONDS = range(6)


class Load(NamedTuple):
    """What a run meets, whatever the law does."""

    arrivals: Floats
    service: Floats  # of each request, executed alone
    door: Integers  # through which it comes
    tie: Floats  # in [0, 1): which of equally loaded replicas gets it
    startup: Floats  # of the n-th replica that is created


class Physics(NamedTuple):
    """What a replica and a door are."""

    target: float  # a request that took longer is a violation
    max_batch: int
    batch_fixed: float  # T(b) = T(1) x (fixed + (1 - fixed) x b)
    balancing: int


class World(NamedTuple):
    """The state of a run: one slot a replica, and one linked list of requests in each."""

    counts: Integers
    sums: Floats
    phase: Integers
    created_at: Floats
    event_at: Floats  # its next event: ready, or a batch's end
    head: Integers
    tail: Integers
    queued: Integers  # in it, those that execute included
    batch: Integers  # that execute
    batch_seconds: Floats  # how long these take
    through: Integers  # in flight, by door
    at_door: Integers  # of each door's in-flight requests, those in this replica
    following: Integers  # the request behind this one in its queue
    latency: Floats  # NaN until it is answered, infinite if it was rejected
    started: Floats  # how long each start took, in the order in which they ended
    edges: Floats  # of the latency histogram's buckets
    buckets: Integers  # not cumulative; the last one is +Inf


@dataclass(frozen=True)
class Setting:
    """What is the same for every law: the load's and the hardware's figures."""

    service_seconds: float = 0.1
    target_seconds: float = 0.5
    percentile: float = 95.0
    startup_seconds: float = 60.0
    startup_cv: float = STARTUP_CV
    service_cv: float = 0.0  # 0: each request takes the same; 1: exponential
    max_batch: int = 1
    batch_fixed: float = 0.5
    balancing: str = "least-loaded"

    @property
    def physics(self) -> Physics:
        balancing = BALANCINGS[self.balancing]
        return Physics(self.target_seconds, self.max_batch, self.batch_fixed, balancing)


def draw(arrivals: Floats, setting: Setting, seed: int) -> Load:
    """Draw what a run will meet: service by a gamma, start-ups by a log-normal distribution."""
    dice = np.random.default_rng(seed)
    count = len(arrivals)
    spread = math.log1p(setting.startup_cv**2)
    return Load(
        arrivals=np.ascontiguousarray(arrivals, dtype=np.float64),
        service=_service(dice, setting, count),
        door=dice.integers(0, DOORS, count),
        tie=dice.random(count),
        startup=setting.startup_seconds
        * dice.lognormal(-spread / 2, math.sqrt(spread), _STARTUP_DRAWS),
    )


def _service(dice: np.random.Generator, setting: Setting, count: int) -> Floats:
    if setting.service_cv == 0:
        return np.full(count, setting.service_seconds)
    shape = setting.service_cv**-2
    return dice.gamma(shape, setting.service_seconds / shape, count)


def edges_about(target_seconds: float) -> Floats:
    """Return bucket edges of a latency histogram: the target is one of them.

    A ratio of 1.25 from a sixteenth of the target upwards: finer than Prometheus' own defaults.
    """
    edges: Floats = target_seconds * 1.25 ** np.arange(-12, 13, dtype=np.float64)
    return edges


def open_world(load: Load, ready: int, most: int, target_seconds: float) -> World:
    """Return the world at time 0 with so many ready replicas; `most` is what a law may ask for."""
    # Those that drain keep their slots beside those that a law has.
    slots, requests = 4 * max(most, ready) + 64, len(load.arrivals)
    edges = edges_about(target_seconds)
    world = World(
        counts=np.zeros(13, np.int64),
        sums=np.zeros(6),
        phase=np.zeros(slots, np.int64),
        created_at=np.zeros(slots),
        event_at=np.full(slots, np.inf),
        head=np.full(slots, -1, np.int64),
        tail=np.full(slots, -1, np.int64),
        queued=np.zeros(slots, np.int64),
        batch=np.zeros(slots, np.int64),
        batch_seconds=np.zeros(slots),
        through=np.zeros(DOORS, np.int64),
        at_door=np.zeros((slots, DOORS), np.int64),
        following=np.full(requests, -1, np.int64),
        latency=np.full(requests, np.nan),
        started=np.zeros(_STARTUP_DRAWS),
        edges=edges,
        buckets=np.zeros(len(edges) + 1, np.int64),
    )
    # They started before the trace did: how long that took has been seen.
    world.started[:ready] = load.startup[:ready]
    world.phase[:ready] = READY
    world.counts[FIRST] = world.counts[LAST] = -1
    for place in (CREATED, STARTED, HIGH, DESIRED):
        world.counts[place] = ready
    return world


@inlined
def advance(world: World, load: Load, physics: Physics, until: float) -> None:
    """Let everything happen that happens up to `until`."""
    while True:
        slot, event = _next_event(world)
        coming = world.counts[NEXT]
        arrival = load.arrivals[coming] if coming < len(load.arrivals) else math.inf
        if min(arrival, event) > until:
            break
        _pass_time(world, min(arrival, event))
        if arrival < event:
            world.counts[NEXT] += 1
            _arrive(world, load, physics, coming)
        elif world.phase[slot] == STARTING:
            _ready(world, load, physics, slot)
        else:
            _finish(world, load, physics, slot)
    _pass_time(world, until)


@inlined
def _pass_time(world: World, now: float) -> None:
    world.sums[IN_FLIGHT_SECONDS] += world.counts[IN_FLIGHT] * (now - world.sums[CLOCK])
    world.sums[CLOCK] = now


@inlined
def _next_event(world: World) -> tuple[int, float]:
    slot, first = -1, math.inf
    for each in range(world.counts[HIGH]):
        if world.event_at[each] < first:
            slot, first = each, world.event_at[each]
    return slot, first


@inlined
def _arrive(world: World, load: Load, physics: Physics, request: int) -> None:
    door = load.door[request]
    if world.through[door] >= DOOR_LIMIT:
        world.counts[REJECTED] += 1
        world.latency[request] = math.inf
        return
    world.through[door] += 1
    world.counts[IN_FLIGHT] += 1
    if physics.balancing == POOLED:
        _wait(world, request)
        _pull(world, load, physics, _idle(world))
    elif physics.balancing == LEAST_LOADED:
        _send(world, load, physics, request, _least_loaded(world, door, load.tie[request]))
    else:
        _send(world, load, physics, request, _any_ready(world, load.tie[request]))


@inlined
def _send(world: World, load: Load, physics: Physics, request: int, slot: int) -> None:
    """Put a request into a replica's queue."""
    if world.tail[slot] >= 0:
        world.following[world.tail[slot]] = request
    else:
        world.head[slot] = request
    world.tail[slot] = request
    world.queued[slot] += 1
    world.at_door[slot, load.door[request]] += 1
    if world.batch[slot] == 0:
        _execute(world, load, physics, slot)


@inlined
def _wait(world: World, request: int) -> None:
    """Put a request into the pooled queue."""
    if world.counts[LAST] >= 0:
        world.following[world.counts[LAST]] = request
    else:
        world.counts[FIRST] = request
    world.counts[LAST] = request


@inlined
def _pull(world: World, load: Load, physics: Physics, slot: int) -> None:
    """Give an idle replica the first of the pooled queue."""
    request = world.counts[FIRST]
    if slot < 0 or request < 0:
        return
    world.counts[FIRST] = world.following[request]
    if world.counts[FIRST] < 0:
        world.counts[LAST] = -1
    world.following[request] = -1
    _send(world, load, physics, request, slot)


@inlined
def _idle(world: World) -> int:
    for slot in range(world.counts[HIGH]):
        if world.phase[slot] == READY and world.queued[slot] == 0:
            return slot
    return -1


@inlined
def _least_loaded(world: World, door: int, tie: float) -> int:
    """Return the ready replica with the fewest of this door's own requests; equals by lot."""
    least, equals = 1 << 60, 0
    for slot in range(world.counts[HIGH]):
        if world.phase[slot] == READY:
            load = world.at_door[slot, door]
            equals = 1 if load < least else equals + (load == least)
            least = min(least, load)
    chosen = int(tie * equals)
    for slot in range(world.counts[HIGH]):
        if world.phase[slot] == READY and world.at_door[slot, door] == least:
            if chosen == 0:
                return slot
            chosen -= 1
    raise AssertionError("a request came while no replica was ready")


@inlined
def _any_ready(world: World, tie: float) -> int:
    chosen = int(tie * ready_count(world))
    for slot in range(world.counts[HIGH]):
        if world.phase[slot] == READY:
            if chosen == 0:
                return slot
            chosen -= 1
    raise AssertionError("a request came while no replica was ready")


@inlined
def _execute(world: World, load: Load, physics: Physics, slot: int) -> None:
    """Start a batch of what waits, at once, as Triton's dynamic batcher does without a delay."""
    count = min(world.queued[slot], physics.max_batch)
    alone = load.service[world.head[slot]]
    world.batch[slot] = count
    world.batch_seconds[slot] = alone * (physics.batch_fixed + (1 - physics.batch_fixed) * count)
    world.event_at[slot] = world.sums[CLOCK] + world.batch_seconds[slot]
    world.counts[BATCHES] += 1


@inlined
def _finish(world: World, load: Load, physics: Physics, slot: int) -> None:
    for _ in range(world.batch[slot]):
        request = world.head[slot]
        world.head[slot] = world.following[request]
        latency = world.sums[CLOCK] - load.arrivals[request]
        # Triton's counters move at completion, by the whole batch's time for each request in it.
        world.sums[QUEUED] += latency - world.batch_seconds[slot]
        world.sums[COMPUTED] += world.batch_seconds[slot]
        world.at_door[slot, load.door[request]] -= 1
        world.through[load.door[request]] -= 1
        _answer(world, request, latency, physics.target)
    world.queued[slot] -= world.batch[slot]
    world.batch[slot] = 0
    if world.queued[slot] > 0:
        _execute(world, load, physics, slot)
        return
    world.tail[slot] = -1
    world.event_at[slot] = math.inf
    if world.phase[slot] == DRAINING:
        _remove(world, slot)
    else:
        _pull(world, load, physics, slot)


@inlined
def _answer(world: World, request: int, latency: float, target: float) -> None:
    world.latency[request] = latency
    world.sums[LATENCY] += latency
    world.counts[COMPLETED] += 1
    world.counts[IN_FLIGHT] -= 1
    # Sums of binary fractions: a request that took the target to the nanosecond met it.
    if latency > target + 1e-9:
        world.counts[LATE] += 1
    world.buckets[_bucket(world.edges, latency)] += 1


@inlined
def _bucket(edges: Floats, latency: float) -> int:
    low, high = 0, len(edges)
    while low < high:
        middle = (low + high) // 2
        if edges[middle] < latency:
            low = middle + 1
        else:
            high = middle
    return low


@inlined
def _ready(world: World, load: Load, physics: Physics, slot: int) -> None:
    world.phase[slot] = READY
    world.event_at[slot] = math.inf
    took = world.sums[CLOCK] - world.created_at[slot]
    world.started[world.counts[STARTED] % len(world.started)] = took
    world.counts[STARTED] += 1
    _pull(world, load, physics, slot)


@inlined
def _remove(world: World, slot: int) -> None:
    world.sums[GPU] += world.sums[CLOCK] - world.created_at[slot]
    world.phase[slot] = FREE
    world.event_at[slot] = math.inf
    while world.counts[HIGH] > 0 and world.phase[world.counts[HIGH] - 1] == FREE:
        world.counts[HIGH] -= 1


@inlined
def scale(world: World, load: Load, desired: int) -> None:
    """Create or remove replicas until `desired` are ready or starting.

    Removed first are those that still start, then the youngest, as a ReplicaSet does; a ready one
    gets no further request and leaves when its queue is empty.
    """
    if desired != world.counts[DESIRED]:
        world.counts[SCALINGS] += 1
        world.counts[DESIRED] = desired
    present = 0
    for slot in range(world.counts[HIGH]):
        present += world.phase[slot] == READY or world.phase[slot] == STARTING
    for _ in range(desired - present):
        _create(world, load)
    for _ in range(present - desired):
        _retire(world)


@inlined
def _create(world: World, load: Load) -> None:
    slot = 0
    while world.phase[slot] != FREE:
        slot += 1
        if slot == len(world.phase):
            raise AssertionError("more replicas drain than there are slots")
    world.counts[HIGH] = max(world.counts[HIGH], slot + 1)
    world.phase[slot] = STARTING
    world.created_at[slot] = world.sums[CLOCK]
    took = load.startup[world.counts[CREATED] % len(load.startup)]
    world.event_at[slot] = world.sums[CLOCK] + took
    world.counts[CREATED] += 1


@inlined
def _retire(world: World) -> None:
    victim = -1
    for slot in range(world.counts[HIGH]):
        if world.phase[slot] != READY and world.phase[slot] != STARTING:
            continue
        if (
            victim < 0
            or (world.phase[slot] == STARTING and world.phase[victim] == READY)
            or (
                world.phase[slot] == world.phase[victim]
                and world.created_at[slot] > world.created_at[victim]
            )
        ):
            victim = slot
    if world.phase[victim] == READY and world.queued[victim] > 0:
        world.phase[victim] = DRAINING
    else:
        _remove(world, victim)


@inlined
def ready_count(world: World) -> int:
    """Return how many replicas are ready."""
    count = 0
    for slot in range(world.counts[HIGH]):
        count += world.phase[slot] == READY
    return count


@inlined
def gpu_seconds(world: World, end: float) -> float:
    """Return what was paid up to `end`: from each replica's creation to its removal."""
    total = float(world.sums[GPU])
    for slot in range(world.counts[HIGH]):
        if world.phase[slot] != FREE:
            total += end - world.created_at[slot]
    return total
