"""What a failure means beside earlier ones: the same error again, or one node again.

The same error at the same step is moved to another node, and there again it is the user's: a
restart would give the same. Errors at different steps on one node are the node's.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum

from lepton_operator.api.training import Attempt, Cause
from lepton_operator.training.causes import TRAITS
from lepton_operator.training.evidence import Failure

SAME_STEP = 1  # steps apart: ranks that end are not all counted at the same moment
GIVEN_UP_AT = 3  # sightings of one error, wherever; the second moves its pod


class Meaning(Enum):
    """What follows from a failure that is not the first of its like."""

    NEW = "nothing like it came before"
    MOVE = "its pod is tried on another node"
    USERS = "a restart would give the same"
    NODES = "the node fails at whatever step"


@dataclass(frozen=True, slots=True)
class Repeat:
    """A meaning, and the earlier attempts that it rests on."""

    meaning: Meaning
    evidence: str = ""


def look_back(
    failed: Sequence[Attempt],
    found: Failure,
    beside: Iterable[Failure],
    *,
    knows_steps: bool,
    repeated: bool = False,
) -> Repeat:
    """Compare a failure with those of earlier attempts; `beside` are the others of its own.

    Without steps nothing can be told apart: then only the budgets count. Unless it `knows_steps`,
    they were counted by torch, from 1 in each process: equal ones may tell of the same error,
    different ones tell nothing. `repeated`: the launchers saw this error before, in this attempt.
    """
    if found.cause is Cause.NODE_NOT_READY:
        return _node_again([each for each in failed if each.reason == found.cause], found)
    if not found.trait.may_repeat or found.step is None:
        return Repeat(Meaning.NEW)
    same = [each for each in failed if _is_same(each, found)]
    alike = [each for each in beside if _is_alike(each, found)]
    if same or repeated:
        earlier = [f"attempt {each.number}" for each in same]
        before = [*earlier, *(["the same attempt before"] if repeated else [])]
        nodes = {found.node, *(each.node for each in same), *(each.node for each in alike)}
        return _same_again(before, found, sorted(each for each in nodes if each is not None))
    if not knows_steps or any(each.node != found.node for each in alike):
        return Repeat(Meaning.NEW)
    return _node_again([each for each in failed if _is_at_another_step(each, found)], found)


def _same_again(before: Sequence[str], found: Failure, nodes: Sequence[str]) -> Repeat:
    sightings = len(before) + 1
    where = f", on {_and(nodes)}" if nodes else ""
    evidence = f"the same error came at step {found.step} in {_and(before)} too{where}"
    if len(nodes) > 1 or sightings >= GIVEN_UP_AT:
        return Repeat(Meaning.USERS, evidence)
    return Repeat(Meaning.MOVE, evidence)


def _node_again(earlier: Sequence[Attempt], found: Failure) -> Repeat:
    there = [each for each in earlier if each.node is not None and each.node == found.node]
    if not there:
        return Repeat(Meaning.NEW)
    told = _and(f"attempt {each.number} ({_brief(each.reason, each.step)})" for each in there)
    return Repeat(
        Meaning.NODES, f"{_brief(found.cause, found.step)} on it after {told} had failed on it"
    )


def _brief(reason: str | None, step: int | None) -> str:
    return f"{reason}" if step is None else f"{reason} at step {step}"


def _is_same(attempt: Attempt, found: Failure) -> bool:
    return (
        (attempt.reason, attempt.exit_code, attempt.signal)
        == (found.cause, found.exit_code, found.signal)
        and _wording(attempt.last_error_line) == _wording(found.last_error_line)
        and _is_near(attempt.step, found.step)
    )


def _is_alike(other: Failure, found: Failure) -> bool:
    return (
        other.cause is found.cause
        and _wording(other.last_error_line) == _wording(found.last_error_line)
        and _is_near(other.step, found.step)
    )


def _is_at_another_step(attempt: Attempt, found: Failure) -> bool:
    """Tell whether a rank failed of itself then too, elsewhere in the run."""
    if attempt.reason not in _OF_RANKS or attempt.step is None:
        return False
    return not _is_near(attempt.step, found.step)


_OF_RANKS = frozenset(cause for cause, trait in TRAITS.items() if trait.may_repeat)


def _is_near(one: int | None, other: int | None) -> bool:
    return one is not None and other is not None and abs(one - other) <= SAME_STEP


def _wording(line: str | None) -> str:
    """Return an error without its figures: ranks, addresses and times differ each time."""
    return "".join(each for each in line or "" if not each.isdigit())


def _and(words: Iterable[str]) -> str:
    *most, last = words
    return f"{', '.join(most)} and {last}" if most else last
