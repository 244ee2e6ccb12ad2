"""Events: what changed between two statuses, for a person who reads `kubectl describe`."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from lepton_operator.api.inference import InferenceServiceStatus
from lepton_operator.conditions import READY, find
from lepton_operator.inference.reasons import ServingReason
from lepton_operator.plan import Event

# On the way: worth a condition, not an Event.
_QUIET = frozenset(
    {
        ServingReason.STARTING,
        ServingReason.ROLLING_OUT,
        ServingReason.SCALING_DOWN,
        ServingReason.DRAINING,
    }
)


def events(before: InferenceServiceStatus, after: InferenceServiceStatus) -> tuple[Event, ...]:
    return tuple(event for rule in RULES for event in rule(before, after))


def _rolled_out(before: InferenceServiceStatus, after: InferenceServiceStatus) -> Iterator[Event]:
    old, new = next(iter(before.revisions), None), next(iter(after.revisions), None)
    if new is not None and (old is None or old.name != new.name):
        message = f"Version {new.version} is rolled out as revision {new.name}."
        yield Event("Normal", ServingReason.ROLLING_OUT, message)


def _judged(before: InferenceServiceStatus, after: InferenceServiceStatus) -> Iterator[Event]:
    old, new = find(before.conditions, READY), find(after.conditions, READY)
    if new is None or new.reason in _QUIET or (old is not None and old.reason == new.reason):
        return
    yield Event("Normal" if new.status == "True" else "Warning", new.reason, new.message)


def _failed(before: InferenceServiceStatus, after: InferenceServiceStatus) -> Iterator[Event]:
    old, new = before.last_failure, after.last_failure
    if new is None:
        return
    if old is None or (old.pod, old.reason, old.message) != (new.pod, new.reason, new.message):
        yield Event("Warning", new.reason, f"Pod {new.pod}: {new.message}")


RULES: tuple[Callable[[InferenceServiceStatus, InferenceServiceStatus], Iterator[Event]], ...] = (
    _rolled_out,
    _judged,
    _failed,
)
