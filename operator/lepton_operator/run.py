"""The operator as a process: stand by, lead, end."""

from __future__ import annotations

import asyncio
import gc
import random
import signal
import time
from collections.abc import Coroutine, Iterator, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lepton_operator import cluster as clusters
from lepton_operator import errors, handlers, health, logs
from lepton_operator.cache import Cache, Key
from lepton_operator.cluster import OWN_KINDS, Cluster
from lepton_operator.door import server as doors
from lepton_operator.door.feed import Feed
from lepton_operator.execute import Executor
from lepton_operator.health import Health, LoopLag
from lepton_operator.inbox import Inbox
from lepton_operator.leader import Candidate, Leader
from lepton_operator.ledgers import LedgerCollector
from lepton_operator.metrics import Metrics
from lepton_operator.observe import Observer
from lepton_operator.parsing import inference_service
from lepton_operator.queue import Outcome, WorkQueue
from lepton_operator.readers import readers
from lepton_operator.reconcile import Planner, Reconciler
from lepton_operator.settings import Settings
from lepton_operator.watches import Watches

_DRAIN_SECONDS = 10.0
_END_OF_WATCHES_SECONDS = 3.0
_RETRY_SECONDS = 1.0
_RESYNC_SPREAD = 0.1
# Doors come back within half a second; lists of thousands of objects would keep them waiting.
_DOORS_FIRST_SECONDS = 1.0
_COLLECTOR_THRESHOLDS = (20_000, 20, 20)

_log = logs.logger(__name__)


@dataclass(frozen=True, slots=True)
class Parts:
    """What a leader works with."""

    settings: Settings
    leader: Leader
    watches: Watches
    observer: Observer
    queue: WorkQueue[Key]
    inbox: Inbox
    feed: Feed
    metrics: Metrics
    informed: asyncio.Event
    leads: asyncio.Event
    listed: asyncio.Event
    stop: asyncio.Event
    random: random.Random

    def knows_enough(self) -> bool:
        """Whether everything was listed; by a leader, since it leads."""
        return (self.listed if self.leader.elected else self.informed).is_set()


async def run(
    settings: Settings,
    plans: Mapping[str, Planner],
    candidate: Candidate,
    kubeconfig: Path | None = None,
) -> int:
    """Run until SIGTERM (0), or until something ends that must not (1)."""
    metrics = Metrics()
    async with AsyncExitStack() as stack:
        # The Lease has connections of its own: a burst of writes must not delay its renewal.
        lease_cluster = await clusters.connect(kubeconfig, metrics)
        stack.push_async_callback(lease_cluster.close)
        cluster = await clusters.connect(kubeconfig, metrics)
        stack.push_async_callback(cluster.close)
        leader = Leader(lease_cluster, settings.leader_election, candidate, metrics)
        cluster.may_write = leader.held
        parts = _assemble(settings, plans, cluster, leader, metrics)
        lag = LoopLag()
        ticking = asyncio.create_task(lag.measure(), name="loop lag")
        stack.callback(ticking.cancel)
        state = Health(leader, parts.watches, lag, parts.knows_enough)
        server = await health.serve(state, metrics, settings.http_port)
        stack.push_async_callback(server.cleanup)
        return await _stand_by_and_lead(parts)


def _assemble(
    settings: Settings,
    plans: Mapping[str, Planner],
    cluster: Cluster,
    leader: Leader,
    metrics: Metrics,
) -> Parts:
    cache = Cache(settings.defaults.gpu_resource)
    metrics.registry.register(LedgerCollector(cache, leader.held))
    asked = readers(cluster, cache, settings, metrics)
    observer = Observer(cluster, cache, settings, asked)
    randomness = random.Random()  # noqa: S311 - spreads retries, keeps no secret
    for kind in OWN_KINDS:
        metrics.max_workers.labels(kind.lower()).set(settings.workers)

    async def process(key: Key) -> Outcome:
        return await reconciler(key)

    queue = WorkQueue[Key](
        process,
        workers=settings.workers,
        patience_seconds=settings.pods_first_seconds,
        metrics=metrics,
        randomness=randomness,
    )
    feed = Feed(cache, inference_service, settings.defaults.door)
    inbox = Inbox(cache, queue, feed.note)
    reconciler = Reconciler(
        observer,
        Executor(cluster, cache),
        plans,
        wake=inbox.wake,
        should_put_off=queue.should_put_off,
        metrics=metrics,
    )
    return Parts(
        settings=settings,
        leader=leader,
        watches=Watches(observer.kinds, observer.namespaces, metrics),
        observer=observer,
        queue=queue,
        inbox=inbox,
        feed=feed,
        metrics=metrics,
        informed=asyncio.Event(),
        leads=asyncio.Event(),
        listed=asyncio.Event(),
        stop=asyncio.Event(),
        random=randomness,
    )


async def _stand_by_and_lead(parts: Parts) -> int:
    _stop_on_signals(parts.stop)
    working = asyncio.create_task(_first_of(_hold(parts), _control(parts)), name="work")
    stopping = asyncio.create_task(parts.stop.wait(), name="stop")
    try:
        await asyncio.wait({working, stopping}, return_when=asyncio.FIRST_COMPLETED)
        return _exit_code(working)
    finally:
        # First what a standby waits for: no more writes from here, then the Lease.
        await parts.queue.stop(_DRAIN_SECONDS if parts.leader.held() else 0.0)
        await parts.leader.release()
        await _cancelled(working, stopping)


