"""What the law is asked for in a replay: the operator's own settings, a manifest, the command line.

The later ones count more.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from lepton_operator.api.autoscaling import Autoscaling
from lepton_operator.api.inference import InferenceService
from lepton_operator.autoscale.values import Spec
from lepton_operator.parsing import wrong_fields
from lepton_operator.replay.recording import Recording
from lepton_operator.scaling.asked import max_batch, spec
from lepton_operator.settings import Prometheus, Settings, Triton


def asked_for(parsed: argparse.Namespace, recording: Recording, settings: Settings | None) -> Spec:
    """Return it; raises OSError and ValueError, which says what is missing or wrong."""
    service = _service(parsed.manifest, recording) if parsed.manifest else None
    triton = settings.defaults.triton if settings else Triton()
    prometheus = settings.prometheus if settings else Prometheus()
    batching = service.spec.batching if service else None
    return spec(
        _autoscaling(parsed, service),
        doors=settings.door.replicas if settings else recording.doors,
        max_batch=parsed.max_batch or max_batch(batching, triton.max_batch_size),
        max_age_seconds=prometheus.max_age_seconds,
    )


def _autoscaling(parsed: argparse.Namespace, service: InferenceService | None) -> Autoscaling:
    """Return the manifest's spec.autoscaling, with what the command line says in its place."""
    wanted = _fields(service)
    target = wanted.setdefault("target", {})
    bounds = {"minReplicas": parsed.min, "maxReplicas": parsed.max}
    latency = {"latencyMilliseconds": parsed.target_ms, "percentile": parsed.percentile}
    wanted |= {name: value for name, value in bounds.items() if value is not None}
    target |= {name: value for name, value in latency.items() if value is not None}
    if "latencyMilliseconds" not in target or "maxReplicas" not in wanted:
        raise ValueError("say --target-ms and --max, or --manifest with spec.autoscaling.")
    try:
        return Autoscaling.model_validate(wanted)
    except ValidationError as error:
        raise ValueError(f"what is asked for is wrong: {wrong_fields(error)}.") from error


def _fields(service: InferenceService | None) -> dict[str, Any]:
    if service is None or service.spec.autoscaling is None:
        return {}
    return service.spec.autoscaling.model_dump(mode="json", by_alias=True, exclude_none=True)


def _service(path: Path, recording: Recording) -> InferenceService:
    """Return the only InferenceService of a file, or of several the one of the recording's name."""
    try:
        documents = list(yaml.safe_load_all(path.read_text()))
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not YAML: {error}") from error
    services = [each for each in documents if _is_service(each)]
    if len(services) > 1:
        services = [each for each in services if _name(each) == recording.service]
    if len(services) != 1:
        raise ValueError(
            f"{path} has {len(services) or 'no'} InferenceService to choose: leave the one of "
            f"{recording.service} in it."
        )
    try:
        return InferenceService.model_validate(services[0])
    except ValidationError as error:
        raise ValueError(f"{path} is wrong: {wrong_fields(error)}.") from error


def _is_service(document: object) -> bool:
    return isinstance(document, Mapping) and document.get("kind") == "InferenceService"


def _name(document: Mapping[str, Any]) -> str:
    return str((document.get("metadata") or {}).get("name"))
