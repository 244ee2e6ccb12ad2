"""In any order of events, with the operator killed anywhere, an InferenceService keeps serving."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from lepton_operator import names
from lepton_operator.api.inference import InferenceService
from lepton_operator.api.model import LeptonModel
from lepton_operator.build import serving
from lepton_operator.conditions import READY, find, is_true
from lepton_operator.inference.draining import draining_since
from lepton_operator.inference.fleet import serves
from lepton_operator.inference.plan import plan
from lepton_operator.inference.revisions import revision_of
from lepton_operator.plan import Create, Delete, Patch, Plan
from lepton_operator.settings import Images
from lepton_operator.views import (
    ContainerView,
    DoorTold,
    Fault,
    InferenceView,
    ObjectView,
    PodView,
    ServicePort,
    ServiceView,
)
from tests.builders import a_model, a_node
from tests.unit.inference.builders import a_door, a_served_model, a_service, crashed
from tests.world import Key, Killed, World, is_empty

NODES = ("node-1", "node-2")
DOORS = ("lepton-door-0", "lepton-door-1")
# What a Service was before there were doors.
OF_OLD = {
    "selector": serving.selector(a_service()),
    "ports": tuple(ServicePort(name, port, name) for name, port in serving.SERVICE_PORTS),
}
BROKEN_VERSION = 3
DRAIN_TIMEOUT_SECONDS = 300
MOST_PASSES = 300


@dataclass
class ServingWorld(World):
    """A world that has Services and budgets too, nodes that can be full, and doors.

    It knows which version each pod fetches, and how many requests each pod has.
    """

    services: dict[str, ServiceView] = field(default_factory=dict)
    budgets: dict[str, ObjectView] = field(default_factory=dict)
    versions: dict[str, int] = field(default_factory=dict)  # by the pod's UID
    room: dict[str, int] = field(default_factory=dict)  # GPUs of each node
    in_flight: dict[str, int] = field(default_factory=dict)  # by the pod's UID
    silent: set[str] = field(default_factory=set)  # doors that do not answer
    failing: set[str] = field(default_factory=set)  # UIDs of pods that fail their requests

    def _create_pod(self, manifest: Mapping[str, Any]) -> None:
        super()._create_pod(manifest)
        uid = self.pods[manifest["metadata"]["name"]].uid
        command = manifest["spec"]["initContainers"][0]["command"]
        self.versions.setdefault(uid, int(command[command.index("--version") + 1]))

    def _create(self, create: Create) -> None:
        kind = create.manifest["kind"]
        if kind not in ("Service", "PodDisruptionBudget"):
            super()._create(create)
            return
        metadata, spec = create.manifest["metadata"], create.manifest["spec"]
        if kind == "PodDisruptionBudget":
            self.budgets.setdefault(metadata["name"], a_budget_of(metadata, spec))
            return
        self.services.setdefault(
            metadata["name"],
            ServiceView(
                name=metadata["name"],
                namespace=metadata["namespace"],
                uid="uid-of-service",
                owner_uid=metadata["ownerReferences"][0]["uid"],
                created=self.now,
                selector=spec["selector"],
                ports=_ports(spec),
            ),
        )

    def _patch(self, patch: Patch) -> None:
        kind, name = patch.target.kind, patch.target.name
        if kind == "Pod":
            super()._patch(patch)
        elif kind == "PodDisruptionBudget":
            self.budgets[name] = replace(
                self.budgets[name], spec={**self.budgets[name].spec, **patch.body["spec"]}
            )
        else:
            self._patch_service(patch)

    def _patch_service(self, patch: Patch) -> None:
        found, spec = self.services[patch.target.name], patch.body.get("spec")
        marks = patch.body.get("metadata", {}).get("annotations", {})
        if names.DOOR_PORT in marks:
            port = marks[names.DOOR_PORT]
            found = replace(found, announced_port=int(port) if port else None)
            self.services[found.name] = found
        if spec is None:
            return
        selector = {**found.selector, **spec["selector"]}
        self.services[found.name] = replace(
            found,
            selector={key: value for key, value in selector.items() if value is not None},
            ports=_ports(spec),
        )

    def _delete(self, delete: Delete) -> None:
        super()._delete(delete)
        pod = self.pods.get(delete.target.name)
        if pod is not None and pod.deleting:
            # The endpoints controller takes a Terminating pod out of the Service.
            self._change(pod, ready=False, ready_since=None)

    def schedule(self, name: str, node: str) -> None:
        """Place the pod there, or on any node with room; or say that there is none."""
        pod = self.pods[name]
        places = [each for each in (node, *NODES) if self.has_room(each)]
        if pod.node is not None:
            return
        if not places:
            self._change(pod, unschedulable_message="0/2 nodes: Insufficient nvidia.com/gpu.")
            return
        self._change(pod, unschedulable_message="")
        super().schedule(name, places[0])
        self._change(self.pods[name], ip=f"10.0.0.{pod.uid}")

    def has_room(self, node: str) -> bool:
        there = [pod for pod in self.pods.values() if pod.node == node and not pod.finished]
        ready = self.nodes[node].ready and self.nodes[node].schedulable
        return ready and len(there) < self.room[node]

    def doors(self) -> tuple[PodView, ...]:
        return tuple(a_door(number) for number in range(len(DOORS)))

    def traffic(self) -> dict[str, DoorTold]:
        """What the doors that answer tell of the pods that they know to drain."""
        draining = [pod for pod in self.pods.values() if names.DRAINING in pod.annotations]
        told = {pod.ip or "": self.in_flight.get(pod.uid, 0) for pod in draining}
        nothing = dict.fromkeys(told, 0)
        return {
            door.uid: DoorTold(self.now, told if number == 0 else nothing)
            for number, door in enumerate(self.doors())
            if door.name not in self.silent
        }

    def listening(self) -> dict[str, frozenset[int]]:
        """Where the doors that answer listen: at the port of the Service, if it has one."""
        ports = {found.door_port for found in self.services.values()}
        told = frozenset(port for port in ports if port is not None)
        return {door.uid: told for door in self.doors() if door.name not in self.silent}

    def as_told(self, pod: PodView) -> PodView:
        """Return the pod with what the doors say of it: nothing once it drains."""
        gets_requests = pod.ready and names.DRAINING not in pod.annotations
        fails = gets_requests and pod.uid in self.failing
        return replace(pod, fault=Fault(pod.created, "erred")) if fails else pod

    def become_ready(self, name: str) -> None:
        pod = self.pods[name]
        running = ContainerView(serving.TRITON, "running", ready=True)
        if self._has_kubelet(pod) and pod.phase == "Running" and not pod.ready:
            since = self.now.replace(microsecond=0)
            self._change(pod, ready=True, ready_since=since, containers=(running,))

    def begin(self, name: str) -> None:
        pod = self.pods[name]
        running = ContainerView(serving.TRITON, "running")
        if self._has_kubelet(pod) and pod.phase == "Pending":
            self._change(pod, phase="Running", containers=(running,))

    def crash(self, name: str) -> None:
        pod = self.pods[name]
        if self._has_kubelet(pod) and pod.phase == "Running":
            said = "failed to load 'digits' version 3: broken"
            ended = crashed(serving.TRITON, said, at=self.now.replace(microsecond=0))
            self._change(pod, ready=False, ready_since=None, containers=(ended,))

    def fail(self, name: str) -> None:
        pod = self.pods[name]
        if not pod.finished:
            self._change(pod, phase="Failed", reason="Evicted", ready=False, ready_since=None)


def _ports(spec: Mapping[str, Any]) -> tuple[ServicePort, ...]:
    return tuple(
        ServicePort(each["name"], each["port"], each["targetPort"]) for each in spec["ports"]
    )


class InferenceWorld(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.world = ServingWorld(before_delete=self.must_be_recorded)
        self.world.nodes = {name: a_node(name) for name in NODES}
        self.world.room = dict.fromkeys(NODES, 9)
        self.key: Key = ("InferenceService", "digits")
        self.model: LeptonModel | None = a_served_model(1)

    @property
    def service(self) -> InferenceService:
        found = self.world.objects[self.key]
        assert isinstance(found, InferenceService)
        return found

    def planner(self, world: World, _: Key) -> Plan:
        view = InferenceView(
            service=self.service,
            defaults=world.defaults,
            pods=tuple(map(self.world.as_told, world.seen_pods(self.service.metadata.uid))),
            kubernetes_service=self.world.services.get("digits"),
            budget=self.world.budgets.get("digits-serve"),
            model=self.model,
            nodes=tuple(world.nodes.values()),
            doors=self.world.doors(),
            traffic=self.world.traffic(),
            listening=self.world.listening(),
        )
        found = plan(view, world.now)
        self.must_leave_enough(view, found)
        return found

    def live(self) -> list[str]:
        return sorted(self.world.pods)

    def one(self, data: st.DataObject) -> str:
        return data.draw(st.sampled_from(self.live()))

    @initialize(replicas=st.integers(0, 3), passes=st.sampled_from([0, 10, 10]))
    def apply(self, replicas: int, passes: int) -> None:
        self.world.add(a_service(replicas))
        self.go_on(passes, 3)

    # The operator

    @rule(
        passes=st.integers(1, 5),
        informed=st.booleans(),
        seconds=st.sampled_from([0, 0.3, 1, 4, 31]),
        writes=st.sampled_from([None, None, None, 0, 1, 2]),
    )
    def reconcile(self, passes: int, informed: bool, seconds: float, writes: int | None) -> None:  # noqa: FBT001
        for _ in range(passes):
            self.world.pass_time(seconds)
            if informed:
                self.world.tell_all()
            try:
                self.world.reconcile(self.key, self.planner, writes=writes)
            except Killed:
                self.world.restart_operator()

    @rule(passes=st.integers(3, 20), seconds=st.sampled_from([0.1, 3, 40, 130]))
    def go_on(self, passes: int, seconds: float) -> None:
        """Everybody does their work for a while."""
        for _ in range(passes):
            self.world.pass_time(seconds)
            self.world.finish_deletions()
            for name in self.live():
                self.settle(name)
            self.world.tell_all()
            self.world.reconcile(self.key, self.planner)

    @rule()
    def chart_upgrade(self) -> None:
        tag = f"triton:{self.world.made + 2}"
        images = Images(agent="agent:2", trainer="trainer:2", triton=tag, door="door:2")
        self.world.defaults = self.world.defaults.model_copy(update={"images": images})

    @precondition(lambda self: self.live())
    @rule(data=st.data())
    def tell_one(self, data: st.DataObject) -> None:
        self.world.tell(self.world.pods[self.one(data)])

    # The cluster

    @rule(node=st.sampled_from(NODES))
    def make_all_ready(self, node: str) -> None:
        for name in self.live():
            self.start(name, node)

    @precondition(lambda self: self.live())
    @rule(data=st.data(), node=st.sampled_from(NODES))
    def make_one_ready(self, data: st.DataObject, node: str) -> None:
        self.start(self.one(data), node)

    def start(self, name: str, node: str) -> None:
        pod = self.world.pods[name]
        if pod.deleting:
            return
        self.world.schedule(name, node)
        self.world.begin(name)
        if self.version_of(pod) == BROKEN_VERSION:
            self.world.crash(name)
        else:
            self.world.become_ready(name)

    def version_of(self, pod: PodView) -> int:
        return self.world.versions[pod.uid]

    @precondition(lambda self: self.live())
    @rule(data=st.data())
    def hurt(self, data: st.DataObject) -> None:
        act = data.draw(st.sampled_from(["vanish", "ask_to_delete", "crash", "fail"]))
        getattr(self.world, act)(self.one(data))

    @rule()
    def finish_deletions(self) -> None:
        self.world.finish_deletions()

    @rule(node=st.sampled_from(NODES))
    def silence_or_revive(self, node: str) -> None:
        act = self.world.silence if self.world.nodes[node].ready else self.world.revive
        act(node)

    @rule(node=st.sampled_from(NODES))
    def cordon_or_not(self, node: str) -> None:
        self.world.cordon(node, schedulable=not self.world.nodes[node].schedulable)

    @rule(node=st.sampled_from(NODES), gpus=st.integers(0, 4))
    def fill_or_free(self, node: str, gpus: int) -> None:
        self.world.room[node] = gpus

    # Requests

    @precondition(lambda self: self.live())
    @rule(data=st.data(), requests=st.integers(1, 3))
    def ask(self, data: st.DataObject, requests: int) -> None:
        """Requests come in, which last; a door sends none to a pod that drains."""
        pod = self.world.pods[self.one(data)]
        if pod.ready and not pod.deleting and names.DRAINING not in pod.annotations:
            self.world.in_flight[pod.uid] = requests

    @precondition(lambda self: self.live())
    @rule(data=st.data())
    def fail_requests_or_not(self, data: st.DataObject) -> None:
        self.world.failing ^= {self.world.pods[self.one(data)].uid}

    @rule()
    def answer_all(self) -> None:
        self.world.in_flight.clear()

    @rule(door=st.sampled_from(DOORS))
    def silence_door_or_not(self, door: str) -> None:
        self.world.silent ^= {door}

    # People

    @rule(replicas=st.integers(0, 4))
    def scale(self, replicas: int) -> None:
        self.world.change_spec(self.key, replicas=replicas)

    @rule(version=st.sampled_from([1, 2, BROKEN_VERSION]))
    def accept(self, version: int) -> None:
        self.model = a_served_model(version)

    @rule(model=st.sampled_from([None, a_model()]))
    def lose_model(self, model: LeptonModel | None) -> None:
        self.model = model

    @rule(strategy=st.sampled_from(["Auto", "Surge", "Replace"]))
    def choose_strategy(self, strategy: str) -> None:
        self.world.change_spec(self.key, rollout={"strategy": strategy})

    @rule(zone=st.sampled_from(["a", "b"]))
    def change_pods(self, zone: str) -> None:
        self.world.change_spec(self.key, nodeSelector={"zone": zone})

    @rule(change=st.sampled_from([{"selector": {"app": "x"}}, {"ports": ()}, OF_OLD]))
    def edit_service(self, change: Mapping[str, Any]) -> None:
        found = self.world.services.get("digits")
        if found is not None:
            self.world.services["digits"] = replace(found, **change)

    @rule()
    def wipe_status(self) -> None:
        body = self.service.wire() | {"status": {}}
        self.world.objects[self.key] = InferenceService.model_validate(body)

    # What must hold

    def must_leave_enough(self, view: InferenceView, found: Plan) -> None:
        """A plan takes requests from no pod that serves unless enough others do, or it said so."""
        marked = {each.target.uid for each in found.patch if _is_mark(each)}
        ready_pods = [
            pod
            for pod in view.pods
            if pod.ready
            and not (pod.deleting or pod.gone or pod.finished)
            and names.DRAINING not in pod.annotations
        ]
        deleted = {each.target.uid for each in found.delete}
        assert not deleted & {pod.uid for pod in ready_pods}, "a pod goes that nobody marked"
        serving_pods = {pod.uid for pod in ready_pods if serves(pod, self.world.now)}
        gone = marked & serving_pods
        left = len(serving_pods) - len(gone)
        if not gone or left >= view.service.spec.replicas:
            return
        rollout = view.service.status.rollout
        assert rollout is not None, found.because
        assert rollout.phase == "Replacing", found.because
        assert len(gone) == 1, found.because
        assert left or rollout.gap_seconds, f"nothing serves, and nobody said so: {rollout}"

    def must_have_drained(self, pod: PodView) -> None:
        """What is deleted while it has requests had its time."""
        since = draining_since(pod)
        if since is None or not self.world.in_flight.get(pod.uid):
            return
        assert (self.world.now - since).total_seconds() >= DRAIN_TIMEOUT_SECONDS

    def must_be_recorded(self, pod: PodView) -> None:
        self.must_have_drained(pod)
        seen = self.world.seen.get(pod.uid)
        if seen is not None and seen.phase == "Failed":
            recorded = self.service.status.last_failure
            assert recorded is not None, f"{pod.name} is deleted, and no status says why"

    @invariant()
    def a_revision_has_one_set_of_defaults(self) -> None:
        hashes: dict[str, set[str]] = {}
        for pod in self.world.pods.values():
            revision = hashes.setdefault(pod.labels[names.REVISION], set())
            revision.add(pod.labels[names.RESOLVED_HASH])
        assert all(len(each) == 1 for each in hashes.values())

    def teardown(self) -> None:
        if self.key not in self.world.objects:
            return
        if self.model is None or self.model.status.served is None:
            self.model = a_served_model(1)
        replicas = self.service.spec.replicas
        for node in NODES:
            self.world.revive(node)
            self.world.cordon(node, schedulable=True)
            # As much room as the service needs, and none for one more pod.
            self.world.room[node] = replicas if node == NODES[0] else 0
        if self.service.spec.rollout is not None and self.service.spec.rollout.strategy == "Surge":
            self.world.room[NODES[1]] = 1
        self.world.in_flight.clear()
        self.world.silent.clear()
        self.mend_what_is_to_serve()
        self.come_to_rest()
        self.must_rest_for_a_reason()

    def mend_what_is_to_serve(self) -> None:
        """Pods of other versions may go on failing: that keeps no rollout from its end."""
        served = self.model.status.served if self.model is not None else None
        assert served is not None
        self.world.failing -= {
            uid
            for uid, version in self.world.versions.items()
            if served.version in (version, BROKEN_VERSION)
        }

    def come_to_rest(self) -> None:
        """Let pods become ready from now on: the plans must run out of work."""
        for _ in range(MOST_PASSES):
            self.world.finish_deletions()
            for name in self.live():
                self.settle(name)
            self.world.tell_all()
            done = self.world.reconcile(self.key, self.planner)
            if not is_empty(done):
                continue
            again = self.planner(self.world, self.key)
            assert is_empty(again)
            if again.due is None:
                return
            self.world.now = max(again.due, self.world.now + timedelta(milliseconds=1))
        pytest.fail(f"no rest after {MOST_PASSES} passes: {done.because}")

    def settle(self, name: str) -> None:
        """A kubelet does what it can, once."""
        pod = self.world.pods[name]
        container = pod.container(serving.TRITON)
        is_crashed = container is not None and container.state == "waiting"
        if not pod.ready and not (is_crashed and self.version_of(pod) == BROKEN_VERSION):
            self.start(name, NODES[0])

    def must_rest_for_a_reason(self) -> None:
        status, replicas = self.service.status, self.service.spec.replicas
        assert status.observed_generation == self.service.metadata.generation
        assert self.model is not None
        assert self.model.status.served is not None
        pods = list(self.world.pods.values())
        version = self.model.status.served.version
        if version == BROKEN_VERSION and replicas:
            self.must_say_what_failed(pods)
            return
        assert len(pods) == replicas
        assert all(pod.ready and self.version_of(pod) == version for pod in pods)
        assert is_true(status.conditions, READY)
        assert not status.waiting
        assert status.version == (version if replicas else None)
        found = self.world.services["digits"]
        assert status.rollout is None
        assert self.world.budgets["digits-serve"].spec["maxUnavailable"] == 0
        assert found.selector == names.door_labels()
        assert found.door_port is not None

    def must_say_what_failed(self, pods: list[PodView]) -> None:
        """The version before goes on being served, if anybody knows how to make its pods."""
        status = self.service.status
        ready = find(status.conditions, READY)
        assert ready is not None
        assert ready.status == "False"
        if status.rollout is None or status.rollout.failed is None:
            assert "ModelLoadFailed" in {each.reason for each in status.waiting}
            return
        assert ready.reason == "ModelLoadFailed"
        assert status.rollout.phase == "RolledBack"
        assert status.rollout.failed.version == BROKEN_VERSION
        assert len(pods) == self.service.spec.replicas
        assert all(pod.ready for pod in pods)
        assert {revision_of(pod) for pod in pods} == {status.rollout.to}


def _is_mark(patch: Patch) -> bool:
    marks = patch.body.get("metadata", {}).get("annotations", {})
    return bool(marks.get(names.DRAINING))


def a_budget_of(metadata: Mapping[str, Any], spec: Mapping[str, Any]) -> ObjectView:
    owner = metadata["ownerReferences"][0]["uid"]
    return ObjectView(
        kind="PodDisruptionBudget",
        name=metadata["name"],
        namespace=metadata["namespace"],
        uid="uid-of-budget",
        owner_uid=owner,
        spec=spec,
    )


TestInferenceWorld = InferenceWorld.TestCase
TestInferenceWorld.settings = settings(
    max_examples=100,
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
