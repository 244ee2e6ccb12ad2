"""The queue's promises, in virtual time and for any order of events."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lepton_operator.metrics import Metrics
from lepton_operator.queue import LAST_BACKOFF_SECONDS, End, Outcome, WorkQueue, backoff_seconds
from tests.unit.runtime import virtual_time

SETTLED = Outcome(End.SETTLED)
FAILED = Outcome(End.FAILED)
CHANGED = Outcome(End.CHANGED)


def now() -> float:
    return asyncio.get_running_loop().time()


@dataclass
class Passes:
    """Processes keys: notes when each pass began, and ends it as told."""

    ends: Callable[[str, int], Outcome] = lambda _key, _number: SETTLED
    seconds: float = 0.01
    began: list[tuple[str, float]] = field(default_factory=list)
    running: Counter[str] = field(default_factory=Counter)
    most_at_once: int = 0
    twice: list[str] = field(default_factory=list)

    async def __call__(self, key: str) -> Outcome:
        self.running[key] += 1
        self.most_at_once = max(self.most_at_once, self.running.total())
        if self.running[key] > 1:
            self.twice.append(key)
        self.began.append((key, now()))
        await asyncio.sleep(self.seconds)
        self.running[key] -= 1
        return self.ends(key, sum(1 for each, _ in self.began if each == key))

    def order(self) -> list[str]:
        return [key for key, _ in self.began]

    def times(self, key: str) -> list[float]:
        return [at for each, at in self.began if each == key]


def queue_of(
    process: Callable[[str], Awaitable[Outcome]], workers: int = 2, patience: float = 1.0
) -> WorkQueue[str]:
    return WorkQueue(
        process,
        workers=workers,
        patience_seconds=patience,
        metrics=Metrics(),
        randomness=random.Random(0),  # noqa: S311 - the same jitter in every run
    )


def test_nothing_is_processed_before_the_start() -> None:
    async def scenario() -> tuple[int, list[str]]:
        passes = Passes()
        queue = queue_of(passes)
        queue.add("a")
        await asyncio.sleep(1)
        waiting = queue.waiting
        queue.start()
        await asyncio.sleep(1)
        return waiting, passes.order()

    assert virtual_time.run(scenario()) == (1, ["a"])


def test_a_key_that_is_added_many_times_has_one_pass() -> None:
    async def scenario() -> list[str]:
        passes = Passes()
        queue = queue_of(passes)
        for _ in range(5):
            queue.add("a")
        queue.start()
        await asyncio.sleep(1)
        return passes.order()

    assert virtual_time.run(scenario()) == ["a"]


def test_a_key_added_during_its_pass_gets_exactly_one_more() -> None:
    async def scenario() -> Passes:
        passes = Passes()
        queue = queue_of(passes)
        queue.start()
        queue.add("a")
        await asyncio.sleep(0.005)
        queue.add("a")
        queue.add("a")
        await asyncio.sleep(1)
        return passes

    passes = virtual_time.run(scenario())
    assert passes.order() == ["a", "a"]
    assert passes.twice == []


def test_failures_double_the_wait_and_an_event_does_not_wait_for_it() -> None:
    async def scenario() -> list[float]:
        passes = Passes(ends=lambda _key, number: FAILED if number < 10 else SETTLED, seconds=0.0)
        queue = queue_of(passes)
        queue.start()
        queue.add("a")
        await asyncio.sleep(1.4)
        queue.add("a")
        await asyncio.sleep(10)
        return passes.times("a")

    times = virtual_time.run(scenario())
    gaps = [later - earlier for earlier, later in pairwise(times)]
    assert gaps[:7] == pytest.approx([0.005 * 2**n for n in range(7)], rel=0.11)
    assert 1.4 in [pytest.approx(each) for each in times]


def test_a_pass_that_settles_ends_the_backoff() -> None:
    async def scenario() -> list[int]:
        passes = Passes(ends=lambda _key, number: SETTLED if number == 4 else FAILED, seconds=0.0)
        queue = queue_of(passes)
        queue.start()
        queue.add("a")
        found = []
        while len(passes.began) < 5:
            await asyncio.sleep(0.001)
            if len(passes.began) == 4:
                found.append(queue.failures("a"))
                queue.add("a")
        return found[:1]

    assert virtual_time.run(scenario()) == [0]


def test_the_api_servers_retry_after_is_kept() -> None:
    async def scenario() -> list[float]:
        passes = Passes(ends=lambda *_: Outcome(End.FAILED, at_least_seconds=7.0), seconds=0.0)
        queue = queue_of(passes)
        queue.start()
        queue.add("a")
        await asyncio.sleep(8)
        return passes.times("a")

    assert virtual_time.run(scenario()) == pytest.approx([0.0, 7.0])


def test_a_due_pass_comes_when_it_is_due_and_an_earlier_event_replaces_it() -> None:
    async def scenario() -> list[float]:
        passes = Passes(ends=lambda *_: Outcome(End.SETTLED, due_seconds=10.0), seconds=0.0)
        queue = queue_of(passes)
        queue.start()
        queue.add("a")
        await asyncio.sleep(4)
        queue.add("a")
        await asyncio.sleep(11)
        return passes.times("a")

    assert virtual_time.run(scenario()) == pytest.approx([0.0, 4.0, 14.0])


def test_what_changed_something_is_looked_at_again_at_once_but_not_for_ever() -> None:
    async def scenario() -> int:
        passes = Passes(ends=lambda *_: CHANGED, seconds=0.0)
        queue = queue_of(passes)
        queue.start()
        queue.add("a")
        await asyncio.sleep(100)
        return len(passes.began)

    assert 20 < virtual_time.run(scenario()) < 50


def test_a_dropped_key_keeps_nothing() -> None:
    async def scenario() -> list[str]:
        passes = Passes(ends=lambda *_: Outcome(End.SETTLED, due_seconds=1.0), seconds=0.0)
        queue = queue_of(passes)
        queue.start()
        queue.add("a")
        await asyncio.sleep(0.5)
        queue.drop("a")
        await asyncio.sleep(5)
        return passes.order()

    assert virtual_time.run(scenario()) == ["a"]


def test_a_key_whose_object_is_gone_is_fresh_when_it_comes_back() -> None:
    async def scenario() -> bool:
        gone = Outcome(End.GONE)
        passes = Passes(ends=lambda key, _: gone if key == "a" else SETTLED, seconds=0.1)
        queue = queue_of(passes, workers=1)
        queue.start()
        queue.add("a")
        await asyncio.sleep(0.5)
        queue.add("b")
        queue.add("a")  # waits behind b, in the lane of those that never had a pass
        return queue.should_put_off("b")

    assert virtual_time.run(scenario())


def test_fresh_keys_go_before_known_ones() -> None:
    async def scenario() -> list[str]:
        passes = Passes()
        queue = queue_of(passes, workers=1)
        queue.start()
        queue.add("old")
        await asyncio.sleep(0.1)
        queue.add("busy")
        queue.add("old")
        queue.add("new-1")
        queue.add("new-2")
        await asyncio.sleep(1)
        return passes.order()[1:]

    assert virtual_time.run(scenario()) == ["busy", "new-1", "new-2", "old"]


def test_a_known_key_is_not_starved_by_fresh_ones() -> None:
    async def scenario() -> float:
        passes = Passes(seconds=0.1)
        queue = queue_of(passes, workers=1, patience=1.0)
        queue.start()
        queue.add("old")
        await asyncio.sleep(0.5)
        began = now()
        for number in range(200):
            queue.add(f"new-{number}")
        queue.add("old")
        await asyncio.sleep(60)
        return passes.times("old")[1] - began

    assert 0.9 <= virtual_time.run(scenario()) <= 1.6


def test_a_pass_is_put_off_only_behind_fresh_keys_and_only_for_so_long() -> None:
    async def scenario() -> list[bool]:
        asked = []

        async def process(key: str) -> Outcome:
            await asyncio.sleep(0.3)
            if key != "a":
                return SETTLED
            asked.append(queue.should_put_off(key))
            return Outcome(End.PUT_OFF) if asked[-1] else SETTLED

        queue = queue_of(process, workers=1, patience=1.0)
        queue.start()
        queue.add("a")
        for number in range(20):
            queue.add(f"new-{number}")
        await asyncio.sleep(30)
        return asked

    assert virtual_time.run(scenario()) == [True, False]


def test_stopping_lets_passes_end_and_starts_none() -> None:
    async def scenario() -> tuple[list[str], int]:
        passes = Passes(seconds=0.2)
        queue = queue_of(passes, workers=1)
        queue.start()
        queue.add("a")
        queue.add("b")
        await asyncio.sleep(0.1)
        await queue.stop(patience_seconds=5)
        return passes.order(), passes.running.total()

    assert virtual_time.run(scenario()) == (["a"], 0)


def test_a_pass_that_does_not_end_is_cancelled_when_patience_is_over() -> None:
    async def scenario() -> tuple[float, int]:
        passes = Passes(seconds=1000)
        queue = queue_of(passes)
        queue.start()
        queue.add("a")
        await asyncio.sleep(0.1)
        began = now()
        await queue.stop(patience_seconds=5)
        return now() - began, queue.working

    seconds, working = virtual_time.run(scenario())
    assert seconds == pytest.approx(5.0)
    assert working == 0


@given(failures=st.integers(1, 10_000), jitter=st.floats(0, 1))
def test_backoff_grows_to_its_bound_and_never_over_it(failures: int, jitter: float) -> None:
    wait = backoff_seconds(failures, jitter)
    assert 0.005 <= wait <= LAST_BACKOFF_SECONDS
    assert wait >= backoff_seconds(max(1, failures - 1), 0.0)


_KEYS = st.sampled_from("abcde")
_STEPS = st.one_of(
    st.tuples(st.just("add"), _KEYS),
    st.tuples(st.just("drop"), _KEYS),
    st.tuples(st.just("wait"), st.floats(0.0, 0.05)),
)
_ENDS = st.lists(
    st.sampled_from([SETTLED, FAILED, CHANGED, Outcome(End.PUT_OFF), Outcome(End.SETTLED, 0.02)]),
    max_size=30,
)


@given(steps=st.lists(_STEPS, max_size=60), ends=_ENDS, workers=st.integers(1, 3))
def test_no_key_is_ever_with_two_workers_and_none_is_forgotten(
    steps: list[tuple[str, str | float]], ends: list[Outcome], workers: int
) -> None:
    async def scenario() -> tuple[Passes, dict[str, float]]:
        left = list(ends)
        passes = Passes(ends=lambda *_: left.pop() if left else SETTLED)
        queue = queue_of(passes, workers=workers)
        queue.start()
        added: dict[str, float] = {}
        for step, value in steps:
            if step == "wait":
                await asyncio.sleep(float(value))
            elif step == "add":
                queue.add(str(value))
                added[str(value)] = now()
            else:
                queue.drop(str(value))
                added.pop(str(value), None)
            assert queue.waiting + queue.working <= 2 * 5
        await asyncio.sleep(5000)
        assert (queue.waiting, queue.working) == (0, 0)
        return passes, added

    passes, added = virtual_time.run(scenario())
    assert passes.twice == []
    assert passes.most_at_once <= workers
    for key, at in added.items():
        assert passes.times(key)[-1] >= at - 1e-9
