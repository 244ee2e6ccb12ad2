"""A cluster in memory that carries out plans: what the API server, kubelets and time would do.

The operator sees it through a cache (`seen`) that lags behind the truth until something is told to
it, as a watch does. Answers to its own writes reach the cache at once, as in `execute`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from lepton_operator.api.inference import InferenceService
from lepton_operator.api.model import LeptonModel
from lepton_operator.api.training import TrainingJob
from lepton_operator.plan import Create, Delete, Patch, Plan, Reference
from lepton_operator.settings import Defaults
from lepton_operator.views import ContainerView, NodeView, PodView, Told, TrainingView
from tests.builders import NOW, defaults

Own = TrainingJob | LeptonModel | InferenceService
Key = tuple[str, str]  # kind and name: a world has one namespace
Planner = Callable[["World", Key], Plan]

GRACE_SECONDS = 30

_KINDS: Mapping[str, type[TrainingJob | LeptonModel | InferenceService]] = {
    "TrainingJob": TrainingJob,
    "LeptonModel": LeptonModel,
    "InferenceService": InferenceService,
}


class Killed(Exception):
    """The operator was killed between two writes."""


@dataclass
class World:
    now: datetime = NOW
    defaults: Defaults = field(default_factory=defaults)
    objects: dict[Key, Own] = field(default_factory=dict)
    pods: dict[str, PodView] = field(default_factory=dict)  # by name
    nodes: dict[str, NodeView] = field(default_factory=dict)
    seen: dict[str, PodView] = field(default_factory=dict)  # by uid, tombstones included
    kept_away: dict[str, frozenset[str]] = field(default_factory=dict)  # nodes, by pod name
    told: Told | None = None  # what rank 0 told last
    before_delete: Callable[[PodView], None] = lambda _: None
    made: int = 0

    # Objects

    def add(self, own: Own) -> Key:
        key = (own.kind, own.metadata.name)
        self.objects[key] = own
        return key

    def job(self, key: Key) -> TrainingJob:
        found = self.objects[key]
        assert isinstance(found, TrainingJob)
        return found

    def change_spec(self, key: Key, **changes: Any) -> None:
        """A person edits an object; fields by their names in the manifest."""
        body = self.objects[key].wire()
        body["spec"] |= changes
        body["metadata"]["generation"] += 1
        self.objects[key] = _KINDS[key[0]].model_validate(body)

    def training_view(self, key: Key) -> TrainingView:
        job = self.job(key)
        model = self.objects.get(("LeptonModel", job.spec.output.model if job.spec.output else ""))
        return TrainingView(
            job=job,
            defaults=self.defaults,
            pods=self.seen_pods(job.metadata.uid),
            model=model if isinstance(model, LeptonModel) else None,
            nodes=tuple(self.nodes.values()),
            told=self.told,
        )

    def seen_pods(self, owner_uid: str) -> tuple[PodView, ...]:
        return tuple(pod for pod in self.seen.values() if pod.owner_uid == owner_uid)

    # The operator

    def reconcile(self, key: Key, planner: Planner, *, writes: int | None = None) -> Plan:
        """Make one pass. With `writes`, the operator is killed after so many."""
        plan = planner(self, key)
        if plan.relist:
            self.tell_all()
            plan = planner(self, key)
        self.execute(key, plan, writes=writes)
        if is_empty(plan):
            self.seen = {uid: pod for uid, pod in self.seen.items() if not pod.gone}
        return plan

    def execute(self, key: Key, plan: Plan, *, writes: int | None = None) -> None:
        steps: list[Callable[[], None]] = [
            *(lambda each=each: self._delete(each) for each in plan.delete),
            *(lambda each=each: self._create(each) for each in plan.create),
            *(lambda each=each: self._patch(each) for each in plan.patch),
        ]
        if plan.status is not None:
            steps.append(lambda: self._write_status(key, plan.status or {}))
        for number, step in enumerate(steps):
            if number == writes:
                raise Killed
            step()

    def restart_operator(self) -> None:
        """A new process: its cache is what is there, without tombstones."""
        self.seen = {pod.uid: pod for pod in self.pods.values()}
        self.told = None

    # What the API server does

    def _create(self, create: Create) -> None:
        kind, name = create.manifest["kind"], create.manifest["metadata"]["name"]
        if kind == "Pod":
            self._create_pod(create.manifest)
        elif (kind, name) not in self.objects:
            metadata = {"uid": f"uid-of-{name}", "generation": 1, **create.manifest["metadata"]}
            self.add(_KINDS[kind].model_validate({**create.manifest, "metadata": metadata}))

    def _create_pod(self, manifest: Mapping[str, Any]) -> None:
        metadata = manifest["metadata"]
        found = self.pods.get(metadata["name"])
        if found is None:
            self.made += 1
            found = PodView(
                name=metadata["name"],
                namespace=metadata["namespace"],
                uid=f"uid-{self.made}",
                phase="Pending",
                created=self.now.replace(microsecond=0),
                labels=metadata["labels"],
                annotations=metadata["annotations"],
                owner_uid=metadata["ownerReferences"][0]["uid"],
            )
            self.pods[found.name] = found
            self.kept_away[found.name] = _ruled_out(manifest)
        self.seen[found.uid] = found

    def _delete(self, delete: Delete) -> None:
        target = delete.target
        if target.kind != "Pod":
            self._delete_object(target)
            return
        pod = self.pods.get(target.name)
        if pod is None or pod.uid != target.uid:
            return
        self.before_delete(pod)
        if pod.node is None or pod.finished:
            del self.pods[pod.name]
        else:
            self._change(pod, deleting=True, leaves_by=self._grace_ends())
        self.tell(pod)

    def _delete_object(self, target: Reference) -> None:
        found = self.objects.get((target.kind, target.name))
        if found is not None and found.metadata.uid == target.uid:
            del self.objects[target.kind, target.name]

    def _patch(self, patch: Patch) -> None:
        pod = self.pods.get(patch.target.name)
        if pod is None or pod.uid != patch.target.uid:
            return
        marks = patch.body["metadata"]
        merged = {**pod.annotations, **marks["annotations"]}
        annotations = {key: value for key, value in merged.items() if value is not None}
        labels = {**pod.labels, **marks.get("labels", {})}
        self.pods[pod.name] = replace(pod, annotations=annotations, labels=labels)
        self.tell(pod)

    def _write_status(self, key: Key, status: Mapping[str, Any]) -> None:
        own = self.objects[key]
        self.objects[key] = _KINDS[key[0]].model_validate({**own.wire(), "status": status})

    # What a watch does

    def tell(self, pod: PodView) -> None:
        """Bring one pod's latest state into the cache; of one that is gone, its last body."""
        now = self.pods.get(pod.name)
        if now is not None and now.uid == pod.uid:
            self.seen[pod.uid] = now
        elif pod.uid in self.seen:
            self.seen[pod.uid] = replace(self.seen[pod.uid], gone=True)

    def lose_sight(self, pod: PodView) -> None:
        """A watch broke, and the cache does not know of a pod that is there."""
        self.seen.pop(pod.uid, None)

    def tell_all(self) -> None:
        for pod in [*self.seen.values(), *self.pods.values()]:
            self.tell(pod)

    # What the scheduler and kubelets do

    def schedule(self, name: str, node: str) -> None:
        pod, there = self.pods[name], self.nodes[node]
        allowed = there.ready and there.schedulable and node not in self.kept_away[name]
        if pod.node is None and allowed:
            now = self.now.replace(microsecond=0)
            self._change(
                pod, node=node, scheduled=True, scheduled_since=now, ip=f"10.0.0.{self.made}"
            )

    def start(self, name: str, container: str = "train") -> None:
        pod = self.pods[name]
        if self._has_kubelet(pod) and pod.phase == "Pending":
            now = self.now.replace(microsecond=0)
            running = (ContainerView(container, "running", ready=True, started=now),)
            self._change(pod, phase="Running", ready=True, containers=running)

    def end(self, name: str, exit_code: int, message: str = "") -> None:
        pod = self.pods[name]
        if not self._has_kubelet(pod) or pod.phase != "Running":
            return
        ended = replace(
            pod.containers[0],
            state="terminated",
            ready=False,
            exit_code=exit_code,
            message=message,
            finished=self.now.replace(microsecond=0),
        )
        phase = "Failed" if exit_code else "Succeeded"
        self._change(pod, phase=phase, ready=False, containers=(ended,))

    def evict(self, name: str, disruption: str = "EvictionByEvictionAPI") -> None:
        pod = self.pods[name]
        if not pod.finished:
            self._change(
                pod,
                deleted_by_eviction=True,
                disruption=disruption,
                deleting=pod.node is not None,
                leaves_by=self._grace_ends(),
            )

    def preempt(self, name: str) -> None:
        self.evict(name, "PreemptionByScheduler")

    def ask_to_delete(self, name: str) -> None:
        """A person deletes a pod."""
        pod = self.pods[name]
        if pod.node is None:
            self.vanish(name)
        else:
            self._change(pod, deleting=True, leaves_by=self._grace_ends())

    def _grace_ends(self) -> datetime:
        return self.now.replace(microsecond=0) + timedelta(seconds=GRACE_SECONDS)

    def finish_deletions(self) -> None:
        """Every kubelet that answers ends its Terminating pods."""
        for pod in list(self.pods.values()):
            if pod.deleting and (pod.node is None or self.nodes[pod.node].ready):
                self.vanish(pod.name)

    def vanish(self, name: str) -> None:
        del self.pods[name]

    def silence(self, node: str) -> None:
        if self.nodes[node].ready:
            self.nodes[node] = replace(self.nodes[node], ready=False, ready_changed=self.now)

    def revive(self, node: str) -> None:
        if not self.nodes[node].ready:
            self.nodes[node] = replace(self.nodes[node], ready=True, ready_changed=self.now)
        self.finish_deletions()

    def cordon(self, node: str, *, schedulable: bool) -> None:
        self.nodes[node] = replace(self.nodes[node], schedulable=schedulable)

    def pass_time(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)

    def _has_kubelet(self, pod: PodView) -> bool:
        return pod.node is not None and self.nodes[pod.node].ready

    def _change(self, pod: PodView, **changes: Any) -> None:
        self.pods[pod.name] = replace(pod, **changes)


def _ruled_out(manifest: Mapping[str, Any]) -> frozenset[str]:
    """Return the nodes that a pod's required node affinity rules out."""
    affinity = manifest["spec"].get("affinity", {}).get("nodeAffinity", {})
    rules = affinity.get("requiredDuringSchedulingIgnoredDuringExecution", {})
    fields = (each for term in rules.get("nodeSelectorTerms", ()) for each in term["matchFields"])
    return frozenset(value for each in fields for value in each["values"])


def is_empty(plan: Plan) -> bool:
    actions = (*plan.delete, *plan.create, *plan.patch, *plan.events)
    return not actions and plan.status is None and not plan.because
