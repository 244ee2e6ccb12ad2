"""plan(view, now): what an InferenceService needs done, decided purely.

A pass that sees a failure it has not recorded writes the status and nothing else; what it deletes
comes in a later pass, whose view holds that record. So does a pass that gives a revision up. A pod
that may have requests is only marked first, and deleted when it has finished them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from lepton_operator import names
from lepton_operator.api.inference import InferenceServiceStatus, Replicas
from lepton_operator.build import disruption, serving
from lepton_operator.conditions import summarise
from lepton_operator.diagnosis import Asked, gpus_asked
from lepton_operator.inference.course import Course, course, failure
from lepton_operator.inference.disruption import max_unavailable
from lepton_operator.inference.draining import mark
from lepton_operator.inference.events import cut_short, events
from lepton_operator.inference.fleet import Fleet, emptied_nodes, fleet
from lepton_operator.inference.ports import port
from lepton_operator.inference.progress import DRAINED_GRACE_SECONDS, progress, terms
from lepton_operator.inference.revisions import listed, recorded, revision_of
from lepton_operator.inference.rollout import Doomed, Moves, moves
from lepton_operator.inference.scaling import scaling
from lepton_operator.inference.situation import Situation, drains, shortage
from lepton_operator.inference.target import target
from lepton_operator.inference.verdict import judge
from lepton_operator.inference.waiting import last_failure, trouble, waiting
from lepton_operator.plan import Create, Delete, Patch, Plan, replacing
from lepton_operator.views import InferenceView, PodView, ServicePort, ServiceView


def plan(view: InferenceView, now: datetime) -> Plan:
    """Return what to do for this service now."""
    if view.service.metadata.deletion_timestamp is not None:
        return Plan()
    situation = _situation(view, course(view, target(view)), now)
    given_up = failure(situation.course, situation.fleet, situation.asked)
    if given_up is not None:
        back = recorded(view, situation.course.previous)
        gone_back = Course(back, failed=given_up, blocked=situation.course.blocked)
        after = _status(_situation(view, gone_back, now))
        why = f"give up revision {given_up.name}: {given_up.reason}"
        return _recording(situation, after, why)
    after, before = _status(situation), view.service.status
    if before.last_failure != after.last_failure and after.last_failure is not None:
        why = f"record that pod {after.last_failure.pod} failed: {after.last_failure.reason}"
        return _recording(situation, after, why)
    return _acting(_Decision(situation, _moves(situation)), after)


@dataclass(frozen=True, slots=True)
class _Decision:
    situation: Situation
    moves: Moves

    @property
    def view(self) -> InferenceView:
        return self.situation.view

    @property
    def fleet(self) -> Fleet:
        return self.situation.fleet


def _situation(view: InferenceView, heading: Course, now: datetime) -> Situation:
    revision = heading.wanted
    pods = fleet(view, revision.name if revision else None, now)
    asked = _asked(view, heading)
    kept = [heading.previous] if heading.previous is not None else []
    return Situation(
        view=view,
        now=now,
        course=heading,
        fleet=pods,
        asked=asked,
        revisions=listed(view, revision, kept),
        shortage=shortage(view, pods, asked, now),
        drains=drains(view, pods, now),
        trouble=trouble(pods, asked),
    )


def _asked(view: InferenceView, heading: Course) -> Asked:
    gpu, revision = view.defaults.gpu_resource, heading.wanted
    if revision is not None:
        return Asked(gpus_asked(revision.resolved.resources, gpu), gpu, view.nodes)
    resources = view.service.spec.resources or view.defaults.inference_resources
    return Asked(gpus_asked(resources, gpu), gpu, view.nodes)


def _moves(situation: Situation) -> Moves:
    return moves(
        situation.fleet,
        situation.replicas,
        situation.now,
        terms(situation),
        restorable=_restorable(situation),
    )


def _restorable(situation: Situation) -> list[PodView]:
    """Return the draining pods that could take requests again, if pods are missing."""
    if not situation.fleet.draining:
        return []
    revision = situation.course.wanted
    name = revision.name if revision is not None else None
    emptied = emptied_nodes(situation.view.nodes)
    return [
        pod
        for pod in situation.fleet.draining
        if pod.ready and name in (None, revision_of(pod)) and pod.node not in emptied
    ]


def _status(situation: Situation) -> InferenceServiceStatus:
    view, pods = situation.view, situation.fleet
    metadata, before = view.service.metadata, view.service.status
    under_way = progress(situation)
    autoscaling, scaling_conditions = scaling(view)
    conditions = summarise(
        before.conditions,
        judge(situation, under_way),
        scaling_conditions,
        generation=metadata.generation,
        now=situation.now.replace(microsecond=0),
    )
    return InferenceServiceStatus(
        observed_generation=metadata.generation,
        conditions=conditions,
        url=f"http://{metadata.name}.{metadata.namespace}.svc:{serving.HTTP_PORT}",
        selector=names.selector(serving.selector(view.service)),
        version=situation.served_version,
        replicas=Replicas(
            current=len(pods.alive) + len(pods.draining) + len(pods.lost),
            ready=len(pods.ready),
            updated=situation.updated,
        ),
        waiting=waiting(pods, situation.drains, view.refusals, situation.asked),
        revisions=situation.revisions,
        rollout=under_way,
        last_failure=last_failure(pods, before.last_failure, situation.asked),
        autoscaling=autoscaling,
    )


def _recording(situation: Situation, after: InferenceServiceStatus, because: str) -> Plan:
    before = situation.view.service.status
    return Plan(because=because, status=after.wire(), events=events(before, after))


def _acting(decision: _Decision, after: InferenceServiceStatus) -> Plan:
    before = decision.view.service.status
    finished = list(_finished(decision))
    doomed = [*_ended(decision), *decision.moves.delete]
    pods = list(_missing_pods(decision))
    children = list(_missing_children(decision))
    mended = [*_mended_service(decision), *_mended_budget(decision)]
    wire = after.wire()
    changed = wire != before.wire()
    because = [
        *(f"delete {each.pod.name}: {each.because}" for each in (*finished, *doomed)),
        *(f"drain {each.pod.name}: {each.because}" for each in decision.moves.drain),
        *(f"send {each.name} requests again" for each in decision.moves.restore),
        *(f"create {each['metadata']['name']}: {_why_create(decision)}" for each in pods),
        *(f"create {each['kind']} {each['metadata']['name']}" for each in children),
        *(f"mend the {each.target.kind}" for each in mended),
    ]
    if changed and not because:
        because = [f"say {after.conditions[0].reason}"]
    return Plan(
        because="; ".join(because),
        delete=(
            *(Delete(each.pod.reference, _grace_seconds(decision, each.pod)) for each in finished),
            *(Delete(each.pod.reference) for each in doomed),
        ),
        create=tuple(Create(each) for each in (*pods, *children)),
        patch=(*_marks(decision), *mended),
        status=wire if changed else None,
        events=(
            *(events(before, after) if changed else ()),
            *cut_short(each for each in decision.situation.drains if each.is_cut),
        ),
        due=_due(decision),
        # A pod that serves goes because others are believed to.
        relist=bool(decision.moves.drain or finished),
    )


def _finished(decision: _Decision) -> Iterator[Doomed]:
    """Yield the draining pods whose requests are over, or whose time is."""
    kept = {pod.uid for pod in decision.moves.restore}
    for each in decision.situation.drains:
        if each.is_over and each.pod.uid not in kept:
            why = "its time to drain is over" if each.is_cut else "it has no requests left"
            yield Doomed(each.pod, why)


def _grace_seconds(decision: _Decision, pod: PodView) -> int | None:
    """Return a short grace period for a pod of which every door said that it has no requests.

    Its own is for requests that nobody knows of, and its GPU is somebody's until it has gone.
    """
    cut = {each.pod.uid for each in decision.situation.drains if each.is_cut}
    is_known = bool(decision.view.doors) and not decision.situation.is_past_doors
    return DRAINED_GRACE_SECONDS if is_known and pod.uid not in cut else None


def _marks(decision: _Decision) -> Iterator[Patch]:
    unreadable = [each.pod for each in decision.situation.drains if not each.is_marked]
    for pod in (*(each.pod for each in decision.moves.drain), *unreadable):
        yield _marked(pod, mark(decision.situation.now))
    for pod in decision.moves.restore:
        yield _marked(pod, None)


def _marked(pod: PodView, value: str | None) -> Patch:
    return Patch(pod.reference, {"metadata": {"annotations": {names.DRAINING: value}}})


def _due(decision: _Decision) -> datetime | None:
    situation = decision.situation
    times = [
        decision.moves.due,
        decision.fleet.due,
        *(each.due for each in situation.drains if not each.is_over),
        *(at for at in (situation.surge_deadline,) if at is not None and at > situation.now),
    ]
    return min((at for at in times if at is not None), default=None)


def _ended(decision: _Decision) -> list[Doomed]:
    """Return finished pods: the kubelet starts them no more, and their failure is recorded."""
    return [Doomed(pod, "it has failed for good") for pod in decision.fleet.ended]


def _missing_pods(decision: _Decision) -> Iterator[dict[str, Any]]:
    view, revision = decision.view, decision.situation.course.wanted
    if revision is None:
        return
    name = view.service.metadata.name
    taken = {pod.name for pod in view.pods if not pod.gone}
    taken |= {each.name for each in view.refusals if each.reason == "NameTaken"}
    for index in names.free_indexes(name, taken, decision.moves.create):
        yield serving.serving_pod(
            revision.service, index, revision.name, revision.target, revision.resolved
        )


def _why_create(decision: _Decision) -> str:
    revision = decision.situation.course.wanted
    version = revision.target.version if revision else None
    there, replicas = len(decision.fleet.current), decision.situation.replicas
    return f"{there} of {replicas} pods serve version {version} or are about to"


def _missing_children(decision: _Decision) -> Iterator[dict[str, Any]]:
    view = decision.view
    if view.kubernetes_service is None:
        yield serving.kubernetes_service(view.service, port(view))
    if view.budget is None:
        yield disruption.budget(view.service, max_unavailable(decision.situation))


def _mended_service(decision: _Decision) -> Iterator[Patch]:
    """Yield a patch if our Service does not lead to the door, or to a port that is another's.

    One from before there were doors is given its port first, and led there once the doors listen.
    """
    found, target = decision.view.kubernetes_service, port(decision.view)
    if found is None:
        return
    situation = decision.situation
    if situation.is_past_doors and found.announced_port != target:
        yield Patch(found.reference, _announcement(str(target)))
    elif not situation.is_past_doors or situation.is_listened_on(target):
        yield from _led_to_door(found, target)


def _led_to_door(found: ServiceView, target: int) -> Iterator[Patch]:
    selector = names.door_labels()
    ports = tuple(ServicePort(name, each, target) for name, each in serving.SERVICE_PORTS)
    if found.selector == selector and found.ports == ports:
        return
    strangers: dict[str, str | None] = dict.fromkeys(set(found.selector) - set(selector))
    spec = {"selector": {**strangers, **selector}, "ports": serving.service_ports(target)}
    told = _announcement(None) if found.announced_port is not None else {}
    yield Patch(found.reference, {**told, "spec": spec})


def _announcement(port: str | None) -> dict[str, Any]:
    return {"metadata": {"annotations": {names.DOOR_PORT: port}}}


def _mended_budget(decision: _Decision) -> Iterator[Patch]:
    """Yield a patch if the budget is to allow something else, or somebody changed it."""
    found = decision.view.budget
    if found is None:
        return
    wanted = disruption.spec(decision.view.service, max_unavailable(decision.situation))
    if found.spec != wanted:
        yield Patch(found.reference, {"spec": replacing(found.spec, wanted)})
