"""Events update the cache and wake exactly those whose plans read what changed."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

from lepton_operator.cache import Cache, Key
from lepton_operator.inbox import Inbox
from lepton_operator.metrics import Metrics
from lepton_operator.queue import End, Outcome, WorkQueue
from tests.unit.runtime import objects, virtual_time

JOB = Key("TrainingJob", "team", "digits")
MODEL = Key("LeptonModel", "team", "digits")


def woken_by(act: Callable[[Inbox], None], end: End = End.SETTLED, seconds: float = 1) -> list[Key]:
    """Return the keys of the passes that these events led to; they end so while the object is."""

    async def scenario() -> list[Key]:
        passes: list[Key] = []
        cache = Cache("nvidia.com/gpu")

        async def process(key: Key) -> Outcome:
            passes.append(key)
            return Outcome(end if cache.own(key) else End.GONE)

        queue = WorkQueue[Key](
            process,
            workers=4,
            patience_seconds=1,
            metrics=Metrics(),
            randomness=random.Random(0),  # noqa: S311 - the same jitter in every run
        )
        queue.start()
        act(Inbox(cache, queue))
        await asyncio.sleep(seconds)
        await queue.stop(0)
        return passes

    return virtual_time.run(scenario())


def test_a_new_job_wakes_itself_and_its_model() -> None:
    found = woken_by(lambda inbox: inbox.receive("TrainingJob", None, objects.job(model="digits")))
    assert sorted(found) == [MODEL, JOB]


def test_a_pod_wakes_its_owner_and_what_was_known_already_wakes_nobody() -> None:
    def act(inbox: Inbox) -> None:
        inbox.cache.put("TrainingJob", objects.job())
        inbox.receive("Pod", "ADDED", objects.pod(version=3))
        inbox.cache.put("Pod", objects.pod("other", "pod-2", version=4))
        inbox.receive("Pod", "ADDED", objects.pod("other", "pod-2", version=4))

    assert woken_by(act) == [JOB]


def test_a_strangers_pod_wakes_nobody() -> None:
    assert woken_by(lambda inbox: inbox.receive("Pod", "ADDED", objects.pod(owner="?"))) == []


def test_a_deleted_object_is_retried_no_more() -> None:
    def act(inbox: Inbox) -> None:
        inbox.receive("TrainingJob", "ADDED", objects.job())
        loop = asyncio.get_running_loop()
        gone = objects.job(version=2)
        loop.call_later(0.5, inbox.receive, "TrainingJob", "DELETED", gone)

    passes = woken_by(act, End.FAILED, seconds=1000)
    # It failed for half a second; its deletion led to one last look, which found nothing.
    assert 5 < len(passes) < 20


def test_a_new_generation_forgives_failures_and_a_status_does_not() -> None:
    async def scenario() -> list[int]:
        async def process(_: Key) -> Outcome:
            return Outcome(End.FAILED)

        queue = WorkQueue[Key](
            process,
            workers=1,
            patience_seconds=1,
            metrics=Metrics(),
            randomness=random.Random(0),  # noqa: S311
        )
        inbox = Inbox(Cache("nvidia.com/gpu"), queue)
        queue.start()
        inbox.receive("TrainingJob", "ADDED", objects.job())
        await asyncio.sleep(10)
        seen = [queue.failures(JOB)]
        inbox.receive("TrainingJob", "MODIFIED", objects.job(version=2))
        seen.append(queue.failures(JOB))
        inbox.receive("TrainingJob", "MODIFIED", objects.job(version=3, generation=2))
        seen.append(queue.failures(JOB))
        await queue.stop(0)
        return seen

    before, after_status, after_spec = virtual_time.run(scenario())
    assert before == after_status > 5
    assert after_spec == 0


def test_a_standby_follows_and_puts_nothing_on_the_queue() -> None:
    async def scenario() -> tuple[bool, int]:
        async def process(_: Key) -> Outcome:
            return Outcome(End.SETTLED)

        queue = WorkQueue[Key](
            process,
            workers=1,
            patience_seconds=1,
            metrics=Metrics(),
            randomness=random.Random(0),  # noqa: S311
        )
        inbox = Inbox(Cache("nvidia.com/gpu"), queue)
        inbox.receive("TrainingJob", "ADDED", objects.job())
        return inbox.cache.own(JOB) is not None, queue.waiting

    assert virtual_time.run(scenario()) == (True, 0)
