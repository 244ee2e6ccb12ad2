"""plan(view, now): what a LeptonModel needs done, decided purely.

A pass that has an outcome to record writes the status and nothing else. Only a later pass, whose
view holds that record, deletes the finished pod and makes the next one.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from lepton_operator import names
from lepton_operator.api.model import (
    Gate,
    LeptonModelStatus,
    Served,
    StepStatus,
    Version,
)
from lepton_operator.build import steps
from lepton_operator.conditions import summarise
from lepton_operator.models import gate, versions
from lepton_operator.models.agenda import Agenda, Wanted, agenda, entry_of, step_of, unlisted_job
from lepton_operator.models.events import events
from lepton_operator.models.outcomes import conflicts, recorded, tidied
from lepton_operator.models.verdict import Situation, judge, latest_accepted
from lepton_operator.plan import Create, Delete, Plan
from lepton_operator.views import ModelView


def plan(view: ModelView, now: datetime) -> Plan:
    """Return what to do for this model now."""
    if view.model.metadata.deletion_timestamp is not None:
        return Plan()
    before = view.model.status
    after = _served(view, _gated(view, recorded(view, before, now)))
    todo = agenda(view, after, now)
    after = _remembered(view, after, todo)
    after = _summarised(Situation(view, after, todo), now)
    if _records(view, before, after):
        return Plan(
            because=f"record {_news(before, after)}",
            status=after.wire(),
            events=(*events(before, after), *conflicts(view)),
        )
    return _acting(view, after, todo)


def _records(view: ModelView, before: LeptonModelStatus, after: LeptonModelStatus) -> bool:
    """Return whether the status tells something of a step that it did not tell before."""
    was = tidied(view, before)
    return (
        [_facts(each) for each in was.versions] != [_facts(each) for each in after.versions]
        or was.failing != after.failing
        or (was.imported, was.indexed_time, was.unlisted)
        != (after.imported, after.indexed_time, after.unlisted)
    )


def _facts(version: Version) -> Version:
    return version.model_copy(update={"gate": None})


def _acting(view: ModelView, after: LeptonModelStatus, todo: Agenda) -> Plan:
    before = view.model.status
    running = {pod.uid for pod in todo.running}
    useless = [pod for pod in view.pods if not (pod.gone or pod.deleting or pod.uid in running)]
    create = [_created(view, after, todo.next)] if todo.next is not None else []
    status = after.wire()
    because = [
        *(f"delete {pod.name}: nothing waits for it any more" for pod in useless),
        *(f"create {_name(each)}: {todo.next.because}" for each in create if todo.next),
    ]
    changed = status != before.wire()
    if changed and not because:
        because = [f"say {next(iter(after.conditions)).reason}"]
    return Plan(
        because="; ".join(because),
        delete=tuple(Delete(pod.reference) for pod in useless),
        create=tuple(Create(each) for each in create),
        status=status if changed else None,
        events=events(before, after) if changed else (),
        due=todo.due,
        # The step is made because no pod of it is seen.
        relist=bool(create),
    )


def _created(view: ModelView, status: LeptonModelStatus, wanted: Wanted) -> dict[str, Any]:
    entry = entry_of(status, wanted.step)
    taken = {pod.name for pod in view.pods if not pod.gone}
    number = (entry.failures if entry else 0) + 1
    name = view.model.metadata.name
    while names.step_pod(name, wanted.step.kind, number, wanted.step.version) in taken:
        number += 1
    return steps.step_pod(view.model, wanted.step, number, view.defaults)


def _name(manifest: dict[str, Any]) -> str:
    return str(manifest["metadata"]["name"])


def _remembered(view: ModelView, status: LeptonModelStatus, todo: Agenda) -> LeptonModelStatus:
    """Return the status with a job's new version in mind, where another step keeps it waiting.

    The job may be deleted before its version is listed.
    """
    waits = todo.current is not None and todo.current.step.kind != "index"
    if not waits or status.unlisted or unlisted_job(view, status) is None:
        return status
    return status.model_copy(update={"unlisted": True})


def _gated(view: ModelView, status: LeptonModelStatus) -> LeptonModelStatus:
    newest = versions.newest(status.versions)
    judged = tuple(
        each.model_copy(update={"gate": _gate(view, status, each, newest=each == newest)})
        for each in status.versions
    )
    return status.model_copy(update={"versions": judged})


def _gate(view: ModelView, status: LeptonModelStatus, version: Version, *, newest: bool) -> Gate:
    asked = view.model.spec.evaluation
    entry = next((each for each in status.failing if _gives_up_on(each, version, view)), None)
    failure = entry.message if entry is not None else None
    return gate.judge(version, asked, failure=failure, newest=newest)


def _gives_up_on(entry: StepStatus, version: Version, view: ModelView) -> bool:
    step = step_of(entry)
    current = entry.generation == view.model.metadata.generation
    return entry.final and current and (step.kind, step.version) == ("evaluate", version.version)


def _served(view: ModelView, status: LeptonModelStatus) -> LeptonModelStatus:
    """Return the status with the version to serve: what serves stays until another one passes."""
    accepted = versions.newest(each for each in status.versions if gate.passes(each))
    if accepted is None:
        return status
    served = Served(
        version=accepted.version,
        digest=accepted.digest,
        score=gate.score(accepted, view.model.spec.evaluation),
    )
    return status.model_copy(update={"served": served})


def _summarised(situation: Situation, now: datetime) -> LeptonModelStatus:
    generation = situation.view.model.metadata.generation
    conditions = summarise(
        situation.view.model.status.conditions,
        judge(situation),
        latest_accepted(situation),
        generation=generation,
        now=now.replace(microsecond=0),
    )
    return situation.status.model_copy(
        update={"observed_generation": generation, "conditions": conditions}
    )


def _news(before: LeptonModelStatus, after: LeptonModelStatus) -> str:
    told = [f"{each.reason}: {each.message}" for each in events(before, after)]
    if after.unlisted and not before.unlisted:
        told.append("that the store has a further version, to be listed after this step")
    return "; ".join(told) or "that the store was listed"
