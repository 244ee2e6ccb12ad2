"""The open attempt goes on: its pods learn where rank 0 is, and the status says how far it is."""

from __future__ import annotations

from datetime import datetime

from lepton_operator.api.training import Attempt, Cause, Progress, RankRestart
from lepton_operator.build import training as build
from lepton_operator.conditions import Verdict, cut, is_true, sentence
from lepton_operator.diagnosis import TRANSIENT, Diagnosis, diagnose
from lepton_operator.plan import Event, Plan
from lepton_operator.training import (
    attempts,
    avoidance,
    evidence,
    failure,
    ledger,
    reminders,
    waiting,
)
from lepton_operator.training.situation import Gang, Situation, ended_well, runs
from lepton_operator.training.status import (
    MAX_CAUSE,
    SLOW_RANK,
    Reason,
    reconciling,
    settled,
    slow_rank,
    written,
)
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
    reminded = tuple(reminders.reminders(situation, gang))
    news = _news(situation, gang)
    verdict = _verdict(situation, gang, news or situation.status.progress)
    spent = _with_ledger(situation, gang) if news else None
    status = written(situation, verdict, attempts=spent, progress=news)
    told = [f"tell {waiting.pods_of(len(placements))} where rank 0 is"] if placements else []
    told += ["tell rank 0's sidecar its image"] if images else []
    told += ["have kubelets look again at what pods were told"] if reminded else []
    said = [f"say {verdict.reason}"] if status else []
    return Plan(
        because=", ".join([*told, *said]),
        patch=(*placements, *images, *reminded),
        status=status,
        events=_slow_now(situation, news),
        due=_due(situation, gang),
    )


def _due(situation: Situation, gang: Gang) -> datetime | None:
    told = (waiting.placing_told_at(situation), reminders.remind_at(situation, gang))
    ahead = [each for each in told if each is not None and each > situation.now]
    silent = failure.silence_due(situation)
    return min([*ahead, silent] if silent else ahead, default=None)


def _news(situation: Situation, gang: Gang) -> Progress | None:
    """Return what rank 0 told, if it is of this attempt and the status has none so fresh."""
    if situation.view.told is None:
        return None
    told, last = situation.view.told.progress, situation.status.progress
    if told.attempt != gang.number:
        return None
    told = _located(told, gang)
    if last is not None:
        longest = max(told.leave_seconds or 0, last.leave_seconds or 0) or None
        told = told.model_copy(update={"leave_seconds": longest})
    if last is not None and last.attempt == told.attempt:
        is_fresh = (told.time - last.time).total_seconds() < WRITE_SECONDS
        return None if is_fresh else told
    return told


def _located(told: Progress, gang: Gang) -> Progress:
    """Return it with the node of the slow rank's pod."""
    pod = gang.pods.get(told.slow.pod) if told.slow else None
    if told.slow is None or pod is None:
        return told
    return told.model_copy(update={"slow": told.slow.model_copy(update={"node": pod.node})})


def _slow_now(situation: Situation, news: Progress | None) -> tuple[Event, ...]:
    """Return the event about a slow rank, once for as long as there is one."""
    if news is None or news.slow is None:
        return ()
    if is_true(situation.status.conditions, SLOW_RANK):
        return ()
    return (Event("Warning", SLOW_RANK, slow_rank(news.slow)),)


def _with_ledger(situation: Situation, gang: Gang) -> list[Attempt]:
    """Return the attempts with what the time of the open one went into, and of the one before."""
    spent = ledger.present(situation, gang, evidence.running_since(gang))
    every = attempts.recorded(situation, gang.attempt.model_copy(update={"ledger": spent}))
    return [_settled(situation, each) for each in every]


def _settled(situation: Situation, attempt: Attempt) -> Attempt:
    """Return it with what a pod that was kept tells of it now."""
    found = None if attempt.outcome == "Running" else ledger.settled(situation, attempt)
    return attempt if found is None else attempt.model_copy(update={"ledger": found})


def _verdict(situation: Situation, gang: Gang, known: Progress | None) -> Verdict:
    """Return where the attempt stands, by its pods, and by the progress that the status tells."""
    pods = [gang.pods[rank] for rank in situation.ranks if rank in gang.pods]
    idle = [pod for pod in pods if not runs(pod) and not ended_well(pod)]
    if not idle:
        ours = known if known is not None and known.attempt == gang.number else None
        return _of_ranks(situation, gang, ours)
    asked = situation.asked(gang.resolved)
    found = ((pod, diagnose(pod, asked)) for pod in idle)
    held_up = next(((pod, each) for pod, each in found if each.reason not in TRANSIENT), None)
    # Of an ordinary start no pod's stages are told: each would be a write.
    return _held_up(situation, *held_up) if held_up else waiting.verdict(situation)


def _held_up(situation: Situation, pod: PodView, found: Diagnosis) -> Verdict:
    message = f"Pod {pod.name}: {found.message}"
    avoided = sorted({each.node for each in avoidance.standing(situation)})
    if found.reason == Reason.NO_CAPACITY and avoided:
        message = f"{sentence(message)} The job avoids {', '.join(avoided)}: status.avoidedNodes."
    return reconciling(Reason(found.reason), message)


_BEFORE_TRAINING = ("starting", "rendezvous", "restoring")


def _of_ranks(situation: Situation, gang: Gang, known: Progress | None) -> Verdict:
    """Return the verdict while all pods run. Without a word from rank 0 they do what they should.

    Of figures that change it says nothing: they are in status.progress.
    """
    again = _again(gang)
    if known is not None and known.generation and known.phase in _BEFORE_TRAINING:
        return reconciling(Reason.RESTARTING, f"The ranks are started again in their pods. {again}")
    training = _training(situation, gang)
    if known is not None and known.phase == "checkpointing":
        return settled(
            Reason.CHECKPOINTING, f"{training} It saves a checkpoint now. {again}".strip()
        )
    return settled(Reason.RUNNING, f"{training} {again}".strip())


def _training(situation: Situation, gang: Gang) -> str:
    ranks = build.ranks_per_pod(situation.spec, gang.resolved)
    each = "1 rank" if ranks == 1 else f"{ranks} ranks"
    pods = waiting.pods_of(situation.spec.num_nodes)
    trains = f"Attempt {gang.number} trains on {pods} with {each} in each."
    found = (situation.node(pod) for pod in gang.pods.values() if not ended_well(pod))
    silent = sorted({node.name for node in found if node is not None and not node.ready})
    if not silent:
        return trains
    who = f"Node {silent[0]} does" if len(silent) == 1 else f"Nodes {', '.join(silent)} do"
    return f"{trains} {who} not answer: the pods there are replaced if the ranks stop."


def _again(gang: Gang) -> str:
    """Return what the launchers did about failures themselves, as far as that is known."""
    last = gang.attempt.last_restarts
    if not last:
        return ""
    newest = last[-1]
    return f"Last restart in its pods: {sentence(cut(_failure(newest), MAX_CAUSE))}"


def _failure(restart: RankRestart) -> str:
    who = "its ranks" if restart.rank is None else f"rank {restart.rank}"
    where = f" on node {restart.node}" if restart.node else ""
    when = f" after step {restart.step}" if restart.step is not None else ""
    return f"{who}{where} {_how(restart)}{when}: {restart.message or 'it left no message'}"


def _how(restart: RankRestart) -> str:
    if restart.reason == Cause.HANG:
        return "hung"
    if restart.signal is not None:
        return f"was ended by {evidence.signal_name(restart.signal)}"
    return "failed" if restart.exit_code is None else f"exited {restart.exit_code}"
