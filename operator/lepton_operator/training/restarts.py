"""What a failure means: a restart that counts against a budget, or the end of the job."""

from __future__ import annotations

from dataclasses import dataclass, replace

from lepton_operator.api.training import (
    Action,
    AvoidedNode,
    Budget,
    Cause,
    FailurePolicy,
    Restarts,
)
from lepton_operator.plan import Event, Plan
from lepton_operator.training import (
    attempts,
    avoidance,
    backoff,
    evidence,
    failure,
    policy,
    repeats,
    waiting,
)
from lepton_operator.training.evidence import Failure
from lepton_operator.training.repeats import Meaning, Repeat
from lepton_operator.training.situation import Gang, Situation
from lepton_operator.training.status import FAILED, End, Reason, failed, written


@dataclass(frozen=True, slots=True)
class Judgement:
    """The counters after a failure, what it counted against, and the end if there is one.

    `rule` is the user's that decided; `avoided` the nodes that the next attempt stays away from.
    """

    restarts: Restarts
    budget: Budget | None = None
    ended: End | None = None
    rule: int | None = None
    avoided: tuple[AvoidedNode, ...] | None = None


@dataclass(frozen=True, slots=True)
class _Case:
    """A failure to judge; `beside` are the other failures of its attempt."""

    situation: Situation
    gang: Gang
    found: Failure
    beside: tuple[Failure, ...] = ()

    @property
    def policy(self) -> FailurePolicy:
        return self.situation.spec.failure_policy

    @property
    def before(self) -> Restarts:
        """Return the counters, with what the launchers have spent."""
        return attempts.counters(self.situation, self.gang, knows_progress=self.knows_progress)

    @property
    def moved_forward(self) -> bool:
        """Tell whether the attempt got further than any before it."""
        if self.furthest_step is None:
            return evidence.in_place(self.gang).saved
        return self.furthest_step > (self.situation.status.furthest_step or 0)

    @property
    def knows_progress(self) -> bool:
        """Tell whether the job ever told how far it is, or completed a file where it saves."""
        saved = any(each.saved for each in self.situation.status.attempts)
        return self.furthest_step is not None or saved or evidence.in_place(self.gang).saved

    @property
    def furthest_step(self) -> int | None:
        """Return the furthest step of all attempts; None if none was reported or saved.

        Steps that torch counted are none of them: they begin with 1 in every process.
        """
        known = (self.found.furthest, self.situation.status.furthest_step)
        return max((each for each in known if each is not None), default=None)


def judge(case: _Case) -> Judgement:
    """Return what this failure means: the user's rules decide first, then its class."""
    rule = policy.rule_for(case.policy, case.found)
    if rule is None:
        return _by_class(case)
    judgement = _by_action(case, case.policy.rules[rule].action, rule)
    return replace(judgement, rule=rule)


def _by_class(case: _Case) -> Judgement:
    earlier = [each for each in case.situation.status.attempts if each.outcome == "Failed"]
    knows_steps = case.furthest_step is not None
    repeat = repeats.look_back(
        earlier,
        case.found,
        case.beside,
        knows_steps=knows_steps,
        repeated=evidence.in_place(case.gang).repeated,
    )
    if repeat.meaning is Meaning.USERS:
        return Judgement(case.before, ended=_same_error(case.found, repeat))
    if repeat.meaning is Meaning.MOVE:
        moved = _avoid(case, repeat.evidence, pod=case.found.index)
        return _elsewhere(_counted(case, case.found.budget), moved)
    if repeat.meaning is Meaning.NODES:
        return _of_the_node(case, repeat)
    return _by_action(case, case.found.trait.action, None)


def _of_the_node(case: _Case, repeat: Repeat) -> Judgement:
    """Blame the node only where there is another to show the difference."""
    avoided = _avoid(case, repeat.evidence)
    budget: Budget | None = "Infrastructure" if avoided else case.found.budget
    return _elsewhere(_counted(case, budget), avoided)


def _by_action(case: _Case, action: Action, rule: int | None) -> Judgement:
    if action == "Fail":
        return Judgement(case.before, ended=_at_once(case.found, rule))
    if action == "Ignore":
        return Judgement(case.before)
    counted = _counted(case, case.found.budget)
    if action == "Restart":
        return counted
    return _elsewhere(counted, _avoid(case, case.found.message))


def _elsewhere(counted: Judgement, avoided: tuple[AvoidedNode, ...] | None) -> Judgement:
    """Let the next attempt stay away from these nodes, if there is one."""
    return counted if counted.ended else replace(counted, avoided=avoided)


def _avoid(case: _Case, because: str, *, pod: int | None = None) -> tuple[AvoidedNode, ...] | None:
    told = f"Attempt {case.gang.number}: {because}"
    return avoidance.avoid(case.situation, case.gang, case.found.node, told, pod=pod)


