"""Conditions, kstatus-clean: Ready always; Reconciling and Stalled only while they are true."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import Literal

from lepton_operator.api.common import Condition

READY = "Ready"
RECONCILING = "Reconciling"
STALLED = "Stalled"

COMMON = frozenset({READY, RECONCILING, STALLED})

MAX_MESSAGE = 1024


class Standing(Enum):
    """Where an object stands, for kstatus: only STALLED is its own fault."""

    SETTLED = "nothing is left to do"
    RECONCILING = "the operator is working or waiting"
    STALLED = "only a change of this very object can mend it"


@dataclass(frozen=True, slots=True)
class Verdict:
    """A kind's judgement of its object, in one reason and one sentence."""

    standing: Standing
    ready: bool
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Extra:
    """A condition of one kind beside the three that all have; absent ones are not listed."""

    type: str
    status: Literal["True", "False", "Unknown"]
    reason: str
    message: str


def summarise(
    old: Iterable[Condition],
    verdict: Verdict,
    extras: Iterable[Extra],
    *,
    generation: int,
    now: datetime,
) -> tuple[Condition, ...]:
    """Return all conditions of an object; a transition time moves only when a status changes."""
    wanted = [Extra(READY, "True" if verdict.ready else "False", verdict.reason, verdict.message)]
    if verdict.standing is Standing.RECONCILING:
        wanted.append(Extra(RECONCILING, "True", verdict.reason, verdict.message))
    if verdict.standing is Standing.STALLED:
        wanted.append(Extra(STALLED, "True", verdict.reason, verdict.message))
    before = {each.type: each for each in old}
    return tuple(
        _stamped(each, before.get(each.type), generation, now) for each in (*wanted, *extras)
    )


def extras(conditions: Iterable[Condition]) -> list[Extra]:
    """Return the conditions of one kind, to be written again as they are."""
    return [
        Extra(each.type, each.status, each.reason, each.message)
        for each in conditions
        if each.type not in COMMON
    ]


def _stamped(wanted: Extra, before: Condition | None, generation: int, now: datetime) -> Condition:
    unchanged = before is not None and before.status == wanted.status
    return Condition(
        type=wanted.type,
        status=wanted.status,
        observed_generation=generation,
        last_transition_time=before.last_transition_time if before and unchanged else now,
        reason=wanted.reason,
        message=cut(wanted.message),
    )


def cut(text: str, limit: int = MAX_MESSAGE) -> str:
    """Return the text in at most `limit` characters, with an ellipsis where it was cut."""
    return text if len(text) <= limit else text[: limit - 1] + "…"


def sentence(text: str) -> str:
    """Return the text with a full stop, so that another sentence can follow it."""
    return text if text.endswith((".", "!", "?", "…")) else f"{text}."


def find(conditions: Iterable[Condition], kind: str) -> Condition | None:
    return next((each for each in conditions if each.type == kind), None)


def is_true(conditions: Iterable[Condition], kind: str) -> bool:
    found = find(conditions, kind)
    return found is not None and found.status == "True"
