"""A training of three pods on two nodes that notes each of its steps on a shared volume."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from e2e.cluster.cluster import Cluster
from e2e.deadlines import DEADLINES_SECONDS
from e2e.installation import image_references
from e2e.kubectl import Kubectl
from e2e.processes import processes_of
from e2e.recovery.volume import CLAIM, MOUNT_PATH, Shared
from e2e.waiting import wait_until

SCRIPTS = Path(__file__).with_name("scripts")
SAVING, PLAIN = "saving.py", "plain.py"
PODS = 3
STEP_SECONDS = 0.2
SAVE_SECONDS = 2
KEPT = 500  # all of them: their times are read afterwards
IMAGES = {SAVING: "trainer", PLAIN: "torch"}
_ALL_STEPS = 100_000
_CHECKPOINT = {"checkpoint": {"volume": "shared", "intervalSeconds": SAVE_SECONDS, "keep": KEPT}}


@dataclass(frozen=True, slots=True)
class Event:
    """What a rank noted: its name, when, and in which start of the ranks."""

    name: str
    at: float
    rank: int
    attempt: int
    generation: int
    step: int | None = None
    launcher: float = 0.0
    agent: float = 0.0

    @property
    def start(self) -> tuple[int, int]:
        return self.attempt, self.generation


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A manifest that lies on the volume."""

    step: int
    attempt: int
    generation: int
    at: float
    path: Path

    @property
    def start(self) -> tuple[int, int]:
        return self.attempt, self.generation


@dataclass(frozen=True)
class Run:
    """One job, seen from this machine."""

    shared: Shared
    name: str

    @property
    def kubectl(self) -> Kubectl:
        return self.shared.kubectl

    @property
    def folder(self) -> Path:
        """What the script writes on the volume, and where its orders lie."""
        return self.shared.folder / self.name

    def job(self) -> dict[str, Any] | None:
        return self.kubectl.get("trainingjob", self.name)

    def pods(self) -> Sequence[dict[str, Any]]:
        return self.kubectl.list("pods", f"lepton.ai/name={self.name}")

    def nodes(self) -> list[str]:
        """Return the node of each pod that has one."""
        return [pod["spec"]["nodeName"] for pod in self.pods() if "nodeName" in pod["spec"]]

    def pod(self, rank: int) -> dict[str, Any]:
        """Return the pod of this rank that is not on its way out."""
        label = str(rank)
        return next(
            each
            for each in self.pods()
            if each["metadata"]["labels"]["lepton.ai/rank"] == label
            and "deletionTimestamp" not in each["metadata"]
        )

    def process(self, rank: int) -> int:
        """Return the pid of this rank's script."""
        (pid,) = processes_of(
            self.pod(rank)["metadata"]["uid"], running=f"-u\0{MOUNT_PATH}/{self.name}/".encode()
        )
        return pid

    def suspend(self, suspended: bool) -> None:  # noqa: FBT001 - the field's own word
        change = json.dumps({"spec": {"suspend": suspended}})
        self.kubectl.run("patch", "trainingjob", self.name, "--type=merge", "-p", change)

    def order(self, fault: str, rank: int, *, again: bool = False) -> None:
        """Have a rank do this in its next step; `again`: each time that it comes to that step."""
        unfinished = self.folder / "faults" / "order"  # nobody's, until it is whole
        unfinished.write_text(fault)
        unfinished.chmod(0o666)
        unfinished.rename(unfinished.with_name(f"{rank}-again" if again else str(rank)))

    def events(self) -> list[Event]:
        """Return what all ranks have noted so far, by time."""
        found = []
        for path in self.folder.glob("events-*.jsonl"):
            rank = int(path.stem.partition("-")[2])
            for line in path.read_text().splitlines():
                with suppress(ValueError):  # the last one may be half written
                    found.append(_event(rank, json.loads(line)))
        return sorted(found, key=lambda each: each.at)

    def checkpoints(self) -> list[Checkpoint]:
        """Return all complete ones, by step."""
        paths = self.shared.folder.glob(f"{self._uid}/step-*/attempt-*/manifest.json")
        return sorted((_checkpoint(path) for path in paths), key=lambda each: each.step)

    @property
    def _uid(self) -> str:
        job = self.job()
        return str(job["metadata"]["uid"]) if job else ""

    def starts_again(self) -> None:
        """Wait until all ranks have met once more, after the first time."""
        wait_until(
            lambda: [
                each.rank for each in self.events() if each.name == "met" and each.start > (1, 0)
            ],
            lambda ranks: len(set(ranks)) == PODS,
            "a training goes on",
            f"in {self.name}",
        )

    def runs_to(self, step: int) -> None:
        """Wait until all ranks have done this step."""
        wait_until(
            lambda: furthest(self.events()),
            lambda reached: len(reached) == PODS and min(reached.values()) >= step,
            "a training runs",
            f"to step {step} of {self.name}",
        )

    def saves(self, count: int) -> None:
        """Wait until so many checkpoints are complete."""
        wait_until(
            self.checkpoints,
            lambda found: len(found) >= count,
            "a training runs",
            f"to {count} checkpoints of {self.name}",
        )