def _exit_code(working: asyncio.Task[None]) -> int:
    error = working.exception() if working.done() else None
    if error is None:
        _log.info("The operator ends: it was asked to")
        return 0
    _log.error("The operator ends", error=str(error), exception=type(error).__name__)
    return 1


async def _hold(parts: Parts) -> None:
    """Take the Lease once the cache is full, and keep it; ends with the error of losing it.

    Who took it first would keep the doors waiting for its lists.
    """
    await parts.informed.wait()
    await parts.leader.acquire()
    parts.leads.set()
    await parts.leader.keep()


async def _control(parts: Parts) -> None:
    await _wait_for_kinds(parts)
    others = asyncio.all_tasks()
    end = asyncio.Event()
    tasks = await handlers.spawn(parts.observer, parts.watches, parts.inbox, end)
    _stop_on_signals(parts.stop)  # Kopf has put handlers of its own in their place
    watching = asyncio.create_task(handlers.attend(tasks, others), name="watches")
    try:
        await _first_of(_joined(watching), _work(parts))
    finally:
        end.set()
        await asyncio.wait([watching], timeout=_END_OF_WATCHES_SECONDS)
        watching.cancel()


async def _work(parts: Parts) -> None:
    """List everything once the watches miss nothing any more, and follow it, leader or not."""
    await parts.watches.established()
    relisted: asyncio.Queue[str] = asyncio.Queue()
    parts.watches.relisted = relisted.put_nowait
    await _list_everything(parts)
    if parts.settings.xds is not None:
        parts.feed.begin()
    spare_the_collector()
    parts.informed.set()
    await _first_of(_resync(parts, relisted), _work_as_leader(parts))


async def _work_as_leader(parts: Parts) -> None:
    """Serve the doors with what is known, at once; write only after another look.

    What the last leader wrote before its Lease ended may not have come by a watch yet.
    """
    await parts.leads.wait()
    await _first_of(*_doors(parts), _reconcile(parts))


async def _reconcile(parts: Parts) -> None:
    if parts.settings.xds is not None:
        await asyncio.sleep(_DOORS_FIRST_SECONDS)
    await _list_everything(parts)
    observer, wake = parts.observer, parts.queue.add
    for key in observer.cache.own_keys():
        wake(key)
    parts.listed.set()
    parts.queue.start()
    await _first_of(*observer.readers.runs(wake))


async def _list_everything(parts: Parts) -> None:
    began = time.monotonic()
    for kind in parts.observer.kinds:
        await _relist(parts, kind)
    seconds = round(time.monotonic() - began, 3)
    what = "Everything is listed" if parts.leads.is_set() else "Ready to lead"
    _log.info(what, seconds=seconds, **parts.observer.cache.counts())


def _doors(parts: Parts) -> Iterator[Coroutine[Any, Any, None]]:
    """Yield the server of the doors."""
    if parts.settings.xds is not None:
        yield doors.serve(parts.settings.xds, parts.feed.catalogue, parts.metrics)


def spare_the_collector() -> None:
    """Collect cycles more seldom, and never look again at what was loaded to stay.

    Almost nothing here is cyclic, and at the default thresholds each full collection walks every
    object of the cache.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_COLLECTOR_THRESHOLDS)


async def _resync(parts: Parts, relisted: asyncio.Queue[str]) -> None:
    """List again what a watch had to list again, and everything on a slow timer."""
    spread = parts.settings.resync_seconds * _RESYNC_SPREAD
    while True:
        wait = parts.settings.resync_seconds + parts.random.uniform(-spread, spread)
        kinds = parts.observer.kinds
        try:
            kinds = (await asyncio.wait_for(relisted.get(), wait),)
        except TimeoutError:
            _log.debug("Listing everything anew")
        for kind in kinds:
            await _relist(parts, kind)


async def _relist(parts: Parts, kind: str) -> None:
    while True:
        try:
            parts.inbox.wake(await parts.observer.relist_kind(kind))
        except errors.ApiError as error:
            _log.warning("Listing failed, it is tried again", kind=kind, error=error.message)
            await asyncio.sleep(_RETRY_SECONDS)
        else:
            return


async def _wait_for_kinds(parts: Parts) -> None:
    """Kopf never watches a kind that was not there when it started, so wait for the CRDs."""
    said = False
    while True:
        try:
            missing = [kind for kind in OWN_KINDS if not await _served(parts, kind)]
        except errors.ApiError as error:
            _log.warning("The API server does not answer yet", error=error.message)
            missing = list(OWN_KINDS)
        else:
            if missing and not said:
                _log.warning("CRDs are missing; apply crds/", kinds=",".join(missing))
                said = True
        if not missing:
            return
        await asyncio.sleep(_RETRY_SECONDS)


async def _served(parts: Parts, kind: str) -> bool:
    return await parts.observer.cluster.serves(kind, parts.observer.namespaces[0])


async def _joined(task: asyncio.Task[None]) -> None:
    """Wait for a task, which outlives the cancellation of the one who waits."""
    await asyncio.shield(task)
    raise RuntimeError("The watches ended without being asked to.")


async def _first_of(*works: Coroutine[Any, Any, None]) -> None:
    """Run all until one ends, and end like that one."""
    tasks = [asyncio.create_task(work) for work in works]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        await _cancelled(*tasks)


async def _cancelled(*tasks: asyncio.Task[Any]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _stop_on_signals(stop: asyncio.Event) -> None:
    loop = asyncio.get_running_loop()
    for each in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(each, stop.set)
