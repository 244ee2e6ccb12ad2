"""A plain asynchronous client of the API server: creations, and the time each pod was seen."""

from __future__ import annotations

import asyncio
import base64
import json
import ssl
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

import aiohttp
import yaml

from e2e.kubectl import Kubectl

Manifest = Mapping[str, Any]

_PLURALS = {"TrainingJob": "trainingjobs", "InferenceService": "inferenceservices"}


@dataclass(slots=True)
class Client:
    """Connections to one API server, and what a watch of one namespace's pods has shown."""

    session: aiohttp.ClientSession
    server: str
    namespace: str
    added: dict[str, float] = field(default_factory=dict)  # by the owner's name; monotonic seconds
    last_added: float = 0.0
    pods: set[str] = field(default_factory=set)  # that exist
    _resource_version: str = ""
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    async def create(self, manifest: Manifest) -> None:
        """POST a manifest into the namespace."""
        await self._send("POST", self._url(manifest["kind"]), manifest)

    async def patch_status(self, kind: str, name: str, status: Manifest) -> None:
        """Merge into an object's status, as the component would that owns it."""
        url = f"{self._url(kind)}/{name}/status"
        await self._send("PATCH", url, {"status": status}, "application/merge-patch+json")

    async def patch_spec(self, kind: str, name: str, spec: Manifest) -> None:
        """Merge into an object's spec, as a person would."""
        url = f"{self._url(kind)}/{name}"
        await self._send("PATCH", url, {"spec": spec}, "application/merge-patch+json")

    async def delete(self, kind: str, name: str) -> None:
        """Delete an object at once, as if it had been lost."""
        await self._send("DELETE", f"{self._url(kind)}/{name}", {"gracePeriodSeconds": 0})

    async def delete_pods(self) -> None:
        """Delete all pods of the namespace at once, and wait until the watch has seen them go."""
        options = {"gracePeriodSeconds": 0, "propagationPolicy": "Background"}
        await self._send("DELETE", self._url("Pod"), options)
        await self.until(lambda: not self.pods)

    async def _send(
        self, verb: str, url: str, body: Manifest, content_type: str = "application/json"
    ) -> None:
        """Raise RuntimeError with the server's sentence, if it refuses."""
        headers = {"Content-Type": content_type}
        async with self.session.request(verb, url, json=body, headers=headers) as answer:
            if answer.status >= 400:
                raise RuntimeError(await answer.text())

    async def until(self, seen: Callable[[], bool]) -> None:
        """Wait for what the watch is to see; a poll would take CPU time from who is measured."""
        while not seen():
            self._changed.clear()
            await self._changed.wait()

    async def watch(self) -> None:
        """Note the pods that come and go, and when each owner's first came, until cancelled."""
        while True:  # the API server ends the watch of a client that is too slow for it
            async for line in self._lines("Pod", self._resource_version):
                # What else a pod does is not measured, and reading it would cost the CPU time that
                # operator and API server share with this client.
                if line.startswith(_READ):
                    self._saw(json.loads(line))

    async def objects(self, kind: str) -> AsyncIterator[Manifest]:
        """Yield every object of a kind that exists, then each again when it changed, for ever."""
        while True:  # a watch that was ended begins again with what exists
            async for line in self._lines(kind, resource_version=""):
                yield json.loads(line)["object"]

    async def _lines(self, kind: str, resource_version: str) -> AsyncIterator[bytes]:
        """Yield the events of one watch, each as a line of JSON."""
        query = {"watch": "1", "resourceVersion": resource_version}
        async with self.session.get(self._url(kind), params=query, timeout=_NO_TIMEOUT) as stream:
            stream.raise_for_status()
            async for line in stream.content:
                if line.startswith(_ERROR):
                    _check(json.loads(line)["object"])
                    return
                yield line

    def _saw(self, event: Manifest) -> None:
        metadata = event["object"]["metadata"]
        self._resource_version = metadata["resourceVersion"]
        if event["type"] == "DELETED":
            self.pods.discard(metadata["name"])
        else:
            self.last_added = time.monotonic()
            self.pods.add(metadata["name"])
            owner = metadata.get("labels", {}).get("lepton.ai/name", metadata["name"])
            self.added.setdefault(owner, self.last_added)
        self._changed.set()

    def _url(self, kind: str) -> str:
        if kind == "Pod":
            return f"{self.server}/api/v1/namespaces/{self.namespace}/pods"
        group = "apis/lepton.ai/v1alpha1"
        return f"{self.server}/{group}/namespaces/{self.namespace}/{_PLURALS[kind]}"


_READ = (b'{"type":"ADDED"', b'{"type":"DELETED"')
_ERROR = b'{"type":"ERROR"'
_NO_TIMEOUT = aiohttp.ClientTimeout(total=None)
_CONNECTIONS = 20
# Lines of a watch are whole pods.
_LONGEST_LINE_BYTES = 1 << 20


def _check(status: Manifest) -> None:
    """Raise RuntimeError unless a watch may be asked for again: the server's cache is behind."""
    if status["code"] != HTTPStatus.GATEWAY_TIMEOUT:
        raise RuntimeError(status["message"])


@asynccontextmanager
async def client(kubectl: Kubectl) -> AsyncIterator[Client]:
    """A client with a running watch, as the kubeconfig's user."""
    config = yaml.safe_load(kubectl.kubeconfig.read_text())
    cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
    connector = aiohttp.TCPConnector(ssl=_tls(cluster, user), limit=_CONNECTIONS)
    async with aiohttp.ClientSession(
        connector=connector, read_bufsize=_LONGEST_LINE_BYTES
    ) as session:
        made = Client(session, cluster["server"], kubectl.namespace)
        async with asyncio.TaskGroup() as group:  # a watch that fails ends what waits for it
            watching = group.create_task(made.watch())
            yield made
            watching.cancel()


def _tls(cluster: Mapping[str, str], user: Mapping[str, str]) -> ssl.SSLContext:
    authority = base64.b64decode(cluster["certificate-authority-data"]).decode()
    context = ssl.create_default_context(cadata=authority)
    with tempfile.NamedTemporaryFile() as pair:
        for key in ("client-certificate-data", "client-key-data"):
            pair.write(base64.b64decode(user[key]))
        pair.flush()
        context.load_cert_chain(pair.name)
    return context
