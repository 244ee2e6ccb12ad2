"""The open attempt goes on: its pods learn where rank 0 is, and the status says how far it is."""

from __future__ import annotations

from lepton_operator.api.training import Progress
from lepton_operator.build import training as build
from lepton_operator.conditions import Verdict, sentence
from lepton_operator.diagnosis import TRANSIENT, Diagnosis, diagnose
from lepton_operator.plan import Plan
from lepton_operator.training import attempts, avoidance, failure, waiting
from lepton_operator.training.situation import Gang, Situation, ended_well, runs
from lepton_operator.training.status import Reason, reconciling, settled, written
from lepton_operator.views import PodView

WRITE_SECONDS = 30.0
"""Progress alone is written no oftener."""


def follow(situation: Situation) -> Plan | None:
    """Place the ranks of the open attempt, and say whether they run or what they wait for."""
    gang = situation.gang
    if gang is None:
        return None
    placements = tuple(attempts.placements(situation, gang))
    images = tuple(attempts.image(situation, gang))
    verdict = _verdict(situation, gang)
    status = written(situation, verdict, progress=_news(situation, gang))
    told = [f"tell {waiting.pods_of(len(placements))} where rank 0 is"] if placements else []
    told += ["tell rank 0's sidecar its image"] if images else []
    said = [f"say {verdict.reason}"] if status else []
    return Plan(
        because=", ".join([*told, *said]),
        patch=(*placements, *images),
        status=status,
        due=failure.silence_due(situation),
    )


def _news(situation: Situation, gang: Gang) -> Progress | None:
    """Return what rank 0 told, if it is of this attempt and the status has none so fresh."""
    told, last = situation.view.progress, situation.status.progress
    if told is None or told.attempt != gang.number:
        return None
    if last is not None and last.attempt == told.attempt:
        is_fresh = (told.time - last.time).total_seconds() < WRITE_SECONDS
        return None if is_fresh else told
    return told


def _verdict(situation: Situation, gang: Gang) -> Verdict:
    pods = [gang.pods[rank] for rank in situation.ranks if rank in gang.pods]
    idle = [pod for pod in pods if not runs(pod) and not ended_well(pod)]
    if not idle:
        return settled(Reason.RUNNING, _running(situation, gang))
    asked = situation.asked(gang.resolved)
    found = ((pod, diagnose(pod, asked)) for pod in idle)
    held_up = next(((pod, each) for pod, each in found if each.reason not in TRANSIENT), None)
    # Stages of an ordinary start are not told: each would be a write, and a write for each pod.
    return _held_up(situation, *held_up) if held_up else waiting.verdict(situation)


def _held_up(situation: Situation, pod: PodView, found: Diagnosis) -> Verdict:
    message = f"Pod {pod.name}: {found.message}"
    avoided = sorted({each.node for each in avoidance.standing(situation)})
    if found.reason == Reason.NO_CAPACITY and avoided:
        message = f"{sentence(message)} The job avoids {', '.join(avoided)}: status.avoidedNodes."
    return reconciling(Reason(found.reason), message)


def _running(situation: Situation, gang: Gang) -> str:
    ranks = build.ranks_per_pod(situation.spec, gang.resolved)
    each = "1 rank" if ranks == 1 else f"{ranks} ranks"
    pods = waiting.pods_of(situation.spec.num_nodes)
    return f"Attempt {gang.number} trains on {pods} with {each} in each."
