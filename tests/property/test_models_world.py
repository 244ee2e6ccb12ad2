"""In any order of events, with the operator killed anywhere, a LeptonModel tells what is there."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from lepton_operator.api.model import KEPT_VERSIONS, LeptonModel
from lepton_operator.api.training import TrainingJob
from lepton_operator.build.steps import CONTAINER, Step, read
from lepton_operator.conditions import READY, RECONCILING, STALLED, is_true
from lepton_operator.models import gate
from lepton_operator.models.plan import plan
from lepton_operator.plan import Plan
from lepton_operator.views import ModelView, PodView, VersionUse
from tests.builders import a_model, a_node, a_record
from tests.unit.models.builders import (
    a_finished_job,
    a_told_version,
    an_evaluation,
    digest,
    pinned,
)
from tests.world import Key, Killed, World, is_empty

NODE = "node-1"
MOST_PASSES = 300
SOURCES = ("sha256:" + "1" * 64, "sha256:" + "2" * 64)
THRESHOLDS = (None, "0.50", "0.90", "0.99")
DATASETS = ("heldout", "mnist")
FAILURES = ("NoStore", "StoreUnavailable", "DigestMismatch", "NoData")


@dataclass
class Store:
    """What the agent's steps find and leave: versions, sources, evaluations."""

    accuracies: dict[int, float] = field(default_factory=dict)
    sources: dict[str, int] = field(default_factory=dict)
    evaluations: dict[tuple[int, str], dict[str, Any]] = field(default_factory=dict)

    def add(self, accuracy: float) -> int:
        number = len(self.accuracies) + 1
        self.accuracies[number] = accuracy
        return number

    def answer(self, step: Step, known: frozenset[int]) -> str:
        """Return what the agent leaves when this step succeeds."""
        if step.kind == "import":
            return a_record(versions=[self._told(self._imported(step), None)])
        if step.kind == "evaluate":
            return a_record(evaluation=self._evaluated(step))
        others = sorted(set(self.accuracies) - known, reverse=True)
        told = [self._told(number, step.dataset) for number in others[:5]]
        return a_record(versions=told, more=len(others) > 5)

    def _imported(self, step: Step) -> int:
        source = str(step.digest)
        if source not in self.sources:
            self.sources[source] = self.add(0.95)
        return self.sources[source]

    def _evaluated(self, step: Step) -> dict[str, Any]:
        number, dataset = int(step.version or 0), str(step.dataset)
        found = an_evaluation(self.accuracies[number], dataset)
        return self.evaluations.setdefault((number, dataset), found)

    def _told(self, number: int, dataset: str | None) -> Mapping[str, Any]:
        found = self.evaluations.get((number, dataset or ""))
        return a_told_version(number, **({"evaluation": found} if found else {}))


@dataclass
class StepWorld(World):
    """A world that remembers with which command each pod was made."""

    commands: dict[str, list[str]] = field(default_factory=dict)

    def _create_pod(self, manifest: Mapping[str, Any]) -> None:
        super()._create_pod(manifest)
        uid = self.pods[manifest["metadata"]["name"]].uid
        self.commands.setdefault(uid, manifest["spec"]["containers"][0]["command"])


