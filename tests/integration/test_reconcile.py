"""Single passes over real objects, with plans that are made for the case."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from lepton_operator import names
from lepton_operator.api.training import TrainingJobStatus
from lepton_operator.cache import Cache, Change, Key, door_key
from lepton_operator.cluster import Cluster
from lepton_operator.execute import Executor
from lepton_operator.metrics import Metrics
from lepton_operator.observe import Observer
from lepton_operator.plan import Create, Delete, Event, Plan
from lepton_operator.queue import End
from lepton_operator.readers import readers
from lepton_operator.reconcile import Reconciler
from lepton_operator.settings import Settings
from lepton_operator.views import TrainingView
from tests.integration.conftest import DEFAULTS, Namespace

NOW = datetime(2026, 11, 22, 4, tzinfo=UTC)
Decide = Callable[[TrainingView], Plan]


@dataclass
class Bench:
    """A reconciler whose plan can be changed between passes."""

    client: Cluster
    namespace: Namespace
    decide: Decide = lambda _: Plan()
    fresh_wait: bool = False
    views: list[TrainingView] = field(default_factory=list)
    woken: list[Change] = field(default_factory=list)
    metrics: Metrics = field(default_factory=Metrics)

    def __post_init__(self) -> None:
        settings = Settings.model_validate(
            {"defaults": DEFAULTS, "watchNamespaces": [self.namespace.name]}
        )
        self.cache = Cache(settings.defaults.gpu_resource)
        asked = readers(self.client, self.cache, settings, self.metrics)
        self.observer = Observer(self.client, self.cache, settings, asked)
        self.reconciler = Reconciler(
            self.observer,
            Executor(self.client, self.cache),
            {"TrainingJob": self._plan},
            wake=self._wake,
            should_put_off=lambda _: self.fresh_wait,
            metrics=self.metrics,
            clock=lambda: NOW,
        )

    def _wake(self, changes: Iterable[Change], _: Key) -> None:
        self.woken += changes

    def _plan(self, view: TrainingView, _: datetime) -> Plan:
        self.views.append(view)
        return self.decide(view)

    async def list_all(self) -> None:
        for kind in self.observer.kinds:
            await self.observer.relist_kind(kind)

    async def run(self, name: str = "digits") -> End:
        return (await self.reconciler(self.key(name))).end

    def key(self, name: str = "digits") -> Key:
        return Key("TrainingJob", self.namespace.name, name)

    def job(self, name: str = "digits") -> dict[str, Any]:
        found = self.namespace.get("TrainingJob", name)
        assert found
        return found


async def a_bench(client: Cluster, namespace: Namespace) -> Bench:
    namespace.train()
    bench = Bench(client, namespace)
    await bench.list_all()
    return bench


def pod_of(view: TrainingView, name: str = "digits-train-1-0") -> Create:
    job = view.job.metadata
    owner = {
        "apiVersion": "lepton.ai/v1alpha1",
        "kind": "TrainingJob",
        "name": job.name,
        "uid": job.uid,
        "controller": True,
    }
    metadata = {
        "name": name,
        "namespace": job.namespace,
        "labels": names.owner_labels("TrainingJob", job.name),
        "ownerReferences": [owner],
    }
    spec = {"containers": [{"name": "train", "image": "i"}]}
    return Create({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})


def says(attempt: int) -> dict[str, Any]:
    return TrainingJobStatus(observed_generation=1, attempt=attempt).wire()


async def test_a_pass_sees_what_the_pass_before_it_wrote(
    client: Cluster, namespace: Namespace
) -> None:
    bench = await a_bench(client, namespace)
    bench.decide = lambda view: Plan(
        create=() if view.pods else (pod_of(view),), status=says(len(view.pods))
    )
    assert [await bench.run() for _ in range(3)] == [End.CHANGED, End.CHANGED, End.SETTLED]
    assert bench.job()["status"]["attempt"] == 1


async def test_an_equal_status_is_not_written(client: Cluster, namespace: Namespace) -> None:
    bench = await a_bench(client, namespace)
    bench.decide = lambda _: Plan(status=says(3))
    await bench.run()
    version = bench.job()["metadata"]["resourceVersion"]
    assert await bench.run() is End.SETTLED
    assert bench.job()["metadata"]["resourceVersion"] == version


async def test_a_status_written_on_an_outdated_view_is_planned_anew(
    client: Cluster, namespace: Namespace
) -> None:
    bench = await a_bench(client, namespace)
    bench.decide = lambda view: Plan(status=says(view.job.spec.num_nodes))
    await bench.run()
    label = {"metadata": {"labels": {"touched": "yes"}}}
    namespace.api.patch(namespace.path("TrainingJob", "digits"), label)
    bench.decide = lambda _: Plan(status=says(7))
    assert await bench.run() is End.FAILED
    assert await bench.run() is End.CHANGED
    assert bench.job()["status"]["attempt"] == 7
    assert bench.job()["metadata"]["labels"] == {"touched": "yes"}


async def test_pods_go_first_when_fresh_objects_wait(client: Cluster, namespace: Namespace) -> None:
    bench = await a_bench(client, namespace)
    bench.fresh_wait = True
    bench.decide = lambda view: Plan(
        create=() if view.pods else (pod_of(view),), status=says(1), events=(greeting(),)
    )
    assert await bench.run() is End.PUT_OFF
    assert namespace.pods() == ["digits-train-1-0"]
    assert "attempt" not in bench.job()["status"]
    bench.fresh_wait = False
    assert await bench.run() is End.CHANGED
    assert bench.job()["status"]["attempt"] == 1
    assert len(namespace.list("Event")) == 1


def greeting() -> Event:
    return Event("Normal", "AttemptStarted", "Attempt 1 starts.")


async def test_an_event_is_stored_once_whoever_posts_it(
    client: Cluster, namespace: Namespace
) -> None:
    for _ in range(2):  # the second one has forgotten what the first one posted
        bench = await a_bench(client, namespace)
        bench.decide = lambda _: Plan(events=(greeting(),))
        await bench.run()
        await bench.run()
    (event,) = namespace.list("Event")
    assert (event["count"], event["involvedObject"]["name"]) == (1, "digits")


async def test_a_plan_about_absence_is_made_again_from_a_live_list(
    client: Cluster, namespace: Namespace
) -> None:
    bench = await a_bench(client, namespace)
    job = namespace.get("TrainingJob", "digits")
    assert job
    bench.decide = lambda view: Plan(create=(pod_of(view),))
    await bench.run()
    forgetful = Bench(client, namespace)
    forgetful.cache.put("TrainingJob", job)
    forgetful.decide = lambda view: Plan(
        create=() if view.pods else (pod_of(view),), relist=not view.pods
    )
    assert await forgetful.run() is End.SETTLED
    assert [len(view.pods) for view in forgetful.views] == [0, 1]


async def test_a_pod_that_vanished_unseen_becomes_a_tombstone_until_it_is_told(
    client: Cluster, namespace: Namespace
) -> None:
    bench = await a_bench(client, namespace)
    bench.decide = lambda view: Plan(create=() if view.pods else (pod_of(view),))
    await bench.run()
    namespace.delete("Pod", "digits-train-1-0")
    bench.decide = lambda view: Plan(status=says(sum(pod.gone for pod in view.pods)), relist=True)
    ends = [await bench.run() for _ in range(3)]
    assert ends == [End.CHANGED, End.CHANGED, End.CHANGED]
    assert [sum(pod.gone for pod in view.pods) for view in bench.views[-6:]] == [0, 1, 1, 1, 0, 0]


async def test_a_pod_that_is_gone_already_is_deleted_without_complaint(
    client: Cluster, namespace: Namespace
) -> None:
    bench = await a_bench(client, namespace)
    bench.decide = lambda view: Plan(create=() if view.pods else (pod_of(view),))
    await bench.run()
    namespace.delete("Pod", "digits-train-1-0")
    bench.decide = lambda view: Plan(
        delete=tuple(Delete(pod.reference) for pod in view.pods if not pod.gone)
    )
    for _ in range(3):
        end = await bench.run()
    assert end is End.SETTLED
    assert bench.metrics.registry.get_sample_value(
        "controller_runtime_reconcile_errors_total", {"controller": "trainingjob"}
    ) in (None, 0.0)


async def test_a_defect_hits_its_own_object_only(client: Cluster, namespace: Namespace) -> None:
    namespace.train("broken")
    bench = await a_bench(client, namespace)

    def decide(view: TrainingView) -> Plan:
        if view.job.metadata.name == "broken":
            raise ZeroDivisionError
        return Plan(status=says(1))

    bench.decide = decide
    assert await bench.run("broken") is End.FAILED
    assert await bench.run("digits") is End.CHANGED
    panics = bench.metrics.registry.get_sample_value(
        "controller_runtime_reconcile_panics_total", {"controller": "trainingjob"}
    )
    assert panics == 1.0


async def test_a_spec_that_is_not_valid_is_told_and_not_tried_again(
    client: Cluster, namespace: Namespace
) -> None:
    bench = await a_bench(client, namespace)
    older = bench.job()  # as an API server with an older schema would have let it in
    older["spec"]["numNodes"] = 0
    broken = Cache("nvidia.com/gpu")
    broken.put("TrainingJob", older)
    bench.observer = replace(bench.observer, cache=broken)
    reconciler = Reconciler(
        bench.observer,
        Executor(client, broken),
        {},
        wake=lambda *_: None,
        should_put_off=lambda _: False,
        metrics=bench.metrics,
        clock=lambda: NOW,
    )
    assert (await reconciler(bench.key())).end is End.SETTLED
    conditions = {each["type"]: each for each in bench.job()["status"]["conditions"]}
    assert conditions["Stalled"]["reason"] == "InvalidSpec"
    assert (
        "spec.numNodes: Input should be greater than or equal to 1"
        in (conditions["Stalled"]["message"])
    )
    assert conditions["Ready"]["status"] == "False"


async def test_garbage_in_a_status_counts_as_a_lost_status(
    client: Cluster, namespace: Namespace
) -> None:
    bench = await a_bench(client, namespace)
    garbage = bench.job()
    garbage["status"] = {"attempts": "none", "conditions": [{"type": 7}]}
    bench.cache = Cache("nvidia.com/gpu")
    bench.cache.put("TrainingJob", garbage)
    bench.observer = replace(bench.observer, cache=bench.cache)
    own = bench.cache.own(bench.key())
    assert own
    view = bench.observer.view(own, ())
    assert isinstance(view, TrainingView)
    assert view.job.status.attempts == ()


async def test_a_due_time_is_told_to_the_queue(client: Cluster, namespace: Namespace) -> None:
    bench = await a_bench(client, namespace)
    bench.decide = lambda _: Plan(due=NOW + timedelta(seconds=30))
    outcome = await bench.reconciler(bench.key())
    assert (outcome.end, outcome.due_seconds) == (End.SETTLED, 30.0)


async def test_an_object_that_is_being_deleted_is_left_alone(
    client: Cluster, namespace: Namespace
) -> None:
    namespace.train()
    finalizers = {"metadata": {"finalizers": ["example.com/held"]}}
    namespace.api.patch(namespace.path("TrainingJob", "digits"), finalizers)
    namespace.delete("TrainingJob", "digits")
    bench = Bench(client, namespace, decide=lambda view: Plan(create=(pod_of(view),)))
    await bench.list_all()
    assert await bench.run() is End.GONE
    assert bench.views == []
    namespace.api.patch(namespace.path("TrainingJob", "digits"), {"metadata": {"finalizers": None}})


async def test_before_a_door_goes_the_services_that_need_it_are_listed(
    client: Cluster, namespace: Namespace
) -> None:
    """One that a watch has not told of yet would lose it."""
    namespace.apply("InferenceService", "digits", spec={"model": {"name": "digits"}})
    bench = Bench(client, namespace)
    door = bench.cache.own(door_key(namespace.name))
    assert door is not None
    assert not bench.cache.serves(namespace.name)
    await bench.observer.relist(door)
    assert bench.cache.serves(namespace.name)
