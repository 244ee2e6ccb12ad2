"""What really happened, by a watch of the harness's own that no fault touches."""

from __future__ import annotations

import asyncio
import json
import ssl
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from tests.resilience.proxy import lines
from tests.resilience.writes import Target, normal_name

Body = Mapping[str, Any]

_OURS = "/apis/lepton.ai/v1alpha1"
RESOURCES: Mapping[str, str] = {
    "pods": "/api/v1/pods",
    "services": "/api/v1/services",
    "deployments": "/apis/apps/v1/deployments",
    "poddisruptionbudgets": "/apis/policy/v1/poddisruptionbudgets",
    "networkpolicies": "/apis/networking.k8s.io/v1/networkpolicies",
    "trainingjobs": f"{_OURS}/trainingjobs",
    "leptonmodels": f"{_OURS}/leptonmodels",
    "inferenceservices": f"{_OURS}/inferenceservices",
}


Follower = Callable[[str, Body | None, Body], None]
"""Is told of each event: the resource, what was there before, and what is there now."""


@dataclass(slots=True)
class World:
    """One namespace: what is there now, and every object that was ever made or removed in it."""

    present: dict[tuple[str, str], Body] = field(default_factory=dict)  # by resource and name
    made: dict[str, tuple[str, str]] = field(default_factory=dict)  # resource and name by UID
    removed: dict[str, tuple[str, str]] = field(default_factory=dict)
    pods: dict[str, Body] = field(default_factory=dict)  # the last state of each, by UID
    events: set[tuple[str, str]] = field(default_factory=set)  # resource and type
    last_event: float = field(default_factory=time.monotonic)
    followers: list[Follower] = field(default_factory=list)
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def get(self, resource: str, name: str) -> Body | None:
        return self.present.get((resource, name))

    def list(self, resource: str) -> Iterator[Body]:
        for (kind, _), body in sorted(self.present.items()):
            if kind == resource:
                yield body

    def receive(self, resource: str, event: str, body: Body) -> None:
        metadata = body["metadata"]
        where = (resource, str(metadata["name"]))
        before = self.present.get(where)
        self.made[metadata["uid"]] = where
        self.events.add((resource, event))
        if resource == "pods":
            self.pods[metadata["uid"]] = body
        if event == "DELETED":
            self.removed[metadata["uid"]] = where
            self.present.pop(where, None)
        else:
            self.present[where] = body
        self.last_event = time.monotonic()
        self.changed.set()
        for each in self.followers:
            each(resource, before, body)

    def effects(self) -> Counter[Target]:
        """Return how often each object was made and removed, whoever did it."""
        made = (Target("create", kind, normal_name(name)) for kind, name in self.made.values())
        gone = (Target("delete", kind, normal_name(name)) for kind, name in self.removed.values())
        return Counter([*made, *gone])


class History:
    """Watches what the operator writes, in all namespaces."""

    def __init__(self, server: str, trust: ssl.SSLContext) -> None:
        self._server = server
        self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0, ssl=trust))
        self._worlds: dict[str, World] = {}
        self._watches: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Watch from now on."""
        for resource, path in RESOURCES.items():
            version = await self._version(path)
            watching = self._watch(resource, path, version)
            self._watches.append(asyncio.create_task(watching, name=f"history of {resource}"))

    async def close(self) -> None:
        # First the session: it breaks the connections off, where a cancelled watch would begin
        # TLS's goodbye, which outlives the loop.
        await self._session.close()
        for each in self._watches:
            each.cancel()
        await asyncio.gather(*self._watches, return_exceptions=True)

    def world(self, namespace: str) -> World:
        """Return what is known of a namespace."""
        return self._worlds.setdefault(namespace, World())

    def forget(self, namespace: str) -> None:
        self._worlds.pop(namespace, None)

    def check(self) -> None:
        """Raise what ended a watch: a history with a hole in it proves nothing."""
        for each in self._watches:
            if each.done():
                each.result()

    async def _version(self, path: str) -> str:
        async with self._session.get(self._server + path, raise_for_status=True) as answer:
            found = await answer.json()
        return str(found["metadata"]["resourceVersion"])

    async def _watch(self, resource: str, path: str, version: str) -> None:
        endless = aiohttp.ClientTimeout(total=None)
        while True:
            query = {"watch": "true", "allowWatchBookmarks": "true", "resourceVersion": version}
            async with self._session.get(
                self._server + path, params=query, timeout=endless, raise_for_status=True
            ) as answer:
                async for line in lines(answer):
                    version = self._receive(resource, json.loads(line))

    def _receive(self, resource: str, event: Mapping[str, Any]) -> str:
        body = event["object"]
        if event["type"] == "ERROR":
            raise RuntimeError(f"The history of {resource} has a hole: {body}")
        if event["type"] != "BOOKMARK":
            world = self._worlds.get(body["metadata"]["namespace"])
            if world is not None:
                world.receive(resource, event["type"], body)
        return str(body["metadata"]["resourceVersion"])
