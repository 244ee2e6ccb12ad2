"""door_config: everything that the doors of a namespace are told. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from envoy.service.runtime.v3.rtds_pb2 import Runtime

from lepton_operator.door.clusters import assignments, clusters
from lepton_operator.door.listeners import ASSUMED_TARGET_MILLISECONDS, listener, target_key
from lepton_operator.door.resources import Resource, resource
from lepton_operator.door.routes import routes
from lepton_operator.door.served import Served

RUNTIME_LAYER = "lepton-door"
"""The name of the runtime layer, which a door's bootstrap names too."""


def door_config(services: Iterable[Served]) -> tuple[Resource, ...]:
    """Return every resource of a namespace's doors."""
    found = list(services)
    each = (resource for service in found for resource in service_config(service))
    targets = {service.name: service.target_milliseconds for service in found}
    return (*each, runtime(targets))


def service_config(service: Served) -> Iterator[Resource]:
    """Yield the resources of one service; no other service's depend on it."""
    yield from clusters(service)
    yield from assignments(service)
    yield listener(service)
    yield routes(service)


def service_of(resource_name: str) -> str:
    """Return the service that a resource belongs to, by its name."""
    return resource_name.replace(":", "/").partition("/")[0]


def runtime(targets: Mapping[str, int]) -> Resource:
    """Return the runtime values of a namespace: the latency targets of its services."""
    found = Runtime(name=RUNTIME_LAYER)
    for service, milliseconds in targets.items():
        if milliseconds != ASSUMED_TARGET_MILLISECONDS:
            found.layer.fields[target_key(service)].number_value = milliseconds
    return resource(RUNTIME_LAYER, found)
