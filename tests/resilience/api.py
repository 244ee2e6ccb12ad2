"""The harness's own calls to the API server, past the proxy."""

from __future__ import annotations

import asyncio
import ssl
from typing import Any

import aiohttp

Json = dict[str, Any]

_MERGE_PATCH = "application/merge-patch+json"
_NOT_FOUND = 404
_WAIT_SECONDS = 30.0
_POLL_SECONDS = 0.02
_OURS = {"TrainingJob": "trainingjobs", "LeptonModel": "leptonmodels"}
_OURS |= {"InferenceService": "inferenceservices"}
# The garbage and the bookkeeping of Kubernetes itself.
_NOT_COMPARED = frozenset(
    {"events", "leases", "endpoints", "endpointslices", "configmaps", "serviceaccounts"}
)
# Its status is the disruption controller's, which learns of new kinds only twice a minute.
_STATUS_NOT_COMPARED = frozenset({"PodDisruptionBudget"})


class Api:
    def __init__(self, server: str, trust: ssl.SSLContext) -> None:
        self._server = server
        self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=trust))
        self._compared: list[tuple[str, str]] = []

    async def close(self) -> None:
        await self._session.close()

    async def get(self, path: str) -> Json | None:
        async with self._session.get(self._server + path) as answer:
            if answer.status == _NOT_FOUND:
                return None
            return await _decoded(answer)

    async def wait_for(self, path: str) -> None:
        """Wait until there is an object at a path."""
        async with asyncio.timeout(_WAIT_SECONDS):
            while await self.get(path) is None:  # noqa: ASYNC110 - nothing here makes it
                await asyncio.sleep(_POLL_SECONDS)

    async def create(self, path: str, manifest: Json) -> Json:
        async with self._session.post(self._server + path, json=manifest) as answer:
            return await _decoded(answer)

    async def patch(self, path: str, change: Json) -> None:
        """Merge into an object; one that is gone already is left alone."""
        headers = {"Content-Type": _MERGE_PATCH}
        async with self._session.patch(self._server + path, json=change, headers=headers) as answer:
            if answer.status != _NOT_FOUND:
                await _decoded(answer)

    async def delete(self, path: str) -> None:
        async with self._session.delete(self._server + path) as answer:
            if answer.status != _NOT_FOUND:
                await _decoded(answer)

    async def apply(self, namespace: str, manifest: Json) -> None:
        """Create one of our objects in a namespace."""
        await self.create(own_path(namespace, manifest["kind"]), manifest)

    async def everything(self, namespace: str) -> list[Json]:
        """Return all objects of a namespace, of every kind that the API server knows."""
        if not self._compared:
            self._compared = await self._discover()
        found: list[Json] = []
        for prefix, resource in self._compared:
            listed = await self.get(f"{prefix}/namespaces/{namespace}/{resource}") or {}
            kind = listed.get("kind", "").removesuffix("List")
            found += [_compared({"kind": kind, **each}) for each in listed.get("items", [])]
        return found

    async def _discover(self) -> list[tuple[str, str]]:
        groups = (await self.get("/apis") or {})["groups"]
        prefixes = ["/api/v1", *(f"/apis/{g['preferredVersion']['groupVersion']}" for g in groups)]
        return [
            (prefix, each["name"])
            for prefix in prefixes
            for each in (await self.get(prefix) or {})["resources"]
            if each["namespaced"] and "list" in each["verbs"] and each["name"] not in _NOT_COMPARED
        ]


def _compared(found: Json) -> Json:
    ignored = {"status"} if found["kind"] in _STATUS_NOT_COMPARED else set()
    return {key: value for key, value in found.items() if key not in ignored}


def own_path(namespace: str, kind: str, name: str = "") -> str:
    path = f"/apis/lepton.ai/v1alpha1/namespaces/{namespace}/{_OURS[kind]}"
    return f"{path}/{name}" if name else path


async def _decoded(answer: aiohttp.ClientResponse) -> Json:
    if not answer.ok:
        raise RuntimeError(
            f"The API server answered {answer.status} to {answer.method} {answer.url.path}: "
            f"{await answer.text()}"
        )
    return dict(await answer.json())
