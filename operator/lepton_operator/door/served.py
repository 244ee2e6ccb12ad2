"""What a door has to know of one InferenceService: values of the API, and nothing else."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from lepton_operator import names
from lepton_operator.api.inference import InferenceService
from lepton_operator.api.inference import Limits as AskedLimits
from lepton_operator.build.serving import SERVE
from lepton_operator.settings import DoorDefaults
from lepton_operator.views import PodView


class Endpoint(NamedTuple):
    """A pod that requests may be at; new ones go to those that take them."""

    address: str
    revision: str
    takes_requests: bool


@dataclass(frozen=True, slots=True)
class Limits:
    """What each door lets through to a service; see `limits` in the API."""

    body_bytes: int
    timeout_seconds: int
    concurrency: int
    queue: int


@dataclass(frozen=True, slots=True)
class Served:
    """One service, as its namespace's doors serve it."""

    name: str
    port: int
    limits: Limits
    target_milliseconds: int
    endpoints: tuple[Endpoint, ...] = ()


def served(
    service: InferenceService, port: int, pods: Iterable[PodView], defaults: DoorDefaults
) -> Served:
    """Return what the doors have to know of a service that they serve on this port."""
    return Served(
        name=service.metadata.name,
        port=port,
        limits=limits(service, defaults),
        target_milliseconds=_target_milliseconds(service, defaults),
        endpoints=endpoints(service.metadata.name, pods),
    )


def _target_milliseconds(service: InferenceService, defaults: DoorDefaults) -> int:
    asked = service.spec.autoscaling
    return asked.target.latency_milliseconds if asked else defaults.latency_target_milliseconds


def limits(service: InferenceService, defaults: DoorDefaults) -> Limits:
    asked = service.spec.limits or AskedLimits()
    return Limits(
        body_bytes=asked.body_bytes or defaults.body_bytes,
        timeout_seconds=asked.timeout_seconds or defaults.timeout_seconds,
        concurrency=asked.concurrency or defaults.concurrency,
        queue=defaults.queue if asked.queue is None else asked.queue,
    )


def endpoints(service: str, pods: Iterable[PodView]) -> tuple[Endpoint, ...]:
    """Return the pods that requests are at, or may be sent to, by their addresses.

    A pod that takes no requests stays, until it is gone: a door cuts what is in flight at an
    endpoint that it does not know any more, and a missed probe is no reason for that.
    """
    found: dict[str, Endpoint] = {}
    for pod in sorted(pods, key=lambda pod: (pod.created, pod.uid)):
        endpoint = place(pod)
        if endpoint is not None:
            released = pod.labels.get(names.ROLE) != SERVE or pod.labels.get(names.NAME) != service
            found[endpoint.address] = endpoint._replace(
                takes_requests=endpoint.takes_requests and not released
            )
    return tuple(sorted(found.values()))


def place(pod: PodView) -> Endpoint | None:
    """Return where a pod is reached; None if it is nowhere."""
    if pod.gone or pod.finished or not pod.ip or not _is_address(pod.ip):
        return None
    leaves = pod.deleting or names.DRAINING in pod.annotations
    revision = pod.labels.get(names.REVISION, "")
    return Endpoint(pod.ip, revision, takes_requests=pod.ready and not leaves)


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
