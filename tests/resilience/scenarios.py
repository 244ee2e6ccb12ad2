"""The scenarios: what a person does, when each pod ends and how, and what it must come to."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from tests.resilience.history import Body, World
from tests.resilience.pods import RECORDED
from tests.resilience.stage import Stage

Act = Callable[[Stage], Awaitable[None]]
Ending = Callable[[World, Body], str | None]
"""Names the recorded ending that a running pod comes to now; None lets it run on."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """`prepare` is done before the kill points begin, `act` with them.

    `untold` are paths of the end state that depend on who was there to see it.
    """

    name: str
    act: Act
    ending: Ending
    done: Callable[[World], bool]
    prepare: Act | None = None
    untold: frozenset[str] = frozenset()

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


# The doors that kwok plays answer nobody, so every drain takes all of its time.
_DRAIN = {"drainTimeoutSeconds": 1}


def _sources() -> list[dict[str, str]]:
    recorded = json.loads((RECORDED / "new_version.json").read_text())
    found: list[dict[str, str]] = recorded["sources"]
    return found


async def _serve_first(stage: Stage) -> None:
    gate = {"thresholds": [{"metric": "accuracy", "minimum": "0.80"}]}
    model = _manifest("LeptonModel", "seeds", evaluation=gate, source=_sources()[0])
    service = _manifest(
        "InferenceService", "seeds", model={"name": "seeds"}, replicas=2, rollout=_DRAIN
    )
    await stage.apply(model)
    await stage.apply(service)
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
        and len([pod for pod in world.list("pods") if _labels(pod)[0] == "serve"]) == replicas
        and _holds(world, "inferenceservices", "seeds", "Ready")
        and _holds(world, "leptonmodels", "seeds", "Ready")
    )


# --- a service of two replicas becomes one of one: a pod drains, and then goes


async def _shrink(stage: Stage) -> None:
    await stage.change("InferenceService", "seeds", {"replicas": 1})


GANG_RESTART = Scenario("gang_restart", _train, _gang_ending, _gang_done)
GANG_POD_LOST = Scenario("gang_pod_lost", _lose_a_pod, _lost_ending, _lost_done, untold=_LAST_WORDS)
# One event tells of it; else there are two, the first of which says enough.
GANG_POD_GONE = replace(GANG_POD_LOST, name="gang_pod_gone", act=_lose_a_pod_at_once)
TRAIN_EVALUATE_SERVE = Scenario("train_evaluate_serve", _apply_all, _digits_ending, _digits_done)
NEW_VERSION = Scenario(
    "new_version", _change_source, _seeds_ending, lambda world: _serves(world, 2), _serve_first
)
SUSPEND_RESUME = Scenario(
    "suspend_resume",
    _pause,
    _paused_ending,
    lambda world: _holds(world, "trainingjobs", "paused", "Complete"),
)
SCALE_DOWN = Scenario(
    "scale_down", _shrink, _seeds_ending, lambda world: _serves(world, 1, replicas=1), _serve_first
)
SCENARIOS = (
    TRAIN_EVALUATE_SERVE,
    GANG_RESTART,
    GANG_POD_LOST,
    NEW_VERSION,
    SCALE_DOWN,
    SUSPEND_RESUME,
)
