"""Test values about a door: services as it serves them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from lepton_operator.door.served import Endpoint, Limits, Served

LIMITS = Limits(body_bytes=1 << 26, timeout_seconds=300, concurrency=1024, queue=1024)
PODS = (
    Endpoint("10.0.0.1", "a1b2c3", takes_requests=True),
    Endpoint("10.0.0.2", "d4e5f6", takes_requests=False),
)


def a_served(name: str = "digits", port: int = 18_231, **more: Any) -> Served:
    return replace(Served(name, port, LIMITS, 1000, PODS), **more)
