"""The API server: raw JSON in and out. The only importer of the Kubernetes client.

The client gives configuration, authentication and transport; its generated models would cost a
hundred megabytes and a millisecond an object, and know nothing that a plan needs.
"""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import aiohttp
from kubernetes.aio import config as kubernetes_config
from kubernetes.aio.client.configuration import Configuration
from kubernetes.aio.client.rest import RESTClientObject

from lepton_operator import errors, names
from lepton_operator.api.common import GROUP, VERSION
from lepton_operator.metrics import Metrics
from lepton_operator.plan import Manifest, Reference

Json = dict[str, Any]

CONNECTIONS = 64
PAGE_SIZE = 500
MANAGED = f"{names.MANAGED_BY}={names.OPERATOR}"
USER_AGENT = "lepton-operator"
REQUEST_SECONDS = 15.0
_LIST_SECONDS = 60.0
_CONNECT_SECONDS = 5.0
_FIRST_ERROR_STATUS = 400

_JSON = "application/json"
_JSON_PATCH = "application/json-patch+json"
_MERGE_PATCH = "application/merge-patch+json"


@dataclass(frozen=True, slots=True)
class Resource:
    """Where the objects of a kind are found."""

    kind: str
    group: str
    version: str
    plural: str
    namespaced: bool = True
    selector: str = ""  # only these are ours to see

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    def path(self, namespace: str | None = None, name: str = "", subresource: str = "") -> str:
        """Return the path of an object, or of all in a namespace or in the cluster."""
        root = f"/apis/{self.group}" if self.group else "/api"
        within = f"namespaces/{namespace}" if self.namespaced and namespace else ""
        parts = (root, self.version, within, self.plural, name, subresource)
        return "/".join(part for part in parts if part)


_OURS = (
    Resource("TrainingJob", GROUP, VERSION, "trainingjobs"),
    Resource("LeptonModel", GROUP, VERSION, "leptonmodels"),
    Resource("InferenceService", GROUP, VERSION, "inferenceservices"),
)
_OTHERS = (
    Resource("Pod", "", "v1", "pods", selector=MANAGED),
    Resource("Service", "", "v1", "services", selector=MANAGED),
    Resource("Deployment", "apps", "v1", "deployments", selector=MANAGED),
    Resource("PodDisruptionBudget", "policy", "v1", "poddisruptionbudgets", selector=MANAGED),
    Resource("NetworkPolicy", "networking.k8s.io", "v1", "networkpolicies", selector=MANAGED),
    Resource("HorizontalPodAutoscaler", "autoscaling", "v2", "horizontalpodautoscalers"),
    Resource("Node", "", "v1", "nodes", namespaced=False),
    Resource("Event", "", "v1", "events"),
    Resource("Lease", "coordination.k8s.io", "v1", "leases"),
)
RESOURCES: Mapping[str, Resource] = {each.kind: each for each in (*_OURS, *_OTHERS)}
OWN_KINDS = tuple(each.kind for each in _OURS)


