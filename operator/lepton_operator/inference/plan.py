"""plan(view, now): what an InferenceService needs done, decided purely.

A pass that sees a failure it has not recorded writes the status and nothing else; what it deletes
comes in a later pass, whose view holds that record.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from lepton_operator import names
from lepton_operator.api.inference import InferenceServiceStatus, Replicas
from lepton_operator.build import serving
from lepton_operator.conditions import summarise
from lepton_operator.diagnosis import Asked, PodReason, gpus_asked
from lepton_operator.inference.events import events
from lepton_operator.inference.fleet import Fleet, fleet
from lepton_operator.inference.revisions import Wanted, listed, wanted
from lepton_operator.inference.rollout import Doomed, Moves, moves
from lepton_operator.inference.target import Blocked, target
from lepton_operator.inference.verdict import Situation, judge
from lepton_operator.inference.waiting import last_failure, trouble, waiting
from lepton_operator.plan import Create, Delete, Patch, Plan, Reference
from lepton_operator.views import InferenceView


def plan(view: InferenceView, now: datetime) -> Plan:
    """Return what to do for this service now."""
    if view.service.metadata.deletion_timestamp is not None:
        return Plan()
    decision = _decide(view, now)
    before = view.service.status
    after = _status(decision, now)
    if before.last_failure != after.last_failure and after.last_failure is not None:
        return Plan(
            because=f"record that pod {after.last_failure.pod} failed: {after.last_failure.reason}",
            status=after.wire(),
            events=events(before, after),
        )
    return _acting(decision, after)


@dataclass(frozen=True, slots=True)
class _Decision:
    view: InferenceView
    situation: Situation
    moves: Moves
    asked: Asked

    @property
    def fleet(self) -> Fleet:
        return self.situation.fleet


def _decide(view: InferenceView, now: datetime) -> _Decision:
    chosen = target(view)
    blocked = chosen if isinstance(chosen, Blocked) else None
    goal = chosen.fallback if isinstance(chosen, Blocked) else chosen
    revision = wanted(view, goal) if goal is not None else None
    if isinstance(revision, Blocked):
        blocked, revision = blocked or revision, None
    pods = fleet(view, revision.name if revision else None, now)
    asked = _asked(view, revision)
    found = trouble(pods, asked)
    starved = found is not None and found.reason == PodReason.NO_CAPACITY
    todo = moves(pods, view.service.spec.replicas, now, starved=starved)
    situation = Situation(view, revision, blocked, pods, listed(view, revision), found)
    return _Decision(view, situation, todo, asked)


def _asked(view: InferenceView, revision: Wanted | None) -> Asked:
    gpu = view.defaults.gpu_resource
    if revision is not None:
        return Asked(gpus_asked(revision.resolved.resources, gpu), gpu, view.nodes)
    resources = view.service.spec.resources or view.defaults.inference_resources
    return Asked(gpus_asked(resources, gpu), gpu, view.nodes)


def _status(decision: _Decision, now: datetime) -> InferenceServiceStatus:
    view, situation, pods = decision.view, decision.situation, decision.fleet
    metadata, before = view.service.metadata, view.service.status
    conditions = summarise(
        before.conditions,
        judge(situation),
        (),
        generation=metadata.generation,
        now=now.replace(microsecond=0),
    )
    return InferenceServiceStatus(
        observed_generation=metadata.generation,
        conditions=conditions,
        url=f"http://{metadata.name}.{metadata.namespace}.svc:{serving.HTTP_PORT}",
        selector=names.selector(serving.selector(view.service)),
        version=situation.served_version,
        replicas=Replicas(
            current=len(pods.alive) + len(pods.lost),
            ready=len(pods.ready),
            updated=situation.updated,
        ),
        waiting=waiting(pods, view.refusals, decision.asked),
        revisions=situation.revisions,
        last_failure=last_failure(pods, before.last_failure, decision.asked),
    )


def _acting(decision: _Decision, after: InferenceServiceStatus) -> Plan:
    before = decision.view.service.status
    doomed = [*_ended(decision), *decision.moves.delete]
    pods = list(_missing_pods(decision))
    services = list(_missing_service(decision.view))
    patches = list(_mended_service(decision.view))
    changed = after.wire() != before.wire()
    because = [
        *(f"delete {each.pod.name}: {each.because}" for each in doomed),
        *(f"create {each['metadata']['name']}: {_why_create(decision)}" for each in pods),
        *(f"create Service {each['metadata']['name']}" for each in services),
        *("mend the Service that was changed by hand" for _ in patches),
    ]
    if changed and not because:
        because = [f"say {after.conditions[0].reason}"]
    return Plan(
        because="; ".join(because),
        delete=tuple(Delete(each.pod.reference) for each in doomed),
        create=tuple(Create(each) for each in (*pods, *services)),
        patch=tuple(patches),
        status=after.wire() if changed else None,
        events=events(before, after) if changed else (),
        due=min((at for at in (decision.moves.due, decision.fleet.due) if at), default=None),
        # A pod that serves goes because others are believed to.
        relist=any(each.pod.ready for each in decision.moves.delete),
    )


def _ended(decision: _Decision) -> list[Doomed]:
    """Return finished pods: the kubelet starts them no more, and their failure is recorded."""
    return [Doomed(pod, "it has failed for good") for pod in decision.fleet.ended]


def _missing_pods(decision: _Decision) -> Iterator[dict[str, Any]]:
    view, revision = decision.view, decision.situation.wanted
    if revision is None:
        return
    name = view.service.metadata.name
    taken = {pod.name for pod in view.pods if not pod.gone}
    taken |= {each.name for each in view.refusals if each.reason == "NameTaken"}
    for index in names.free_indexes(name, taken, decision.moves.create):
        yield serving.serving_pod(
            view.service, index, revision.name, revision.target, revision.resolved
        )


def _why_create(decision: _Decision) -> str:
    revision = decision.situation.wanted
    version = revision.target.version if revision else None
    there, replicas = len(decision.fleet.current), decision.situation.replicas
    return f"{there} of {replicas} pods serve version {version} or are about to"


def _missing_service(view: InferenceView) -> Iterator[dict[str, Any]]:
    if view.kubernetes_service is None:
        yield serving.kubernetes_service(view.service)


def _mended_service(view: InferenceView) -> Iterator[Patch]:
    """Yield a patch if somebody changed the selector or the ports of our Service."""
    found = view.kubernetes_service
    if found is None:
        return
    selector = serving.selector(view.service)
    if found.selector == selector and found.ports == serving.SERVICE_PORTS:
        return
    strangers: dict[str, str | None] = dict.fromkeys(set(found.selector) - set(selector))
    target = Reference("Service", found.namespace, found.name, found.uid)
    spec = {"selector": {**strangers, **selector}, "ports": serving.service_ports()}
    yield Patch(target, {"spec": spec})
