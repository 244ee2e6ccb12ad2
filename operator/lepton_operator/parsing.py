"""Our own objects by their pydantic models. The work is done once for each version of an object."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import ValidationError

from lepton_operator.api.inference import InferenceService
from lepton_operator.api.model import LeptonModel
from lepton_operator.api.training import TrainingJob
from lepton_operator.cache import OwnObject

_MOST_FIELDS = 3

Own = TypeVar("Own", TrainingJob, LeptonModel, InferenceService)


def parse(own: OwnObject, kind: type[Own]) -> Own:
    """Return the object by its model; raises ValidationError."""
    if own.parsed is None:
        own.parsed = _parsed(kind, own.body)
    if isinstance(own.parsed, kind):
        return own.parsed
    raise own.parsed if isinstance(own.parsed, Exception) else TypeError(own.key.kind)


def inference_service(own: OwnObject) -> InferenceService:
    """Return the service by its model; raises ValidationError."""
    return parse(own, InferenceService)


def _parsed(kind: type[Own], body: Mapping[str, Any]) -> Own | ValidationError:
    """Parse; a status that nobody can read counts as lost, and is made again."""
    try:
        return kind.model_validate(body)
    except ValidationError as error:
        if all(each["loc"][:1] == ("status",) for each in error.errors()):
            return kind.model_validate({**body, "status": {}})
        return error


def wrong_fields(error: ValidationError) -> str:
    """Return what pydantic says about the first wrong fields."""
    found = [
        (".".join(map(str, each["loc"])), each["msg"].removeprefix("Value error, "))
        for each in error.errors()[:_MOST_FIELDS]
    ]
    return "; ".join(f"{place}: {said}" if place else said for place, said in found)
