"""Kopf: watches that survive broken connections and feed the inbox. The only importer of kopf.

Only `on.event` handlers, so Kopf writes nothing: no finalizers, no annotations, no Events.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator
from typing import Any

import kopf

from lepton_operator.cluster import RESOURCES, Cluster, Resource
from lepton_operator.inbox import Inbox
from lepton_operator.observe import Observer
from lepton_operator.watches import INACTIVITY_SECONDS, SERVER_SECONDS, Watches

_PREFIX = "kopf.lepton.ai"
_PAGE_SIZE = 500
_REQUEST_SECONDS = 60.0
_CONNECT_SECONDS = 10.0
_FIRST_BACKOFF_SECONDS = 0.5
_LAST_BACKOFF_SECONDS = 30.0
_IDLE_SECONDS = 1.0  # Kopf keeps a task for each object that long after its last event

Tasks = Collection[asyncio.Task[Any]]


class _Backoffs:
    """Delays without an end: a watch is never given up, or Kopf would end the process."""

    def __iter__(self) -> Iterator[float]:
        delay = _FIRST_BACKOFF_SECONDS
        while True:
            yield delay * random.uniform(0.8, 1.2)  # noqa: S311 - spreads retries, keeps no secret
            delay = min(delay * 2, _LAST_BACKOFF_SECONDS)


class _NoDiffBase(kopf.DiffBaseStorage):
    """Nothing is remembered about objects, and no copy of each is made to compare it."""

    def build(self, **_: Any) -> kopf.BodyEssence:
        return kopf.BodyEssence()

    def fetch(self, **_: Any) -> kopf.BodyEssence | None:
        return None

    def store(self, **_: Any) -> None:
        return None


def operator_settings(kinds: Iterable[str]) -> kopf.OperatorSettings:
    """Return how Kopf is to behave."""
    settings = kopf.OperatorSettings()
    settings.scanning.disabled = True
    settings.peering.standalone = True
    settings.posting.enabled = False
    settings.persistence.finalizer = f"{_PREFIX}/finalizer"
    settings.persistence.progress_storage = kopf.AnnotationsProgressStorage(prefix=_PREFIX)
    settings.persistence.diffbase_storage = _NoDiffBase()
    settings.networking.error_backoffs = _Backoffs()
    settings.networking.enforce_retry_after = True
    settings.networking.request_timeout = _REQUEST_SECONDS
    settings.networking.connect_timeout = _CONNECT_SECONDS
    settings.queueing.idle_timeout = _IDLE_SECONDS
    settings.watching.server_timeout = SERVER_SECONDS
    settings.watching.inactivity_timeout = INACTIVITY_SECONDS
    settings.watching.chunk_size = _PAGE_SIZE
    for resource in (RESOURCES[kind] for kind in kinds):
        if resource.selector:  # of the request itself: the API server sends nothing else
            settings.watching.label_selectors[_selector(resource)] = resource.selector
    return settings


def registry(kinds: Iterable[str], cluster: Cluster, watches: Watches) -> kopf.OperatorRegistry:
    """Return one event handler a kind, and the login."""
    found = kopf.OperatorRegistry()

    @kopf.on.login(registry=found)
    async def login(**_: Any) -> kopf.AiohttpSession:
        session = cluster.watch_session(watches.trace())
        return kopf.AiohttpSession(server=cluster.address, aiohttp_session=session)

    for kind in kinds:
        resource = RESOURCES[kind]
        kopf.on.event(resource.group, resource.version, resource.plural, id=kind, registry=found)(
            _handler(kind)
        )
    return found


async def spawn(observer: Observer, watches: Watches, inbox: Inbox, stop: asyncio.Event) -> Tasks:
    """Start watching; `attend` runs what is returned until `stop` is set."""
    namespaces = observer.settings.watch_namespaces
    return await kopf.spawn_tasks(
        registry=registry(observer.kinds, observer.cluster, watches),
        settings=operator_settings(observer.kinds),
        memo=inbox,
        clusterwide=not namespaces,
        namespaces=namespaces,
        stop_flag=stop,
    )


async def attend(tasks: Tasks, others: Tasks) -> None:
    """Run the watches until they are stopped; raises what ended them. `others` are left alone."""
    await kopf.run_tasks(tasks, ignored=others)


def _handler(kind: str) -> Callable[..., Awaitable[None]]:
    async def handle(event: kopf.RawEvent, memo: Inbox, **_: Any) -> None:
        memo.receive(kind, event["type"], event["object"])

    return handle


def _selector(resource: Resource) -> tuple[str, str, str]:
    return (resource.group, resource.version, resource.plural)