def _counted(case: _Case, budget: Budget | None) -> Judgement:
    """Count a restart, unless its attempt got further than any before, or the store was missing."""
    before = case.before
    if budget is None:
        return Judgement(before)
    if case.moved_forward:
        return Judgement(before.model_copy(update={"without_progress": 0}))
    ended = _used_up(case, budget) or _without_progress(case)
    if ended is not None:
        return Judgement(before, budget, ended)
    field = budget.lower()
    more = {field: getattr(before, field) + 1}
    if case.knows_progress:
        more["without_progress"] = before.without_progress + 1
    return Judgement(before.model_copy(update=more), budget)


def _used_up(case: _Case, budget: Budget) -> End | None:
    """Return the end if this budget has nothing left; preemptions are counted, not bounded."""
    before, limits = case.before, case.policy
    if budget == "User" and before.user >= limits.max_restarts:
        advice = (
            f"It was {_restarted(before.user)} (failurePolicy.maxRestarts). Mend the script, "
            "its image or its data, or raise that number"
        )
        return failed(Reason.MAX_RESTARTS_EXCEEDED, case.found.message, advice)
    if budget == "Infrastructure" and before.infrastructure >= limits.max_infrastructure_restarts:
        advice = (
            f"It was {_restarted(before.infrastructure)} after such losses "
            "(failurePolicy.maxInfrastructureRestarts). Look at the nodes in status.attempts, or "
            "raise that number"
        )
        return failed(Reason.MAX_INFRASTRUCTURE_RESTARTS_EXCEEDED, case.found.message, advice)
    return None


def _without_progress(case: _Case) -> End | None:
    count = case.before.without_progress
    if not case.knows_progress or count < case.policy.max_restarts_without_progress:
        return None
    without = (
        f"getting beyond step {case.furthest_step}"
        if case.furthest_step is not None
        else "completing a file in checkpoint.volume"
    )
    advice = (
        f"It was {_restarted(count)} in a row without {without} "
        "(failurePolicy.maxRestartsWithoutProgress). Save checkpoints more often, or raise that "
        "number"
    )
    return failed(Reason.NO_PROGRESS, case.found.message, advice)


def _same_error(found: Failure, repeat: Repeat) -> End:
    evidence_ = repeat.evidence[:1].upper() + repeat.evidence[1:]
    advice = (
        f"{evidence_}, so a restart would give the same. Mend the script, its image or its data"
    )
    return failed(Reason.SAME_ERROR, found.message, advice)


def _at_once(found: Failure, rule: int | None) -> End:
    if rule is not None:
        advice = f"failurePolicy.rules[{rule}] says Fail. Mend what failed"
        return failed(Reason.FAILED_BY_RULE, found.message, advice)
    if found.cause is Cause.INVALID_SPEC:
        return failed(Reason.INVALID_SPEC, found.message, "Mend the pattern")
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
    gang, causes = situation.gang, failure.causes(situation)
    if gang is None or not causes:
        return None
    found = _with_steps(gang, causes[0])
    case = _Case(situation, gang, found, tuple(causes[1:]))
    judgement = judge(case)
    ended = judgement.ended
    attempt = attempts.closed_failed(situation, gang, found, judgement.budget, judgement.rule)
    every = attempts.recorded(situation, attempt)
    metadata = situation.job.metadata
    return Plan(
        because=f"close attempt {gang.number}: {found.message}",
        status=written(
            situation,
            ended.verdict if ended else waiting.verdict_after(situation, attempt),
            attempts=every,
            restarts=judgement.restarts,
            avoided=judgement.avoided,
            ended=ended,
        ),
        events=_events(gang, found, judgement),
        due=None if ended else backoff.opens_at(every, metadata.uid, metadata.generation),
        relist=found.absent,
    )


def _with_steps(gang: Gang, found: Failure) -> Failure:
    """Complete a failure with what the pod's peers report of the steps."""
    steps = evidence.steps(gang)
    return replace(
        found,
        step=steps.reached if found.step is None else found.step,
        resumed_from=steps.resumed_from if found.resumed_from is None else found.resumed_from,
        furthest=steps.furthest,
    )


def _events(gang: Gang, found: Failure, judgement: Judgement) -> tuple[Event, ...]:
    told = [_ended(gang, found)]
    if judgement.avoided:
        newest = judgement.avoided[-1]
        who = "The job" if newest.pod is None else f"Pod {newest.pod} of the job"
        message = f"{who} avoids node {newest.node} from now on. {newest.because}"
        told.append(Event("Warning", "NodeAvoided", message))
    if judgement.ended:
        told.append(Event("Warning", FAILED, judgement.ended.message))
    return tuple(told)


def _ended(gang: Gang, found: Failure) -> Event:
    if found.cause is Cause.SAVED:
        return Event("Normal", "AttemptLeft", f"Attempt {gang.number} left. {found.message}")
    return Event("Warning", "AttemptFailed", f"Attempt {gang.number} failed. {found.message}")
