"""Events: what changed between two statuses, for a person who reads `kubectl describe`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from lepton_operator.api.inference import InferenceServiceStatus, RolloutStatus
from lepton_operator.conditions import READY, find
from lepton_operator.inference.draining import Drain
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
    is_back = after.rollout is not None and after.rollout.failed is not None
    if new is not None and not is_back and (old is None or old.name != new.name):
        message = f"Version {new.version} is rolled out as revision {new.name}."
        yield Event("Normal", ServingReason.ROLLING_OUT, message)


def _judged(before: InferenceServiceStatus, after: InferenceServiceStatus) -> Iterator[Event]:
    old, new = find(before.conditions, READY), find(after.conditions, READY)
    if new is None or new.reason in _QUIET or (old is not None and old.reason == new.reason):
        return
    yield Event("Normal" if new.status == "True" else "Warning", new.reason, new.message)


def _in_place(before: InferenceServiceStatus, after: InferenceServiceStatus) -> Iterator[Event]:
    old, new = before.rollout, after.rollout
    if new is None or new.phase != "Replacing" or (old is not None and old.phase == new.phase):
        return
    yield Event(
        "Normal" if new.gap_seconds is None else "Warning",
        ServingReason.REPLACING,
        f"No node has room for one more pod: pods are replaced in place{_gap(new)}.",
    )


def _gap(rollout: RolloutStatus) -> str:
    seconds = rollout.gap_seconds
    return f", and nothing answers for up to about {seconds} s" if seconds is not None else ""


def _given_up(before: InferenceServiceStatus, after: InferenceServiceStatus) -> Iterator[Event]:
    old, new = before.rollout, after.rollout
    failed = new.failed if new is not None else None
    if failed is None or (old is not None and old.failed == failed):
        return
    message = f"Version {failed.version} was given up ({failed.reason}): {failed.message}"
    yield Event("Warning", ServingReason.ROLLED_BACK, message)


def cut_short(drains: Iterable[Drain]) -> Iterator[Event]:
    """Yield an Event for each pod that goes although its requests are not over."""
    for each in drains:
        left = "the doors did not tell whether it has requests"
        if each.open is not None:
            requests = "1 request was" if each.open == 1 else f"{each.open} requests were"
            left = f"{requests} still in flight and may be cut"
        message = f"Pod {each.pod.name} had its time to drain; {left}."
        yield Event("Warning", ServingReason.DRAIN_TIMED_OUT, message)


def _failed(before: InferenceServiceStatus, after: InferenceServiceStatus) -> Iterator[Event]:
    old, new = before.last_failure, after.last_failure
    if new is None:
        return
    if old is None or (old.pod, old.reason, old.message) != (new.pod, new.reason, new.message):
        yield Event("Warning", new.reason, f"Pod {new.pod}: {new.message}")


def _scaled(before: InferenceServiceStatus, after: InferenceServiceStatus) -> Iterator[Event]:
    known = before.autoscaling.decisions if before.autoscaling is not None else ()
    for each in reversed(after.autoscaling.decisions if after.autoscaling is not None else ()):
        if each not in known:
            message = f"From {each.from_replicas} to {each.to} replicas. {each.reason}"
            yield Event("Normal", ServingReason.SCALED, message)


RULES: tuple[Callable[[InferenceServiceStatus, InferenceServiceStatus], Iterator[Event]], ...] = (
    _rolled_out,
    _judged,
    _in_place,
    _given_up,
    _failed,
    _scaled,
)