def training(name: str, script: str, options: Mapping[str, float], **spec: Any) -> dict[str, Any]:
    """Return the TrainingJob of a run."""
    place = f"{MOUNT_PATH}/{name}"
    told = {
        "TRAINING_FOLDER": place,
        "TRAINING_OPTIONS": json.dumps(
            {"step_seconds": STEP_SECONDS, "steps": _ALL_STEPS, **options}
        ),
    }
    return {
        "apiVersion": "lepton.ai/v1alpha1",
        "kind": "TrainingJob",
        "metadata": {"name": name},
        "spec": {
            "image": image_references()[IMAGES[script]],
            "entrypoint": [f"{place}/{script}"],
            "env": [{"name": key, "value": value} for key, value in told.items()],
            "numNodes": PODS,
            "volumes": [{"name": "shared", "claimName": CLAIM, "mountPath": MOUNT_PATH}],
            **(_CHECKPOINT if script == SAVING else {}),
            **spec,
        },
    }


def furthest(events: Sequence[Event]) -> Mapping[int, int]:
    """Return the last step of each rank, in the last start of the ranks."""
    found: dict[int, int] = {}
    last = max((each.start for each in events), default=None)
    for each in events:
        if each.name == "step" and each.start == last and each.step is not None:
            found[each.rank] = each.step
    return found


@contextmanager
def _room_for_some_on_each_node(cluster: Cluster) -> Iterator[None]:
    """Else the scheduler may put all pods on one node, and the other's end would hurt nobody."""
    for node in cluster.nodes:
        cluster.offer_gpus(node, PODS - 1)
    try:
        yield
    finally:
        for node in cluster.nodes:
            cluster.offer_gpus(node, cluster.spec.gpus_per_node)


@contextmanager
def started(
    shared: Shared,
    name: str,
    script: str = SAVING,
    options: Mapping[str, float] = MappingProxyType({}),
    **spec: Any,
) -> Iterator[Run]:
    """Start a run. Its job and pods are gone after the block."""
    own = shared.folder / name
    (own / "faults").mkdir(parents=True)
    for each in (own, own / "faults"):
        each.chmod(0o777)
    for file in ("noting.py", script):
        shutil.copy(SCRIPTS / file, own)
    run = Run(shared, name)
    kubectl = shared.kubectl
    try:
        with _room_for_some_on_each_node(shared.cluster):
            kubectl.apply(training(name, script, options, **spec))
            wait_until(run.nodes, lambda nodes: len(nodes) == PODS, "a pod runs")
        yield run
    finally:
        kubectl.delete("trainingjob", name, "--wait=false")
        kubectl.run(
            *("delete", "pods", "-l", f"lepton.ai/name={name}", "--force", "--grace-period=0"),
            timeout_seconds=DEADLINES_SECONDS["a pod is gone"],
        )


def _event(rank: int, noted: Mapping[str, Any]) -> Event:
    known = ("at", "attempt", "generation", "step", "launcher", "agent")
    return Event(noted["event"], rank=rank, **{key: noted[key] for key in known if key in noted})


def _checkpoint(path: Path) -> Checkpoint:
    _, attempt, generation = path.parent.name.split("-")
    step = int(path.parent.parent.name.partition("-")[2])
    return Checkpoint(step, int(attempt), int(generation), path.stat().st_mtime, path)
