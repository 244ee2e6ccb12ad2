"""What a status becomes when the spec is not one that this operator knows."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from pydantic import ValidationError

from lepton_operator.api.training import TrainingJob
from lepton_operator.cache import Cache, Key
from lepton_operator.reconcile import _invalid_status
from tests.unit.runtime import objects

NOW = datetime(2026, 11, 22, 4, tzinfo=UTC)
EARLIER = "2026-11-22T03:00:00Z"
KEY = Key("TrainingJob", "team", "digits")


def said(kind: str) -> dict[str, str]:
    return {
        "type": kind,
        "status": "True",
        "reason": kind,
        "message": "It was so.",
        "lastTransitionTime": EARLIER,
    }


@pytest.mark.parametrize("final", ["Complete", "Failed"])
def test_a_job_that_has_ended_stays_ended(final: str) -> None:
    body = objects.job(status={"conditions": [said("Ready"), said("Reconciling"), said(final)]})
    body["spec"]["numNodes"] = 0  # as an API server with an older schema would have let it in
    cache = Cache("nvidia.com/gpu")
    cache.put("TrainingJob", body)
    own = cache.own(KEY)
    assert own
    with pytest.raises(ValidationError) as error:
        TrainingJob.model_validate(body)
    told = _invalid_status(own, error.value, NOW)["conditions"]
    assert [(each["type"], each["status"]) for each in told] == [
        ("Ready", "False"),
        ("Stalled", "True"),
        (final, "True"),
    ]
    # The time to live counts from here.
    assert told[-1]["lastTransitionTime"] == EARLIER
