"""Views of TrainingJobs at the points of their life that the tables start from."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from lepton_operator.api.common import Condition
from lepton_operator.api.training import TrainingJob
from lepton_operator.conditions import find
from lepton_operator.plan import Plan
from lepton_operator.training.plan import plan
from lepton_operator.training.status import CHECKPOINT_PLACE_KNOWN
from lepton_operator.views import TrainingView
from tests.builders import NOW, a_node, a_training_job, ago, defaults, stamp


def a_view(job: TrainingJob, *pods: Any, **more: Any) -> TrainingView:
    nodes = more.pop("nodes", (a_node("node-1"), a_node("node-2")))
    return TrainingView(
        job=job, defaults=more.pop("defaults", defaults()), pods=pods, nodes=nodes, **more
    )


def an_open_job(nodes: int = 1, **more: Any) -> TrainingJob:
    """A job whose attempt 1 was opened a minute ago, as the plan itself records it."""
    opened = ago(60)
    job = a_training_job(nodes, **more)
    return with_status(job, plan(a_view(job), opened).status)


def a_restarting_job(nodes: int = 1, *, attempts: int = 1, **more: Any) -> TrainingJob:
    """A job whose attempts all failed by the user's error, the last one 10 s ago."""
    failed = [
        {
            "number": number,
            "startTime": stamp(ago(100)),
            "endTime": stamp(ago(10)),
            "outcome": "Failed",
            "budget": "User",
            "reason": "UserError",
            "message": "Rank 0 exited 1.",
        }
        for number in range(1, attempts + 1)
    ]
    status = {
        "observedGeneration": 1,
        "attempt": attempts,
        "attempts": failed,
        "restarts": {"user": attempts, "infrastructure": 0},
        "startTime": stamp(ago(100)),
    }
    return a_training_job(nodes, status=status, **more)


def with_status(job: TrainingJob, status: Mapping[str, Any] | None) -> TrainingJob:
    assert status is not None
    return TrainingJob.model_validate({**job.wire(), "status": status})


def after(job: TrainingJob, decided: Plan) -> TrainingJob:
    """The job as it is when its plan was carried out."""
    return with_status(job, decided.status) if decided.status is not None else job


def with_spec(job: TrainingJob, **changes: Any) -> TrainingJob:
    body = job.wire()
    body["spec"] |= changes
    body["metadata"]["generation"] += 1
    return TrainingJob.model_validate(body)


def status_of(decided: Plan) -> Any:
    assert decided.status is not None
    return decided.status


def condition(decided: Plan, kind: str = "Ready") -> Condition:
    conditions = [Condition.model_validate(each) for each in status_of(decided)["conditions"]]
    found = find(conditions, kind)
    assert found is not None, f"no condition {kind}"
    return found


def conditions(decided: Plan) -> dict[str, str]:
    """The conditions, but for the warning that stands on every job without a checkpoint."""
    found = {each["type"]: each["status"] for each in status_of(decided)["conditions"]}
    return {kind: status for kind, status in found.items() if kind != CHECKPOINT_PLACE_KNOWN}


def created(decided: Plan) -> list[str]:
    return [each.manifest["metadata"]["name"] for each in decided.create]


def deleted(decided: Plan) -> list[str]:
    return [each.target.name for each in decided.delete]


def decide(view: TrainingView, now: datetime = NOW) -> Plan:
    return plan(view, now)