class Cluster:
    """An API server, through one bounded pool of connections.

    `may_write` is asked before each write but those of the Lease itself.
    """

    def __init__(self, configuration: Configuration, metrics: Metrics) -> None:
        configuration.connection_pool_maxsize = CONNECTIONS
        # Else two threads look for proxies in the environment before each request.
        configuration.client_session_kwargs = {"trust_env": False}
        self._configuration = configuration
        self._transport = RESTClientObject(configuration)
        self._metrics = metrics
        self.may_write: Callable[[], bool] = lambda: True

    @property
    def address(self) -> str:
        return str(self._configuration.host)

    async def close(self) -> None:
        """Close all connections."""
        await self._transport.close()

    def watch_session(self, trace: aiohttp.TraceConfig) -> aiohttp.ClientSession:
        """Return a session of its own for watches: they keep connections for minutes."""

        async def authenticate(
            request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
        ) -> aiohttp.ClientResponse:
            request.headers.update(await self._authorization())
            return await handler(request)

        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, ssl=self._transport.ssl_context),
            headers={"User-Agent": USER_AGENT},
            middlewares=(authenticate,),
            trace_configs=[trace],
        )

    async def get(self, kind: str, namespace: str | None, name: str) -> Json:
        return await self._request("GET", RESOURCES[kind].path(namespace, name))

    async def serves(self, kind: str, namespace: str | None) -> bool:
        """Whether the API server knows this kind and we may list it."""
        try:
            await self._request("GET", RESOURCES[kind].path(namespace), query={"limit": "1"})
        except errors.NotFound:
            return False
        return True

    async def list_pages(
        self,
        kind: str,
        namespace: str | None = None,
        selector: str | None = None,
        *,
        fields: str = "",
    ) -> AsyncIterator[list[Json]]:
        """Yield all objects of a kind as they are now (no cache of the API server's), in pages.

        Without a selector of its own the kind's is used; `fields` is a field selector. Raises
        Expired when paging took so long that the list must be begun again.
        """
        resource = RESOURCES[kind]
        query = {"limit": str(PAGE_SIZE)}
        chosen = resource.selector if selector is None else selector
        if chosen:
            query["labelSelector"] = chosen
        if fields:
            query["fieldSelector"] = fields
        while True:
            path = resource.path(namespace)
            page = await self._request("GET", path, query=query, seconds=_LIST_SECONDS)
            yield page.get("items") or []
            query["continue"] = (page.get("metadata") or {}).get("continue") or ""
            if not query["continue"]:
                return

    async def create(self, manifest: Manifest) -> Json:
        resource = RESOURCES[manifest["kind"]]
        path = resource.path(manifest["metadata"].get("namespace"))
        return await self._write("POST", path, manifest)

    async def patch(self, target: Reference, body: Manifest) -> Json:
        """Merge into exactly this object: another one of that name is a Conflict."""
        metadata = {**(body.get("metadata") or {}), "uid": target.uid}
        path = RESOURCES[target.kind].path(target.namespace, target.name)
        return await self._write("PATCH", path, {**body, "metadata": metadata}, _MERGE_PATCH)

    async def patch_status(
        self, target: Reference, resource_version: str, status: Manifest
    ) -> Json:
        """Replace the whole status of the object as it was seen; else a Conflict."""
        path = RESOURCES[target.kind].path(target.namespace, target.name, "status")
        operations = [
            {"op": "replace", "path": "/metadata/resourceVersion", "value": resource_version},
            {"op": "add", "path": "/status", "value": status},
        ]
        return await self._write("PATCH", path, operations, _JSON_PATCH)

    async def scale(self, target: Reference, resource_version: str, replicas: int) -> Json:
        """Ask for so many replicas, as `kubectl scale` does, of the object as it was seen.

        Else it is a Conflict: at this subresource the UID of a custom resource is not looked at.
        """
        path = RESOURCES[target.kind].path(target.namespace, target.name, "scale")
        metadata = {"resourceVersion": resource_version}
        return await self._write(
            "PATCH", path, {"metadata": metadata, "spec": {"replicas": replicas}}, _MERGE_PATCH
        )

    async def delete(self, target: Reference, grace_seconds: int | None = None) -> Json:
        """Delete exactly this object: another one of that name is a Conflict."""
        options: Json = {
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "preconditions": {"uid": target.uid},
        }
        if grace_seconds is not None:
            options["gracePeriodSeconds"] = grace_seconds
        path = RESOURCES[target.kind].path(target.namespace, target.name)
        return await self._write("DELETE", path, options)

    async def put_lease(self, lease: Json, seconds: float) -> Json:
        """Create a Lease that has no resourceVersion yet, replace any other as it was read."""
        metadata = lease["metadata"]
        resource = RESOURCES["Lease"]
        if "resourceVersion" not in metadata:
            path = resource.path(metadata["namespace"])
            return await self._request("POST", path, lease, seconds=seconds)
        path = resource.path(metadata["namespace"], metadata["name"])
        return await self._request("PUT", path, lease, seconds=seconds)

    async def get_lease(self, namespace: str, name: str, seconds: float) -> Json:
        path = RESOURCES["Lease"].path(namespace, name)
        return await self._request("GET", path, seconds=seconds)

    async def _write(self, verb: str, path: str, body: Any, content_type: str = _JSON) -> Json:
        if not self.may_write():
            raise errors.NotLeader(f"{verb} {path} was not sent: the Lease is not held.")
        return await self._request(verb, path, body, content_type=content_type)

    async def _request(
        self,
        verb: str,
        path: str,
        body: Any = None,
        *,
        query: Mapping[str, str] | None = None,
        content_type: str = _JSON,
        seconds: float = REQUEST_SECONDS,
    ) -> Json:
        headers = {
            "Accept": _JSON,
            "Content-Type": content_type,
            "User-Agent": USER_AGENT,
            **await self._authorization(),
        }
        url = f"{self.address}{path}" + (f"?{urlencode(query)}" if query else "")
        timeout = aiohttp.ClientTimeout(total=seconds, sock_connect=_CONNECT_SECONDS)
        began = time.perf_counter()
        code = "<error>"
        try:
            response = await self._transport.request(
                verb, url, headers=headers, body=body, _request_timeout=timeout
            )
            text = await response.read()
            code = str(response.status)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise errors.Transient(
                f"{verb} {path}: the API server did not answer: {error!r}"
            ) from error
        finally:
            self._metrics.requests.labels(code, verb).inc()
            self._metrics.request_seconds.labels(verb).observe(time.perf_counter() - began)
        return _decoded(response.status, text, response.headers)

    async def _authorization(self) -> dict[str, str]:
        """Return the header with a token, read anew when it may have been rotated."""
        token = await self._configuration.get_api_key_with_prefix("BearerToken", "authorization")
        return {"Authorization": token} if token else {}


async def connect(kubeconfig: Path | None, metrics: Metrics) -> Cluster:
    """Return the API server of a kubeconfig's current context, or of the pod that we run in."""
    configuration = Configuration()
    try:
        await _configure(configuration, kubeconfig)
    except kubernetes_config.ConfigException as error:
        place = "this is no pod with a service account" if kubeconfig is None else str(kubeconfig)
        raise errors.NoCluster(
            f"No API server is known: {place} ({error}). Name one with --kubeconfig."
        ) from error
    return Cluster(configuration, metrics)


async def _configure(configuration: Configuration, kubeconfig: Path | None) -> None:
    if kubeconfig is None:
        kubernetes_config.load_incluster_config(client_configuration=configuration)
    else:
        await kubernetes_config.load_kube_config(
            config_file=str(kubeconfig), client_configuration=configuration, persist_config=False
        )


def _decoded(status: int, text: bytes, headers: Mapping[str, str]) -> Json:
    try:
        answer = json.loads(text)
    except ValueError:
        answer = {"message": text[:1000].decode(errors="replace")}
    if status >= _FIRST_ERROR_STATUS:
        raise errors.classify(status, answer, headers)
    return dict(answer)
