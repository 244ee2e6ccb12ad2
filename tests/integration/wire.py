"""One connection to an API server that is kept open, for tests that ask it hundreds of things."""

from __future__ import annotations

import http.client
import json
import ssl
import time
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from e2e.cluster.control_plane import ControlPlane

_REQUEST_SECONDS = 30.0
_IDLE_SECONDS = 30.0  # the API server closes a connection that nobody used for 90 s


@dataclass(frozen=True, slots=True)
class Answer:
    """What the API server said: the object, or a metav1.Status with its sentence."""

    code: int
    body: dict[str, Any]

    @property
    def accepted(self) -> bool:
        return self.code < http.client.BAD_REQUEST

    @property
    def sentence(self) -> str:
        return "" if self.accepted else str(self.body["message"])


class Wire:
    """As the cluster's administrator. Unknown fields are refused, not dropped."""

    def __init__(self, plane: ControlPlane) -> None:
        trust = ssl.create_default_context(cafile=str(plane.authority.certificate))
        admin = plane.api.admin
        trust.load_cert_chain(admin.certificate, admin.key)
        self._connection = http.client.HTTPSConnection(
            plane.place.host, plane.place.port, timeout=_REQUEST_SECONDS, context=trust
        )
        self._used = time.monotonic()

    def close(self) -> None:
        self._connection.close()

    def get(self, path: str) -> Answer:
        return self._ask("GET", path)

    def create(self, path: str, manifest: dict[str, Any], *, dry_run: bool = False) -> Answer:
        return self._ask("POST", path, manifest, dry_run=dry_run)

    def merge(self, path: str, change: dict[str, Any], *, dry_run: bool = False) -> Answer:
        return self._ask("PATCH", path, change, "application/merge-patch+json", dry_run=dry_run)

    def replace_status(self, path: str, status: Any, *, dry_run: bool = False) -> Answer:
        """As the operator writes it."""
        change = [{"op": "add", "path": "/status", "value": status}]
        media_type = "application/json-patch+json"
        return self._ask("PATCH", f"{path}/status", change, media_type, dry_run=dry_run)

    def _ask(
        self,
        method: str,
        path: str,
        body: Any = None,
        media_type: str = "application/json",
        *,
        dry_run: bool = False,
    ) -> Answer:
        query = {"fieldValidation": "Strict"} if body is not None else {}
        query |= {"dryRun": "All"} if dry_run else {}
        text = None if body is None else json.dumps(body)
        target = f"{path}?{urlencode(query)}"
        if time.monotonic() - self._used > _IDLE_SECONDS:
            self._connection.close()  # the next request opens it anew
        self._used = time.monotonic()
        self._connection.request(method, target, text, {"Content-Type": media_type})
        response = self._connection.getresponse()
        return Answer(response.status, json.loads(response.read()))
