"""The scenarios: what a person does, when each pod ends and how, and what it must come to."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from tests.resilience.history import Body, World
from tests.resilience.pods import LATE_CPUS, RECORDED
from tests.resilience.stage import Stage

Act = Callable[[Stage], Awaitable[None]]
Ending = Callable[[World, Body], str | None]
"""Names the recorded ending that a running pod comes to now; None lets it run on."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """`prepare` is done before the kill points begin, `act` with them.

    `untold` are paths of the end state that depend on who was there to see it; `needed` is how many
    serving pods must be in rotation from `act` on, at every moment.
    """

    name: str
    act: Act
    ending: Ending
    done: Callable[[World], bool]
    prepare: Act | None = None
    untold: frozenset[str] = frozenset()
    needed: int = 0

    def __str__(self) -> str:
        return self.name


def _manifest(kind: str, name: str, **spec: Any) -> dict[str, Any]:
    metadata = {"name": name}
    return {"apiVersion": "lepton.ai/v1alpha1", "kind": kind, "metadata": metadata, "spec": spec}


def _status(world: World, resource: str, name: str) -> Mapping[str, Any]:
    found = world.get(resource, name) or {}
    status: Mapping[str, Any] = found.get("status", {})
    generation = found.get("metadata", {}).get("generation")
    return status if status.get("observedGeneration") == generation else {}


def _holds(world: World, resource: str, name: str, condition: str) -> bool:
    conditions = _status(world, resource, name).get("conditions", ())
    return any(each["type"] == condition and each["status"] == "True" for each in conditions)


def _labels(pod: Body) -> tuple[str, str, str]:
    """Return role, attempt and rank; the last two are empty but for training pods."""
    labels = pod["metadata"]["labels"]
    found = [labels.get(f"lepton.ai/{name}", "") for name in ("role", "attempt", "rank")]
    return found[0], found[1], found[2]


def _pods(world: World, role: str) -> list[Body]:
    return [pod for pod in world.list("pods") if _labels(pod)[0] == role]


def _is_placed(pod: Body) -> bool:
    """A launcher starts its ranks when it has been told where rank 0 of its attempt is."""
    return "address" in pod["metadata"].get("annotations", {}).get("lepton.ai/attempt", "")


def _step(pod: Body) -> Mapping[str, Any]:
    step: Mapping[str, Any] = json.loads(pod["metadata"]["annotations"]["lepton.ai/step"])
    return step


# --- restart of a gang: rank 1 fails in the first attempt, rank 0 keeps its pod in the second


async def _train(stage: Stage) -> None:
    await stage.apply(_manifest("TrainingJob", "gang", entrypoint=["train.py"], numNodes=2))


def _gang_ending(world: World, pod: Body) -> str | None:
    _, attempt, rank = _labels(pod)
    if not _is_placed(pod):
        return None
    if attempt == "1":
        failing = rank == "1" and _holds(world, "trainingjobs", "gang", "Ready")
        return "gang-train-1-1" if failing else None
    return f"gang-train-2-{rank}"


def _gang_done(world: World) -> bool:
    return _has_kept(world, "gang-train-1-0", "gang-train-2-1")


def _has_kept(world: World, kept: str, made: str) -> bool:
    """Whether the job completed with a pod of its first attempt and one of its second."""
    names = [pod["metadata"]["name"] for pod in world.list("pods")]
    # One oracle's pods have a suffix.
    found = [any(name.startswith(each) for name in names) for each in (kept, made)]
    return _holds(world, "trainingjobs", "gang", "Complete") and all(found)


# --- a pod of a running gang is deleted by somebody, and the other keeps its place


async def _lose_a_pod(stage: Stage) -> None:
    await _train(stage)
    await stage.until(lambda world: _holds(world, "trainingjobs", "gang", "Ready"))
    await stage.delete_pod("gang-train-1-0")


async def _lose_a_pod_at_once(stage: Stage) -> None:
    await _train(stage)
    await stage.until(lambda world: _holds(world, "trainingjobs", "gang", "Ready"))
    await stage.delete_pod("gang-train-1-0", grace_seconds=0)


# Where a pod ran only its own last state tells. If that went while there was no operator, all that
# is known is that the pod is lost, which counts the same.
_LAST_WORDS = frozenset(
    f"TrainingJob gang[0].status.attempts[0].{field}" for field in ("message", "node", "rank")
)


def _lost_ending(_world: World, pod: Body) -> str | None:
    _, attempt, rank = _labels(pod)
    return f"gang-train-2-{rank}" if attempt == "2" and _is_placed(pod) else None


def _lost_done(world: World) -> bool:
    return _has_kept(world, "gang-train-1-1", "gang-train-2-0")


# --- a job is suspended, all its ranks save and leave, and it goes on later


async def _pause(stage: Stage) -> None:
    await stage.apply(_manifest("TrainingJob", "paused", entrypoint=["train.py"], numNodes=2))
    await stage.until(lambda world: _holds(world, "trainingjobs", "paused", "Ready"))
    await stage.change("TrainingJob", "paused", {"suspend": True})
    await stage.until(_is_paused)
    await stage.change("TrainingJob", "paused", {"suspend": False})


def _is_paused(world: World) -> bool:
    suspended = _holds(world, "trainingjobs", "paused", "Suspended")
    return suspended and _holds(world, "trainingjobs", "paused", "Ready")


def _paused_ending(_world: World, pod: Body) -> str | None:
    _, attempt, rank = _labels(pod)
    told = json.loads(pod["metadata"].get("annotations", {}).get("lepton.ai/attempt", "{}"))
    leaves = told.get("leave", False) if attempt == "1" else bool(told)
    return f"paused-train-{attempt}-{rank}" if leaves else None


# --- the three manifests of the README


async def _apply_all(stage: Stage) -> None:
    job = {"entrypoint": ["-m", "lepton_ai.recipes.digits", "--epochs=3"], "numNodes": 2}
    gate = {"thresholds": [{"metric": "accuracy", "minimum": "0.90"}]}
    await stage.apply(_manifest("TrainingJob", "digits", **job, output={"model": "digits"}))
    await stage.apply(_manifest("LeptonModel", "digits", evaluation=gate))
    await stage.apply(_manifest("InferenceService", "digits", model={"name": "digits"}))


def _digits_ending(world: World, pod: Body) -> str | None:
    role, _, rank = _labels(pod)
    if role == "train":
        return f"digits-train-1-{rank}" if _was_asked(world) and _is_placed(pod) else None
    if role == "index":
        return "digits-index-1" if _has_trained(world) else "digits-index-0"
    return "digits-evaluate-1" if role == "evaluate" else None


def _was_asked(world: World) -> bool:
    """Whether the store was asked before there is a version, so that every run asks it twice.

    The status keeps whole seconds, and the two times are to differ.
    """
    text = _status(world, "leptonmodels", "digits").get("indexedTime")
    asked = datetime.fromisoformat(text) if text else None
    return asked is not None and datetime.now(UTC) - asked > timedelta(seconds=1)


def _has_trained(world: World) -> bool:
    return any(
        _labels(pod)[::2] == ("train", "0") and pod["status"]["phase"] == "Succeeded"
        for pod in world.pods.values()
    )


def _digits_done(world: World) -> bool:
    kinds = ("trainingjobs", "leptonmodels", "inferenceservices")
    return all(_holds(world, kind, "digits", "Ready") for kind in kinds)


# --- a second version of a model takes the place of the first in a service of two replicas


def _sources() -> list[dict[str, str]]:
    recorded = json.loads((RECORDED / "new_version.json").read_text())
    found: list[dict[str, str]] = recorded["sources"]
    return found


async def _serve_first(stage: Stage) -> None:
    await _make_first(stage)
    await _serve(stage, name="seeds")


async def _make_first(stage: Stage) -> None:
    gate = {"thresholds": [{"metric": "accuracy", "minimum": "0.80"}]}
    await stage.apply(_manifest("LeptonModel", "seeds", evaluation=gate, source=_sources()[0]))


async def _serve(stage: Stage, **model: Any) -> None:
    await stage.apply(_manifest("InferenceService", "seeds", model=model, replicas=2))
    await stage.until(lambda world: _serves(world, 1))


async def _change_source(stage: Stage) -> None:
    await stage.change("LeptonModel", "seeds", {"source": _sources()[1]})


def _seeds_ending(_world: World, pod: Body) -> str | None:
    role, *_ = _labels(pod)
    if role == "index":
        return "seeds-index-0"
    if role == "evaluate":
        return f"seeds-evaluate-{_step(pod)['version']}"
    if role == "import":
        digests = [each["digest"] for each in _sources()]
        return f"seeds-import-{digests.index(_step(pod)['digest']) + 1}"
    return None


def _serves(world: World, version: int, replicas: int = 2) -> bool:
    status = _status(world, "inferenceservices", "seeds")
    counts = dict.fromkeys(("current", "ready", "updated"), replicas)
    return (
        status.get("version") == version
        and status.get("replicas") == counts
        and "rollout" not in status
        and len(status.get("revisions", ())) == 1
        and len(_pods(world, "serve")) == replicas
        and _holds(world, "inferenceservices", "seeds", "Ready")
        and _holds(world, "leptonmodels", "seeds", "Ready")
    )


# --- a service of two replicas becomes one of one: a pod drains, and then goes


async def _shrink(stage: Stage) -> None:
    await stage.change("InferenceService", "seeds", {"replicas": 1})


# --- all pods are replaced by others of the same version


_RESTARTED = {"restartedAt": "2026-11-22T17:00:00Z"}


async def _restart(stage: Stage) -> None:
    await stage.change("InferenceService", "seeds", {"rollout": _RESTARTED})


def _has_restarted(world: World) -> bool:
    """It is as it was before, but for what was asked: that has to have arrived here."""
    service = world.get("inferenceservices", "seeds") or {}
    asked = service.get("spec", {}).get("rollout", {})
    return _RESTARTED.items() <= asked.items() and _serves(world, 1)


# --- all pods are replaced by others that start late


_LATE = {"limits": {"cpu": LATE_CPUS}}


async def _replace_by_late_ones(stage: Stage) -> None:
    await stage.change("InferenceService", "seeds", {"resources": _LATE})


def _has_late_ones(world: World) -> bool:
    service = world.get("inferenceservices", "seeds") or {}
    return bool(service.get("spec", {}).get("resources") == _LATE) and _serves(world, 1)


# --- both versions are there, and a service of two replicas that serves the first


async def _serve_first_of_two(stage: Stage) -> None:
    await _make_first(stage)
    await stage.until(lambda world: _has_version(world, 1))
    await _change_source(stage)
    await stage.until(lambda world: _has_version(world, 2))
    await _serve(stage, name="seeds", version=1)


def _has_version(world: World, number: int) -> bool:
    served = _status(world, "leptonmodels", "seeds").get("served", {})
    return bool(served.get("version") == number)


async def _choose_second(stage: Stage) -> None:
    await stage.change("InferenceService", "seeds", {"model": {"version": 2}})


# --- the second does not load, and the first never leaves


def _broken_ending(world: World, pod: Body) -> str | None:
    if _labels(pod)[0] != "serve":
        return _seeds_ending(world, pod)
    command = pod["spec"]["initContainers"][0]["command"]
    return "seeds-serve-2" if command[command.index("--version") + 1] == "2" else None


def _is_back(world: World) -> bool:
    status = _status(world, "inferenceservices", "seeds")
    rollout, pods = status.get("rollout", {}), _pods(world, "serve")
    return (
        rollout.get("phase") == "RolledBack"
        and status.get("version") == 1
        and status.get("replicas") == dict.fromkeys(("current", "ready", "updated"), 2)
        and {pod["metadata"]["labels"]["lepton.ai/revision"] for pod in pods} == {rollout["to"]}
        and len(pods) == 2
    )


# --- the service is deleted when the first pod of the second version stands, and the door with it


async def _delete_in_the_middle(stage: Stage) -> None:
    await _choose_second(stage)
    await stage.until(lambda world: len(_pods(world, "serve")) > 2)
    await stage.delete("InferenceService", "seeds")


def _nothing_serves(world: World) -> bool:
    kinds = ("services", "deployments", "poddisruptionbudgets", "networkpolicies")
    left = [each for kind in kinds for each in world.list(kind)]
    left += [*_pods(world, "serve"), *_pods(world, "door")]
    return not left and _holds(world, "leptonmodels", "seeds", "Ready")


# --- a node is cordoned: its pod is made elsewhere before it goes


async def _empty_a_node(stage: Stage) -> None:
    first, second = (pod["spec"]["nodeName"] for pod in _pods(stage.world, "serve"))
    if first == second:
        raise RuntimeError(f"The scheduler put both pods on {first}.")
    await stage.cordon(first, unschedulable=True)
    try:
        await stage.until(lambda world: _has_left(world, first))
    finally:
        await stage.cordon(first, unschedulable=False)


def _has_left(world: World, node: str) -> bool:
    return _serves(world, 1) and node not in {
        pod["spec"]["nodeName"] for pod in _pods(world, "serve")
    }


# --- an operator with doors comes to a service that one without made


async def _serve_as_of_old(stage: Stage) -> None:
    """Turn back what the release before knew nothing of; its Services led to the pods."""
    await _serve_first(stage)
    stage.operator.kill()
    labels = {
        "app.kubernetes.io/managed-by": "lepton-operator",
        "lepton.ai/kind": "InferenceService",
        "lepton.ai/name": "seeds",
        "lepton.ai/role": "serve",
    }
    ports = (("http", 8000), ("grpc", 8001))
    found = [{"name": name, "port": port, "targetPort": name} for name, port in ports]
    spec = {"selector": labels, "ports": found}
    await stage.api.patch(stage.path("api/v1", "services", "seeds"), {"spec": spec})
    for path in (
        stage.path("apis/apps/v1", "deployments", "lepton-door"),
        stage.path("apis/policy/v1", "poddisruptionbudgets", "lepton-door"),
        stage.path("apis/policy/v1", "poddisruptionbudgets", "seeds-serve"),
        stage.path("apis/networking.k8s.io/v1", "networkpolicies", "lepton-door"),
        stage.path("apis/networking.k8s.io/v1", "networkpolicies", "lepton-serve"),
    ):
        await stage.api.delete(path)
    await stage.until(lambda world: not _pods(world, "door"))


async def _upgrade(stage: Stage) -> None:
    await stage.operator.start()


def _is_upgraded(world: World) -> bool:
    found = world.get("services", "seeds") or {}
    leads = found.get("spec", {}).get("selector", {}).get("lepton.ai/role") == "door"
    policies = len(list(world.list("networkpolicies")))
    return leads and policies == 2 and _serves(world, 1)


GANG_RESTART = Scenario("gang_restart", _train, _gang_ending, _gang_done)
GANG_POD_LOST = Scenario("gang_pod_lost", _lose_a_pod, _lost_ending, _lost_done, untold=_LAST_WORDS)
# One event tells of it; else there are two, the first of which says enough.
GANG_POD_GONE = replace(GANG_POD_LOST, name="gang_pod_gone", act=_lose_a_pod_at_once)
TRAIN_EVALUATE_SERVE = Scenario("train_evaluate_serve", _apply_all, _digits_ending, _digits_done)
SUSPEND_RESUME = Scenario(
    "suspend_resume",
    _pause,
    _paused_ending,
    lambda world: _holds(world, "trainingjobs", "paused", "Complete"),
)
NEW_VERSION = Scenario(
    "new_version",
    _change_source,
    _seeds_ending,
    lambda world: _serves(world, 2),
    _serve_first,
    needed=2,
)
RESTARTED = replace(NEW_VERSION, name="restarted", act=_restart, done=_has_restarted)
LATE = replace(NEW_VERSION, name="late", act=_replace_by_late_ones, done=_has_late_ones)
SCALE_DOWN = Scenario(
    "scale_down",
    _shrink,
    _seeds_ending,
    lambda world: _serves(world, 1, replicas=1),
    _serve_first,
    needed=1,
)
FAILED_VERSION = Scenario(
    "failed_version", _choose_second, _broken_ending, _is_back, _serve_first_of_two, needed=2
)
DELETED_IN_ROLLOUT = Scenario(
    "deleted_in_rollout",
    _delete_in_the_middle,
    _seeds_ending,
    _nothing_serves,
    _serve_first_of_two,
)
NODE_CORDONED = replace(
    NEW_VERSION, name="node_cordoned", act=_empty_a_node, done=lambda world: _serves(world, 1)
)
UPGRADED = Scenario("upgraded", _upgrade, _seeds_ending, _is_upgraded, _serve_as_of_old, needed=2)
SERVING = (
    NEW_VERSION,
    RESTARTED,
    SCALE_DOWN,
    FAILED_VERSION,
    DELETED_IN_ROLLOUT,
    NODE_CORDONED,
    UPGRADED,
)
SCENARIOS = (TRAIN_EVALUATE_SERVE, GANG_RESTART, GANG_POD_LOST, SUSPEND_RESUME, *SERVING)
