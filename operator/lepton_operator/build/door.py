"""The door of a namespace: Envoy pods before its services, fed by the operator.

What the administrator's values say is recorded with the Deployment: only when they change are its
pods replaced, never by a new operator version alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lepton_operator import names
from lepton_operator.api.common import Metadata, PodSettings, Resources, StatusModel
from lepton_operator.build import pods
from lepton_operator.settings import Settings

ROLE = "door"
HEALTH_PORT = 9902
CERTIFICATES_VOLUME = "certificates"
CERTIFICATES_PATH = "/etc/lepton/door"

# Between the end of the drain and SIGKILL: what Envoy needs to end.
_GRACE_MARGIN_SECONDS = 10

# Envoy's bootstrap and its socket.
_SCRATCH_SPACE = "16Mi"


class ResolvedDoor(StatusModel):
    """The administrator's values that reach the pods of a door, as they are recorded."""

    image: str
    pull_policy: str
    replicas: int
    xds_address: str
    drain_timeout_seconds: int
    resources: Resources
    pods: PodSettings
    run_as_user: int | None = None
    fs_group: int | None = None
    priority_class: str | None = None

    def written(self) -> str:
        """Return the annotation of the Deployment."""
        dumped = self.model_dump(mode="json", by_alias=True, exclude_none=True)
        pod_settings = self.pods.model_dump(mode="json", by_alias=True, exclude_defaults=True)
        resources = self.resources.model_dump(mode="json", by_alias=True, exclude_defaults=True)
        return names.canonical({**dumped, "pods": pod_settings, "resources": resources})


def resolve(settings: Settings) -> ResolvedDoor:
    door, defaults = settings.door, settings.defaults
    return ResolvedDoor(
        image=defaults.images.door,
        pull_policy=defaults.images.pull_policy,
        replicas=door.replicas,
        xds_address=door.xds_address,
        drain_timeout_seconds=door.drain_timeout_seconds,
        resources=door.resources,
        pods=door.pods,
        run_as_user=defaults.run_as_user,
        fs_group=defaults.fs_group,
        priority_class=defaults.inference_priority_class,
    )


def labels() -> dict[str, str]:
    """Return the labels of all that belongs to a door."""
    return names.owner_labels(names.DOOR_KIND, names.DOOR)


def metadata(namespace: str, name: str = names.DOOR) -> dict[str, Any]:
    return {"name": name, "namespace": namespace, "labels": labels()}


def deployment(namespace: str, resolved: ResolvedDoor) -> dict[str, Any]:
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {
            **metadata(namespace),
            "annotations": {names.RESOLVED: resolved.written()},
        },
        "spec": {
            "replicas": resolved.replicas,
            "revisionHistoryLimit": 2,
            "selector": {"matchLabels": names.door_labels()},
            # A new pod takes requests before an old one ceases to.
            "strategy": {
                "type": "RollingUpdate",
                "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1},
            },
            "template": _template(namespace, resolved),
        },
    }


def budget(namespace: str) -> dict[str, Any]:
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": metadata(namespace),
        "spec": {
            "maxUnavailable": 1,
            "selector": {"matchLabels": names.door_labels()},
            "unhealthyPodEvictionPolicy": "AlwaysAllow",
        },
    }


def _template(namespace: str, resolved: ResolvedDoor) -> dict[str, Any]:
    parts = pods.PodParts(
        name=names.DOOR,
        role=ROLE,
        containers=[_container(resolved)],
        volumes=[_certificates()],
        priority_class=resolved.priority_class,
        restart_policy="Always",
        spread=[_spread()],
        temporary_size=_SCRATCH_SPACE,
    )
    grace_seconds = resolved.drain_timeout_seconds + _GRACE_MARGIN_SECONDS
    settings = resolved.pods.model_copy(update={"termination_grace_period_seconds": grace_seconds})
    identity = pods.Identity(resolved.run_as_user, resolved.fs_group)
    owner = Metadata(name=names.DOOR, namespace=namespace)
    made = pods.pod(names.DOOR_KIND, owner, settings, identity, parts)
    scraped = {"prometheus.io/scrape": "true", "prometheus.io/port": str(HEALTH_PORT)}
    found = made["metadata"]
    annotations = {**scraped, **found["annotations"]}
    return {
        "metadata": {"labels": found["labels"], "annotations": annotations},
        "spec": made["spec"],
    }


def _container(resolved: ResolvedDoor) -> dict[str, Any]:
    return pods.container(
        ROLE,
        resolved.image,
        pull_policy=resolved.pull_policy,
        command=["python", "-m", "images.door"],
        resources=resolved.resources,
        environment={
            "XDS_ADDRESS": resolved.xds_address,
            "DRAIN_TIMEOUT_SECONDS": str(resolved.drain_timeout_seconds),
        },
        mounts=[pods.mount(CERTIFICATES_VOLUME, CERTIFICATES_PATH, read_only=True)],
        ports=[{"name": "health", "containerPort": HEALTH_PORT}],
        startupProbe=_probe("/healthz", period=1, failures=60),
        livenessProbe=_probe("/healthz", period=10, failures=6),
        readinessProbe=_probe("/ready", period=1, failures=3),
        terminationMessagePolicy="FallbackToLogsOnError",
    )


def _probe(path: str, *, period: int, failures: int) -> dict[str, Any]:
    return {
        "httpGet": {"path": path, "port": "health"},
        "periodSeconds": period,
        "timeoutSeconds": 5,
        "failureThreshold": failures,
    }


def _certificates() -> dict[str, Any]:
    # Optional, so that a door without them can say what is missing.
    source = {"secretName": names.DOOR, "optional": True, "defaultMode": 0o440}
    return {"name": CERTIFICATES_VOLUME, "secret": source}


def _spread() -> Mapping[str, Any]:
    return {
        "maxSkew": 1,
        "topologyKey": "kubernetes.io/hostname",
        "whenUnsatisfiable": "ScheduleAnyway",
        "labelSelector": {"matchLabels": names.door_labels()},
    }
