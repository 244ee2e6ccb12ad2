"""Handing the result over: rank 0's version becomes one of the LeptonModel's."""

from __future__ import annotations

from typing import Any

from lepton_operator import records
from lepton_operator.api.common import API_VERSION
from lepton_operator.api.training import OutputStatus
from lepton_operator.plan import Create, Event, Manifest, Plan
from lepton_operator.training import attempts
from lepton_operator.training.situation import Situation, ended_well, training_container
from lepton_operator.training.status import (
    COMPLETE,
    Reason,
    complete,
    reconciling,
    refused,
    written,
)


def finish(situation: Situation) -> Plan | None:
    """Complete the job: all ranks ended well, or rank 0 with a version of the model.

    The model is made first; it has no owner, because a job's end must not delete what is served.
    """
    result = _result(situation) if situation.spec.output else None
    if result is None and not _all_ended_well(situation):
        return None
    create = (Create(_model(situation, result), shared=True),) if result else ()
    if situation.view.refusals:
        status = written(situation, refused(situation))
        return Plan(because="hand the result over", create=create, status=status)
    ended, gang = complete(result), situation.gang
    return Plan(
        because=f"complete the job: {ended.message}",
        create=create,
        status=written(
            situation,
            ended.verdict,
            attempts=_attempts(situation),
            restarts=attempts.counters(situation, gang) if gang else None,
            output=result,
            completion_time=situation.now,
            ended=ended,
        ),
        events=(Event("Normal", COMPLETE, ended.message),),
    )


def _attempts(situation: Situation) -> list[Any]:
    gang = situation.gang
    if gang is None:
        return list(situation.status.attempts)
    return attempts.recorded(situation, attempts.closed(situation, gang, "Succeeded"))


def _all_ended_well(situation: Situation) -> bool:
    gang = situation.gang
    if gang is None or situation.spec.output is not None:
        return False
    pods = [gang.pods.get(rank) for rank in situation.ranks]
    return all(pod is not None and ended_well(pod) for pod in pods)


def _result(situation: Situation) -> OutputStatus | None:
    return _from_rank_0(situation) or _from_the_model(situation)


def _from_rank_0(situation: Situation) -> OutputStatus | None:
    pod = situation.gang.pods.get(0) if situation.gang else None
    container = training_container(pod) if pod else None
    if pod is None or container is None or not ended_well(pod):
        return None
    record = records.parse(container.message)
    if record is None or record.model is None:
        return None
    return _output(situation, record.model.version, record.model.digest)


def _from_the_model(situation: Situation) -> OutputStatus | None:
    """Return this run's version if the model lists it already: the job's status was wiped."""
    model, uid = situation.view.model, situation.job.metadata.uid
    if model is None or situation.gang is not None or situation.status.attempts:
        return None
    versions = (each for each in model.status.versions if each.lineage and each.lineage.uid == uid)
    found = next(versions, None)
    return _output(situation, found.version, found.digest) if found else None


def _output(situation: Situation, version: int, digest: str) -> OutputStatus | None:
    output = situation.spec.output
    return OutputStatus(model=output.model, version=version, digest=digest) if output else None


def _model(situation: Situation, result: OutputStatus) -> Manifest:
    return {
        "apiVersion": API_VERSION,
        "kind": "LeptonModel",
        "metadata": {"name": result.model, "namespace": situation.job.metadata.namespace},
        "spec": {},
    }


def refuse(situation: Situation) -> Plan | None:
    """Start nothing for a model that takes its versions from elsewhere."""
    model = situation.view.model
    if situation.gang is not None or model is None or model.spec.source is None:
        return None
    if situation.spec.output is None:
        return None
    name = model.metadata.name
    message = (
        f"LeptonModel {name} takes its versions from its source.uri and none from jobs, so "
        "nothing is started: name another model in output.model, or remove the source."
    )
    status = written(situation, reconciling(Reason.OUTPUT_REFUSED, message))
    because = f"start nothing: LeptonModel {name} has a source" if status else ""
    return Plan(because=because, status=status)


def is_listed(situation: Situation) -> bool:
    """Tell whether the job's version is in its model's status, or there is none to wait for."""
    output, model = situation.status.output, situation.view.model
    if output is None:
        return True
    if model is None:
        return False
    listed = {each.version for each in model.status.versions}
    # Listed are the newest; one that is older than these was among them.
    was_listed = not model.status.unlisted and output.version < max(listed, default=0)
    return output.version in listed or was_listed
