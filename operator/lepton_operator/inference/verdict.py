"""Where a service stands: ordered rules, the first that says something decides.

While pods are being replaced Ready is False, though the old revision answers: for kstatus an
object is current only when what its spec asks for is what runs, and `kubectl wait` after a change
is to wait for that change. How many pods answer meanwhile is in status.replicas. Pods that only
finish their last requests keep nobody waiting, and a pod on a node that is being emptied serves as
well as any other.
A service is never Stalled: all that keeps it from being ready can be mended elsewhere (a version, a
node, an image), and the schema refuses what is wrong with the object itself.
"""

from __future__ import annotations

from collections.abc import Callable

from lepton_operator.api.inference import RolloutStatus
from lepton_operator.conditions import Standing, Verdict
from lepton_operator.inference.reasons import ServingReason
from lepton_operator.inference.situation import Situation

_NO_DOOR = (
    "The pods are ready, and no door of this namespace is, so that no request reaches them. Most "
    "often this namespace is not in the chart's value door.namespaces, and its doors have no "
    "certificate: add it there and upgrade the release. Else the pods of Deployment lepton-door "
    "log what they wait for."
)
_PAST_DOORS = (
    " Requests go to the pods directly until the doors of this namespace are ready and listen for "
    "this service: it takes that the namespace is in the chart's value door.namespaces."
)


def judge(situation: Situation, under_way: RolloutStatus | None) -> Verdict:
    found = (rule(situation, under_way) for rule in RULES)
    return next((each for each in found if each is not None), _starting(situation))


def _blocked(situation: Situation, _: RolloutStatus | None) -> Verdict | None:
    blocked = situation.course.blocked
    if blocked is None:
        return None
    return _reconciling(blocked.reason, f"{blocked.message}{_meanwhile(situation)}")


def _refused(situation: Situation, _: RolloutStatus | None) -> Verdict | None:
    refusal = next(iter(situation.view.refusals), None)
    if refusal is None:
        return None
    return _reconciling(refusal.reason, f"{refusal.sentence}{_meanwhile(situation)}")


def _scaled_to_zero(situation: Situation, _: RolloutStatus | None) -> Verdict | None:
    if situation.replicas > 0 or situation.fleet.alive:
        return None
    message = "No pod runs, because spec.replicas is 0; scale up to serve."
    return Verdict(Standing.SETTLED, True, ServingReason.SCALED_TO_ZERO, message)


def _given_up(situation: Situation, _: RolloutStatus | None) -> Verdict | None:
    failed = situation.course.failed
    if failed is None:
        return None
    what = f"Version {failed.version} was given up and is not tried again until spec or model"
    why = failed.message.rstrip(". ")
    return _reconciling(failed.reason, f"{what} change: {why}.{_meanwhile(situation)}")


def _serving(situation: Situation, _: RolloutStatus | None) -> Verdict | None:
    if not _is_complete(situation) or situation.course.wanted is None:
        return None
    if not situation.has_door and not situation.is_past_doors:
        return _reconciling(ServingReason.DOOR_NOT_READY, _NO_DOOR)
    target = situation.course.wanted.target
    message = f"{_answering(situation)} with version {target.version} of model {target.model}."
    way = _PAST_DOORS if situation.is_past_doors else ""
    return Verdict(Standing.SETTLED, True, ServingReason.SERVING, f"{message}{way}")


def _is_complete(situation: Situation) -> bool:
    fleet, replicas = situation.fleet, situation.replicas
    # One more is there while a pod is replaced on another node.
    exact = len(fleet.alive) == replicas or bool(fleet.moving)
    enough = exact and situation.updated >= replicas
    return enough and not fleet.old and situation.view.kubernetes_service is not None


def _troubled(situation: Situation, under_way: RolloutStatus | None) -> Verdict | None:
    found = situation.trouble
    if found is None:
        return None
    waits = _waits(under_way) if situation.shortage.starved else ""
    message = f"{found.message.rstrip('. ')}.{waits}{_meanwhile(situation)}"
    return _reconciling(found.reason, message)


def _rolling(situation: Situation, under_way: RolloutStatus | None) -> Verdict | None:
    wanted = situation.course.wanted
    if wanted is None or under_way is None or under_way.phase not in ("Surging", "Replacing"):
        return None
    message = f"{_answering(situation)} with version {wanted.target.version}.{_waits(under_way)}"
    return _reconciling(ServingReason.ROLLING_OUT, message)


def _scaling_down(situation: Situation, _: RolloutStatus | None) -> Verdict | None:
    surplus = len(situation.fleet.alive) - situation.replicas
    if surplus <= 0:
        return None
    return _reconciling(ServingReason.SCALING_DOWN, f"{surplus} pods too many go.")


def _starting(situation: Situation) -> Verdict:
    return _reconciling(ServingReason.STARTING, f"{_answering(situation)} so far.")


RULES: tuple[Callable[[Situation, RolloutStatus | None], Verdict | None], ...] = (
    _blocked,
    _refused,
    _given_up,
    _scaled_to_zero,
    _serving,
    _troubled,
    _rolling,
    _scaling_down,
)


def _answering(situation: Situation) -> str:
    # While one is replaced on another node, one more answers than there are to be.
    answering = min(situation.updated, situation.replicas)
    return f"{answering} of {situation.replicas} pods answer"


def _waits(under_way: RolloutStatus | None) -> str:
    """Say for what a rollout waits."""
    return f" It waits for {under_way.waiting_for}." if under_way is not None else ""


def _meanwhile(situation: Situation) -> str:
    """Say what goes on being served."""
    version = situation.served_version
    return f" Meanwhile version {version} is served." if version is not None else ""


def _reconciling(reason: str, message: str) -> Verdict:
    return Verdict(Standing.RECONCILING, False, str(reason), message)
