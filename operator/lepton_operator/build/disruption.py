"""The PodDisruptionBudget of an InferenceService: what evictions may take of its pods."""

from __future__ import annotations

from typing import Any

from lepton_operator import names
from lepton_operator.api.inference import InferenceService
from lepton_operator.build import pods, serving


def budget(service: InferenceService, max_unavailable: int) -> dict[str, Any]:
    metadata = service.metadata
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": {
            "name": names.budget(metadata.name),
            "namespace": metadata.namespace,
            "labels": names.owner_labels(service.kind, metadata.name),
            "ownerReferences": [pods.controller_reference(service.kind, metadata)],
        },
        "spec": spec(service, max_unavailable),
    }


def spec(service: InferenceService, max_unavailable: int) -> dict[str, Any]:
    return {
        "maxUnavailable": max_unavailable,
        "selector": {"matchLabels": serving.selector(service)},
        # A pod that answers nothing may always be evicted, or its node would never be empty.
        "unhealthyPodEvictionPolicy": "AlwaysAllow",
    }
