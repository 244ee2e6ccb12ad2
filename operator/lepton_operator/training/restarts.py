"""What a failure means: a restart that counts against a budget, or the end of the job."""

from __future__ import annotations

from dataclasses import dataclass

from lepton_operator.api.training import FailurePolicy, Restarts
from lepton_operator.plan import Event, Plan
from lepton_operator.training import attempts, failure, waiting
from lepton_operator.training.failure import Budget, Failure
from lepton_operator.training.situation import Gang, Situation
from lepton_operator.training.status import FAILED, End, Reason, failed, written


@dataclass(frozen=True, slots=True)
class Judgement:
    """The counters after a failure, the budget it counted against, and the end if there is one."""

    restarts: Restarts
    budget: Budget | None = None
    ended: End | None = None


def judge(policy: FailurePolicy, before: Restarts, found: Failure) -> Judgement:
    """Return what this failure means. One whose like would come again at once is final."""
    if found.cause in failure.FINAL:
        return Judgement(before, ended=_no_model(found))
    if found.budget == "User":
        return _user(policy, before, found)
    if found.budget == "Infrastructure":
        return _infrastructure(policy, before, found)
    return Judgement(before)


def _user(policy: FailurePolicy, before: Restarts, found: Failure) -> Judgement:
    if before.user < policy.max_restarts:
        return Judgement(before.model_copy(update={"user": before.user + 1}), "User")
    advice = (
        f"It was {_restarted(before.user)} (failurePolicy.maxRestarts). Mend the script, "
        "its image or its data, or raise that number"
    )
    ended = failed(Reason.MAX_RESTARTS_EXCEEDED, found.message, advice)
    return Judgement(before, "User", ended)


def _infrastructure(policy: FailurePolicy, before: Restarts, found: Failure) -> Judgement:
    count = before.infrastructure
    if count < policy.max_infrastructure_restarts:
        more = before.model_copy(update={"infrastructure": count + 1})
        return Judgement(more, "Infrastructure")
    advice = (
        f"It was {_restarted(count)} after such losses "
        "(failurePolicy.maxInfrastructureRestarts). Look at the nodes in status.attempts, or raise "
        "that number"
    )
    ended = failed(Reason.MAX_INFRASTRUCTURE_RESTARTS_EXCEEDED, found.message, advice)
    return Judgement(before, "Infrastructure", ended)


def _no_model(found: Failure) -> End:
    advice = "Mend the script, or leave out output"
    return failed(Reason(found.cause.value), found.message, advice)


def _restarted(count: int) -> str:
    if not count:
        return "not started again"
    return "started again once" if count == 1 else f"started again {count} times"


def close_failed(situation: Situation) -> Plan | None:
    """Close the open attempt if a pod of it failed or was lost.

    Nothing is deleted before that is recorded: its pods go in a later pass.
    """
    gang, found = situation.gang, failure.cause(situation)
    if gang is None or found is None:
        return None
    before = situation.status.restarts or Restarts()
    judgement = judge(situation.spec.failure_policy, before, found)
    ended = judgement.ended
    attempt = attempts.closed(gang, "Failed", situation.now, found, budget=judgement.budget)
    every = attempts.recorded(situation, attempt)
    return Plan(
        because=f"close attempt {gang.number}: {found.message}",
        status=written(
            situation,
            ended.verdict if ended else waiting.verdict_after(situation, attempt),
            attempts=every,
            restarts=judgement.restarts,
            ended=ended,
        ),
        events=_events(gang, found, ended),
        due=None if ended else waiting.opens_at(every),
        relist=found.absent,
    )


def _events(gang: Gang, found: Failure, ended: End | None) -> tuple[Event, ...]:
    attempt = Event("Warning", "AttemptFailed", f"Attempt {gang.number} failed. {found.message}")
    return (attempt, Event("Warning", FAILED, ended.message)) if ended else (attempt,)
