"""A plain asynchronous client of the API server: creations, and the time each pod was seen."""

from __future__ import annotations

import asyncio
import base64
import json
import ssl
import tempfile
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
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
    pods: int = 0

    async def create(self, manifest: Manifest) -> None:
        """POST a manifest into the namespace.

        Raises:
            aiohttp.ClientResponseError: with the server's sentence, if it refuses.
        """
        async with self.session.post(self._url(manifest["kind"]), json=manifest) as answer:
            if answer.status >= 400:
                raise RuntimeError(await answer.text())

    async def watch(self) -> None:
        """Note when the first pod of each owner was seen, until cancelled."""
        url = f"{self.server}/api/v1/namespaces/{self.namespace}/pods"
        async with self.session.get(url, params={"watch": "1"}, timeout=_NO_TIMEOUT) as stream:
            async for line in stream.content:
                # What a pod does later is not measured, and reading it would cost the CPU time
                # that operator and API server share with this client.
                if line.startswith(b'{"type":"ADDED"'):
                    self._saw(json.loads(line)["object"]["metadata"])

    def _saw(self, metadata: Manifest) -> None:
        self.last_added = time.monotonic()
        self.pods += 1
        owner = metadata.get("labels", {}).get("lepton.ai/name", metadata["name"])
        self.added.setdefault(owner, self.last_added)

    def _url(self, kind: str) -> str:
        if kind == "Pod":
            return f"{self.server}/api/v1/namespaces/{self.namespace}/pods"
        group = "apis/lepton.ai/v1alpha1"
        return f"{self.server}/{group}/namespaces/{self.namespace}/{_PLURALS[kind]}"


_NO_TIMEOUT = aiohttp.ClientTimeout(total=None)
_CONNECTIONS = 20
# Lines of a watch are whole pods.
_LONGEST_LINE_BYTES = 1 << 20


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
        watching = asyncio.create_task(made.watch())
        try:
            yield made
        finally:
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
