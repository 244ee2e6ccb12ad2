"""Where a service stands: ordered rules, the first that says something decides.

While pods are being replaced Ready is False, though the old revision answers: for kstatus an
object is current only when what its spec asks for is what runs, and `kubectl wait` after a change
is to wait for that change. How many pods answer meanwhile is in status.replicas.
A service is never Stalled: all that keeps it from being ready can be mended elsewhere (a version, a
node, an image), and the schema refuses what is wrong with the object itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from lepton_operator.api.inference import Revision
from lepton_operator.conditions import Standing, Verdict
from lepton_operator.diagnosis import Diagnosis
from lepton_operator.inference.fleet import Fleet
from lepton_operator.inference.reasons import ServingReason
from lepton_operator.inference.revisions import Wanted
from lepton_operator.inference.target import Blocked
from lepton_operator.views import InferenceView


@dataclass(frozen=True, slots=True)
class Situation:
    """What the rules look at."""

    view: InferenceView
    wanted: Wanted | None
    blocked: Blocked | None
    fleet: Fleet
    revisions: tuple[Revision, ...]
    trouble: Diagnosis | None

    @property
    def replicas(self) -> int:
        return self.view.service.spec.replicas

    @property
    def updated(self) -> int:
        """Return how many pods of the wanted revision are ready."""
        return sum(pod.ready for pod in self.fleet.current)

    @property
    def served_version(self) -> int | None:
        """Return the version that ready pods serve: the wanted one as soon as it is among them."""
        return next((each.version for each in self.revisions if each.ready), None)


def judge(situation: Situation) -> Verdict:
    found = (rule(situation) for rule in RULES)
    return next((each for each in found if each is not None), _starting(situation))


def _blocked(situation: Situation) -> Verdict | None:
    blocked = situation.blocked
    if blocked is None:
        return None
    return _reconciling(blocked.reason, f"{blocked.message}{_meanwhile(situation)}")


def _refused(situation: Situation) -> Verdict | None:
    refusal = next(iter(situation.view.refusals), None)
    if refusal is None:
        return None
    return _reconciling(refusal.reason, f"{refusal.sentence}{_meanwhile(situation)}")


def _scaled_to_zero(situation: Situation) -> Verdict | None:
    if situation.replicas > 0 or situation.fleet.alive:
        return None
    message = "No pod runs, because spec.replicas is 0; scale up to serve."
    return Verdict(Standing.SETTLED, True, ServingReason.SCALED_TO_ZERO, message)


def _serving(situation: Situation) -> Verdict | None:
    fleet, replicas = situation.fleet, situation.replicas
    complete = len(fleet.current) == replicas and situation.updated == replicas and not fleet.old
    if not complete or situation.view.kubernetes_service is None or situation.wanted is None:
        return None
    target = situation.wanted.target
    message = f"{_answering(situation)} with version {target.version} of model {target.model}."
    return Verdict(Standing.SETTLED, True, ServingReason.SERVING, message)


def _troubled(situation: Situation) -> Verdict | None:
    found = situation.trouble
    if found is None:
        return None
    return _reconciling(found.reason, f"{found.message.rstrip('. ')}.{_meanwhile(situation)}")


def _rolling(situation: Situation) -> Verdict | None:
    wanted = situation.wanted
    if wanted is None or not situation.fleet.old:
        return None
    left = len(situation.fleet.old)
    pods = "1 pod of an older revision goes" if left == 1 else f"{left} pods of older revisions go"
    message = f"{_answering(situation)} with version {wanted.target.version}; {pods} when they do."
    return _reconciling(ServingReason.ROLLING_OUT, message)


def _scaling_down(situation: Situation) -> Verdict | None:
    surplus = len(situation.fleet.alive) - situation.replicas
    if surplus <= 0:
        return None
    return _reconciling(ServingReason.SCALING_DOWN, f"{surplus} pods too many are being deleted.")


def _starting(situation: Situation) -> Verdict:
    return _reconciling(ServingReason.STARTING, f"{_answering(situation)} so far.")


RULES: tuple[Callable[[Situation], Verdict | None], ...] = (
    _blocked,
    _refused,
    _scaled_to_zero,
    _serving,
    _troubled,
    _rolling,
    _scaling_down,
)


def _answering(situation: Situation) -> str:
    return f"{situation.updated} of {situation.replicas} pods answer"


def _meanwhile(situation: Situation) -> str:
    """Say what goes on being served."""
    version = situation.served_version
    return f" Meanwhile version {version} is served." if version is not None else ""


def _reconciling(reason: str, message: str) -> Verdict:
    return Verdict(Standing.RECONCILING, False, str(reason), message)
