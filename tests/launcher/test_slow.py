"""Slow ranks: seeded simulations of the law, and launchers with real ranks."""

from __future__ import annotations

import json
import random
from typing import TYPE_CHECKING, Any

import pytest

from e2e.cluster.ports import free_port
from lepton_launcher.slow import OwnTime, OwnTimes, Slow, SlowWatch, Stopwatch

from .conftest import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

    from .conftest import Pod

STEPS = 2000
THROTTLED_AT = 1003
LATEST = {1: 50, 10: 400}
"""By how many steps a sample stands for: on NCCL, DistributedDataParallel measures each tenth."""


def even(noise: random.Random) -> float:
    return max(0.1, noise.gauss(1, 0.2))


def skewed(noise: random.Random) -> float:
    return noise.lognormvariate(0, 0.3)


def stalling(noise: random.Random) -> float:
    return (5 if noise.random() < 0.05 else 1) * max(0.1, noise.gauss(1, 0.1))


NOISES = {"even": even, "skewed": skewed, "now and then five times as long": stalling}


class Simulation:
    """Three ranks in step; the last of them may be throttled to half its speed."""

    def __init__(self, own: Callable[[random.Random], float], seed: int, sampled: int) -> None:
        self.noise, self.own, self.sampled = random.Random(seed), own, sampled  # noqa: S311
        self.times = [OwnTimes(sampled=sampled > 1) for _ in range(3)]
        self.watch = SlowWatch()

    def run(self, steps: range, throttle: float = 1.0) -> tuple[int, Slow] | None:
        """The first step at which somebody is slow, and who."""
        for step in steps:
            for rank, times in enumerate(self.times):
                seconds = self.own(self.noise) * (throttle if rank == 2 else 1)
                if step % self.sampled == 0:
                    times.add(seconds)
            told = [(rank, times.summary()) for rank, times in enumerate(self.times)]
            known = [OwnTime(rank, rank, *found) for rank, found in told if found]
            if found := self.watch.observe(known, step):
                return step, found
        return None


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("sampled", [1, 10], ids=["each step", "DDP's samples"])
@pytest.mark.parametrize("own", NOISES.values(), ids=NOISES)
def test_of_even_ranks_nobody_is_slow(
    own: Callable[[random.Random], float], sampled: int, seed: int
) -> None:
    assert Simulation(own, seed, sampled).run(range(1, STEPS + 1)) is None


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("sampled", [1, 10], ids=["each step", "DDP's samples"])
@pytest.mark.parametrize("own", NOISES.values(), ids=NOISES)
def test_a_rank_at_half_its_speed_is_named_in_time(
    own: Callable[[random.Random], float], sampled: int, seed: int
) -> None:
    ranks = Simulation(own, seed, sampled)
    assert ranks.run(range(1, THROTTLED_AT)) is None
    found = ranks.run(range(THROTTLED_AT, STEPS), throttle=2)
    assert found is not None
    step, slow = found
    assert (slow.rank, slow.node) == (2, 2)
    assert step - THROTTLED_AT <= LATEST[sampled]


def test_a_rank_that_keeps_up_again_is_slow_no_more() -> None:
    ranks = Simulation(even, 1, 1)
    assert ranks.run(range(1, 200), throttle=2) is not None
    for step in range(200, 200 + 2 * LATEST[1]):
        ranks.run(range(step, step + 1))
    assert ranks.watch.named is None


@pytest.mark.parametrize(
    ("own", "named"),
    [
        pytest.param([1.0, 1.0, 1.0, 2.0], 3, id="one of four"),
        pytest.param([1.0, 2.0], 1, id="one of two"),
        pytest.param([1.0], None, id="one alone"),
        pytest.param([1.0, 1.0, 1.2], None, id="a fifth longer"),
        pytest.param([0.0, 0.0, 0.1], None, id="ranks that only wait"),
        pytest.param([1.0, 1.4, 1.8, 2.2], None, id="ranks that are all different"),
    ],
)
def test_who_is_slow_among_ranks_without_noise(own: list[float], named: int | None) -> None:
    watch = SlowWatch()
    times = [OwnTime(rank, 0, seconds, 0.0) for rank, seconds in enumerate(own)]
    for step in range(100, 130):
        watch.observe(times, step)
    assert (watch.named.rank if watch.named else None) == named


def test_a_step_that_was_mixed_with_something_else_is_not_taken() -> None:
    watch, found = Stopwatch(), None
    for step in range(1, 60):
        pauses = step // 2  # an evaluation of 5 s in every second step
        found = watch.lap(step + 5.0 * pauses, 1, pauses) or found
    assert found == pytest.approx((1.0, 0.0))


def test_waits_are_no_time_of_the_rank_s_own() -> None:
    watch, found = Stopwatch(), None
    for step in range(1, 60):
        watch.wait(0.75, 1)
        found = watch.lap(float(step), 1, 0) or found
    assert found == pytest.approx((0.25, 0.0))


def test_a_sampled_wait_is_that_of_each_step_it_stands_for() -> None:
    watch, found = Stopwatch(), None
    for step in range(1, 300):
        if step % 10 == 0:
            watch.wait(7.5, 10)
        found = watch.lap(float(step), 1, 0) or found
    assert found == pytest.approx((0.25, 0.0))


# Real launchers and ranks. Torch's agent is played: it starts one rank, and tells it who it is.

TRAINS = """
import itertools, os, pathlib, socket, time
from lepton_launcher import board
rank, ours = int(os.environ["RANK"]), board.of_this_process()
throttled = pathlib.Path(os.environ["LEPTON_OUTPUT_DIR"], "throttled")
if rank == 0:
    with socket.create_server(("127.0.0.1", {port})) as server:
        peers = [server.accept()[0] for _ in range(2)]
else:
    while True:
        try:
            peers = [socket.create_connection(("127.0.0.1", {port}))]
            break
        except OSError:
            time.sleep(0.1)
for step in itertools.count(1):
    time.sleep(0.2 if throttled.exists() else 0.1)
    with ours.collective():
        if rank:
            peers[0].send(b"x")
            peers[0].recv(1)
        else:
            for peer in peers:
                peer.recv(1)
            for peer in peers:
                peer.send(b"x")
    ours.finish_step(step)
"""


def told(pod: Pod) -> dict[str, Any]:
    path = pod.exchange / "progress.json"
    found: dict[str, Any] = json.loads(path.read_bytes()) if path.exists() else {}
    return found


def test_the_launcher_of_node_0_names_the_slow_rank_of_another_pod(
    gang: Callable[[str], list[Pod]],
) -> None:
    first, *others = gang(TRAINS.replace("{port}", str(free_port())))
    throttled = others[1].output / "throttled"
    wait_until(lambda: told(first).get("step", 0) > 20, "the first steps")
    assert "slow" not in told(first)
    throttled.touch()
    slow = wait_until(lambda: told(first).get("slow"), "a slow rank")
    assert (slow["rank"], slow["node"]) == (2, 2)
    assert slow["factor"] == pytest.approx(2, rel=0.3)
    throttled.unlink()
    wait_until(lambda: "slow" not in told(first), "full speed again")
    assert all("slow" not in told(pod) for pod in others)