class ModelWorld(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.world = StepWorld(before_delete=self.must_be_recorded)
        self.world.nodes = {NODE: a_node(NODE)}
        self.key: Key = ("LeptonModel", "digits")
        self.store = Store()
        self.jobs: list[TrainingJob] = []
        self.uses: frozenset[VersionUse] = frozenset()

    @property
    def model(self) -> LeptonModel:
        found = self.world.objects[self.key]
        assert isinstance(found, LeptonModel)
        return found

    def planner(self, world: World, _: Key) -> Plan:
        view = ModelView(
            model=self.model,
            defaults=world.defaults,
            pods=world.seen_pods(self.model.metadata.uid),
            jobs=tuple(self.jobs),
            uses=self.uses,
            nodes=tuple(world.nodes.values()),
        )
        return plan(view, world.now)

    def live(self) -> list[str]:
        return sorted(self.world.pods)

    def one(self, data: st.DataObject) -> str:
        return data.draw(st.sampled_from(self.live()))

    @initialize(has_source=st.booleans(), versions=st.integers(0, 12))
    def apply(self, has_source: bool, versions: int) -> None:  # noqa: FBT001
        spec: dict[str, Any] = {"source": self.a_source(0)} if has_source else {}
        self.world.add(a_model(**spec))
        for _ in range(versions):
            self.store.add(0.95)

    def a_source(self, which: int) -> dict[str, str]:
        return {"uri": "s3://models/digits.onnx", "digest": SOURCES[which]}

    # The operator

    @rule(
        passes=st.integers(1, 5),
        informed=st.booleans(),
        seconds=st.sampled_from([0, 0.3, 1, 6, 400]),
        writes=st.sampled_from([None, None, None, 0, 1]),
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

    @precondition(lambda self: self.live())
    @rule(data=st.data())
    def tell_one(self, data: st.DataObject) -> None:
        self.world.tell(self.world.pods[self.one(data)])

    # The cluster

    @precondition(lambda self: self.live())
    @rule(data=st.data())
    def succeed(self, data: st.DataObject) -> None:
        self.run(self.one(data))

    @precondition(lambda self: self.live())
    @rule(
        data=st.data(),
        said=st.sampled_from([*(a_record("Failed", reason=each) for each in FAILURES), "", "{"]),
    )
    def fail(self, data: st.DataObject, said: str) -> None:
        name = self.one(data)
        self.world.schedule(name, NODE)
        self.world.start(name, CONTAINER)
        self.world.end(name, 2, said)

    @precondition(lambda self: self.live())
    @rule(data=st.data())
    def lose(self, data: st.DataObject) -> None:
        act = data.draw(
            st.sampled_from([self.world.vanish, self.world.evict, self.world.ask_to_delete])
        )
        act(self.one(data))

    @rule()
    def finish_deletions(self) -> None:
        self.world.finish_deletions()

    def run(self, name: str) -> None:
        pod = self.world.pods[name]
        step = read(pod.annotations)
        assert step is not None
        self.world.schedule(name, NODE)
        self.world.start(name, CONTAINER)
        self.world.end(name, 0, self.store.answer(step, self.known(pod)))

    def known(self, pod: PodView) -> frozenset[int]:
        """Return the versions that an index need not tell, by the command that it was made with."""
        command = self.world.commands[pod.uid]
        if "--known" not in command:
            return frozenset()
        listed = command[command.index("--known") + 1]
        return frozenset(int(each) for each in listed.split(","))

    # People

    @rule(accuracy=st.sampled_from([0.4, 0.7, 0.95, 0.995]))
    def train(self, accuracy: float) -> None:
        number = self.store.add(accuracy)
        self.jobs.append(a_finished_job(number, name=f"train-{number}"))

    @rule(minimum=st.sampled_from(THRESHOLDS), dataset=st.sampled_from(DATASETS))
    def ask_for(self, minimum: str | None, dataset: str) -> None:
        thresholds = [{"metric": "accuracy", "minimum": minimum}] if minimum else []
        evaluation = {"dataset": dataset, "thresholds": thresholds}
        self.world.change_spec(self.key, evaluation=evaluation)

    @precondition(lambda self: self.model.spec.source is not None)
    @rule(which=st.sampled_from([0, 1]))
    def change_source(self, which: int) -> None:
        self.world.change_spec(self.key, source=self.a_source(which))

    @rule(version=st.integers(1, 14))
    def pin(self, version: int) -> None:
        self.uses = pinned(version)

    @rule()
    def wipe_status(self) -> None:
        body = self.model.wire() | {"status": {}}
        self.world.objects[self.key] = LeptonModel.model_validate(body)

    # What must hold

    def must_be_recorded(self, pod: PodView) -> None:
        """An evaluation that succeeded is listed before its pod is deleted."""
        step, container = read(pod.annotations), pod.container(CONTAINER)
        if step is None or step.kind != "evaluate" or pod.phase != "Succeeded" or not container:
            return
        told = json.loads(container.message)["evaluation"]
        listed = next(
            (each for each in self.model.status.versions if each.version == step.version), None
        )
        if listed is not None and self.is_wanted(step):
            assert listed.evaluation is not None
            assert listed.evaluation.dataset_digest == told["datasetDigest"]

    def is_wanted(self, step: Step) -> bool:
        asked = self.model.spec.evaluation
        return asked is not None and asked.dataset == step.dataset

    @invariant()
    def a_version_never_changes(self) -> None:
        for each in self.model.status.versions if self.key in self.world.objects else ():
            assert each.digest == digest(each.version)

    @invariant()
    def what_is_served_is_listed(self) -> None:
        if self.key not in self.world.objects:
            return
        served = self.model.status.served
        listed = {each.version for each in self.model.status.versions}
        assert served is None or served.version in listed

    @invariant()
    def one_step_at_a_time(self) -> None:
        at_work = [pod for pod in self.world.pods.values() if not (pod.finished or pod.deleting)]
        assert len(at_work) <= 1, [pod.name for pod in at_work]

    def teardown(self) -> None:
        if self.key not in self.world.objects:
            return
        self.come_to_rest()
        self.must_rest_for_a_reason()

    def come_to_rest(self) -> None:
        """Let every step succeed from now on: the plans must run out of work."""
        for _ in range(MOST_PASSES):
            self.world.finish_deletions()
            for name in self.live():
                self.run(name)
            self.world.tell_all()
            done = self.world.reconcile(self.key, self.planner)
            for check in (self.a_version_never_changes, self.what_is_served_is_listed):
                check()
            if self.live() or not is_empty(done):
                self.world.pass_time(1)
                continue
            again = self.planner(self.world, self.key)
            assert is_empty(again)
            if again.due is None:
                return
            self.world.now = max(again.due, self.world.now + timedelta(milliseconds=1))
        pytest.fail(f"no rest after {MOST_PASSES} passes: {done.because}")

    def must_rest_for_a_reason(self) -> None:
        status, spec = self.model.status, self.model.spec
        assert not self.live()
        assert status.observed_generation == self.model.metadata.generation
        newest = sorted(self.store.accuracies, reverse=True)[:KEPT_VERSIONS]
        if spec.source is None:
            assert [each.version for each in status.versions][: len(newest)] == newest
        accepted = [each for each in status.versions if gate.passes(each)]
        if accepted:
            assert is_true(status.conditions, READY)
            assert status.served is not None
            assert status.served.version == max(each.version for each in accepted)
        elif status.versions:
            assert is_true(status.conditions, STALLED)
        else:
            assert is_true(status.conditions, RECONCILING) or is_true(status.conditions, STALLED)


TestModelWorld = ModelWorld.TestCase
TestModelWorld.settings = settings(
    max_examples=150,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
