"""The few calls that starting a cluster makes to its API server."""

from __future__ import annotations

import http.client
import json
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from e2e.cluster.certificates import Pair
from e2e.cluster.layout import ClusterError

T = TypeVar("T")
_NOT_FOUND = 404
_REQUEST_SECONDS = 10.0


@dataclass(frozen=True)
class Api:
    host: str
    port: int
    authority: Pair
    admin: Pair

    @property
    def url(self) -> str:
        return f"https://{self.host}:{self.port}"

    def ready(self) -> bool:
        """Whether /readyz says exactly `ok`: earlier, its own roles are not all there."""
        try:
            return self._request("GET", "/readyz") == (200, b"ok")
        except (OSError, http.client.HTTPException):
            return False

    def get(self, path: str) -> dict[str, Any] | None:
        """The object at a path, or None."""
        return self._call("GET", path)

    def apply(self, path: str, manifest: dict[str, Any]) -> None:
        """Server-side apply."""
        query = "?fieldManager=lepton-cluster&force=true"
        self._call("PATCH", path + query, manifest, "application/apply-patch+yaml")

    def create(self, path: str, manifest: dict[str, Any]) -> None:
        self._call("POST", path, manifest)

    def patch(self, path: str, change: dict[str, Any]) -> None:
        self._call("PATCH", path, change, "application/merge-patch+json")

    def delete(self, path: str) -> None:
        self._call("DELETE", path)

    def _call(
        self,
        method: str,
        path: str,
        body: dict[str, Any] | None = None,
        content_type: str = "application/json",
    ) -> dict[str, Any] | None:
        status, answer = self._request(method, path, body, content_type)
        if status == _NOT_FOUND and method in {"GET", "DELETE"}:
            return None
        if status >= http.client.BAD_REQUEST:
            raise ClusterError(f"The API server answered {method} {path} with: {answer.decode()}")
        return dict(json.loads(answer))

    def _request(
        self,
        method: str,
        path: str,
        body: dict[str, Any] | None = None,
        content_type: str = "application/json",
    ) -> tuple[int, bytes]:
        trust = ssl.create_default_context(cafile=str(self.authority.certificate))
        trust.load_cert_chain(self.admin.certificate, self.admin.key)
        connection = http.client.HTTPSConnection(
            self.host, self.port, timeout=_REQUEST_SECONDS, context=trust
        )
        try:
            text = None if body is None else json.dumps(body)
            connection.request(method, path, text, {"Content-Type": content_type})
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()


def wait_for(
    what: str,
    question: Callable[[], T | None],
    seconds: float,
    explain: Callable[[], str] = str,
    interval_seconds: float = 0.05,
) -> T:
    """Ask until the answer is true, and return it."""
    deadline = time.monotonic() + seconds
    while True:
        answer = question()
        if answer:
            return answer
        if time.monotonic() > deadline:
            raise ClusterError(f"{what} did not happen within {seconds:.0f} s. {explain()}")
        time.sleep(interval_seconds)
