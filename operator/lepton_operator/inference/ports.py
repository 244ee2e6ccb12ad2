"""The port of the door that leads to a service. Its Kubernetes Service is the record of it.

One listener and port a service: which service a request is for says the port that it came to, and
nothing in the request.
"""

from __future__ import annotations

import hashlib

from lepton_operator.names import DOOR_PORTS
from lepton_operator.views import InferenceView


def port(view: InferenceView) -> int:
    """Return the port that this service has, or is to get.

    What it has it keeps, unless an older Service leads there too. Where to look for a free one
    depends on its name only, so that a Service that was deleted by hand gets the same port again.
    """
    found = view.kubernetes_service
    kept = found.door_port if found else None
    if found is not None and kept is not None and _is_free(view, kept):
        return kept
    first = _first(view.service.metadata.name)
    size = len(DOOR_PORTS)
    every = (DOOR_PORTS[(first + offset) % size] for offset in range(size))
    return next((each for each in every if _is_free(view, each)), DOOR_PORTS[first])


def _is_free(view: InferenceView, candidate: int) -> bool:
    holder = view.ports.get(candidate)
    found = view.kubernetes_service
    return holder is None or (found is not None and holder.uid == found.uid)


def _first(name: str) -> int:
    digest = hashlib.sha256(name.encode()).digest()
    return int.from_bytes(digest[:8]) % len(DOOR_PORTS)
