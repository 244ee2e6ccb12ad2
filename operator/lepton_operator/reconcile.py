"""One pass over one object: observe, plan, execute, report."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from pydantic import ValidationError

from lepton_operator import conditions, errors, logs
from lepton_operator.api.common import CONTROLLER, Status
from lepton_operator.cache import Cache, Change, Key, OwnObject
from lepton_operator.conditions import Standing, Verdict
from lepton_operator.execute import Executor, Report
from lepton_operator.metrics import Metrics
from lepton_operator.observe import Observer, Refusals, View
from lepton_operator.parsing import wrong_fields
from lepton_operator.plan import Plan
from lepton_operator.queue import End, Outcome
from lepton_operator.views import PodView

Planner = Callable[[Any, datetime], Plan]
"""`plan(view, now)` of a kind."""

REFUSED_RETRY_SECONDS = 60.0
"""No event tells when a quota was raised or a name became free: it is tried at least so often."""

_MIN_DUE_SECONDS = 0.05

_log = logs.logger(__name__)


def utc_now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class _Refused:
    uid: str
    generation: int
    refusals: Refusals


class Reconciler:
    """Called by the queue with a key, never twice at once with the same one.

    `wake` is told what else changed on the way, but for the key itself; `should_put_off` says
    whether the rest of a pass is to wait behind objects that never had one.
    """

    def __init__(
        self,
        observer: Observer,
        executor: Executor,
        plans: Mapping[str, Planner],
        *,
        wake: Callable[[Iterable[Change], Key], None],
        should_put_off: Callable[[Key], bool],
        metrics: Metrics,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        self._observer = observer
        self._executor = executor
        self._plans = plans
        self._wake = wake
        self._should_put_off = should_put_off
        self._metrics = metrics
        self._clock = clock
        self._refused: dict[Key, _Refused] = {}

    async def __call__(self, key: Key) -> Outcome:
        """Bring one object a step closer to what it asks for; never raises but to be cancelled."""
        kind = key.kind.lower()
        self._metrics.active_workers.labels(kind).inc()
        with self._metrics.reconcile_seconds.labels(kind).time():
            outcome = await self._guarded(key)
        self._metrics.active_workers.labels(kind).dec()
        self._metrics.reconciles.labels(kind, _RESULTS[outcome.end]).inc()
        return outcome

    async def _guarded(self, key: Key) -> Outcome:
        own = self._cache.own(key)
        if own is None or "deletionTimestamp" in own.body["metadata"] or _is_anothers(own):
            self._refused.pop(key, None)
            return Outcome(End.GONE)
        report = Report()
        try:
            return await self._pass(own, report)
        except errors.NotLeader:
            return Outcome(End.FAILED)  # this process is about to end
        except (errors.Conflict, errors.NotFound) as error:
            return await self._look_anew(own, error)
        except errors.ApiError as error:
            return self._failed(own, error)
        except Exception:  # noqa: BLE001 - a defect in one pass must not end the others
            return self._panicked(own)
        finally:
            self._wake(report.changes, key)

    @property
    def _cache(self) -> Cache:
        return self._observer.cache

    async def _pass(self, own: OwnObject, report: Report) -> Outcome:
        now = self._clock()
        try:
            view = self._view(own)
        except ValidationError as error:
            return await self._invalid(own, error, report)
        plan = self._plan(own, view, now)
        if plan.relist:
            self._wake(await self._observer.relist(own), own.key)
            fresh = self._cache.own(own.key)
            if fresh is None or _asks_otherwise(fresh, own):
                return Outcome(End.CHANGED)
            own, view = fresh, self._view(fresh)
            plan = self._plan(own, view, now)
        return await self._carry_out(own, view, plan, report, now)

    def _view(self, own: OwnObject) -> View:
        """Return what the plan reads; raises ValidationError for a spec that is not valid."""
        return self._observer.view(own, self._refusals(own))

    def _plan(self, own: OwnObject, view: View, now: datetime) -> Plan:
        return self._plans[own.key.kind](view, now)

    async def _carry_out(
        self, own: OwnObject, view: View, plan: Plan, report: Report, now: datetime
    ) -> Outcome:
        def put_off() -> bool:
            return self._should_put_off(own.key)

        await self._executor.execute(own, plan, report, put_off, now)
        if report.wrote:
            self._say(own, plan, report)
        if report.refusals:
            return await self._refuse(own, report, now)
        if report.created or not plan.create:
            self._refused.pop(own.key, None)
        if report.put_off:
            return Outcome(End.PUT_OFF)
        if report.wrote:
            return Outcome(End.CHANGED)
        return self._settled(view, plan, now)

    def _settled(self, view: View, plan: Plan, now: datetime) -> Outcome:
        """Nothing is left to say about what is gone, so a plan needs to see it no more."""
        gone = _tombstones(view)
        if gone:
            self._cache.forget(gone)
            return Outcome(End.CHANGED)
        if plan.due is None:
            return Outcome(End.SETTLED)
        seconds = max((plan.due - now).total_seconds(), _MIN_DUE_SECONDS)
        return Outcome(End.SETTLED, due_seconds=seconds)

    async def _refuse(self, own: OwnObject, report: Report, now: datetime) -> Outcome:
        """Plan again with what was refused, so that the status can say it; create later."""
        refusals = tuple(sorted(report.refusals, key=lambda refusal: refusal.name))
        if refusals != self._refusals(own):
            first = refusals[0]
            _log.warning(first.message, reason=first.reason, child=first.name, **_labels(own))
        self._refused[own.key] = _Refused(own.uid, own.generation, refusals)
        current = self._cache.own(own.key)
        if current is not None and not _asks_otherwise(current, own):
            plan = self._plan(current, self._view(current), now)
            await self._executor.write_status(current, plan.status, report)
            await self._executor.post(current, plan.events, now)
        self._metrics.reconcile_errors.labels(own.key.kind.lower()).inc()
        return Outcome(End.FAILED, at_most_seconds=REFUSED_RETRY_SECONDS)

    def _refusals(self, own: OwnObject) -> Refusals:
        found = self._refused.get(own.key)
        asked = (own.uid, own.generation)
        return found.refusals if found and (found.uid, found.generation) == asked else ()

    async def _invalid(self, own: OwnObject, error: ValidationError, report: Report) -> Outcome:
        """Say what is wrong with the spec; only a new generation of it can mend that."""
        status = _invalid_status(own, error, self._clock())
        await self._executor.write_status(own, status, report)
        if report.wrote:
            self._metrics.terminal_errors.labels(own.key.kind.lower()).inc()
            _log.info("The spec is not valid: the status says why", **_labels(own))
        return Outcome(End.SETTLED)

    async def _look_anew(self, own: OwnObject, error: errors.ApiError) -> Outcome:
        """What was seen is out of date: read it live, and try again."""
        _log.debug("Acting on an outdated view failed", error=error.message, **_labels(own))
        try:
            self._wake(await self._observer.relist(own), own.key)
        except errors.ApiError as again:
            return self._failed(own, again)
        return Outcome(End.FAILED)

    def _failed(self, own: OwnObject, error: errors.ApiError) -> Outcome:
        self._metrics.reconcile_errors.labels(own.key.kind.lower()).inc()
        _log.warning(error.message, error=type(error).__name__, **_labels(own))
        after = error.retry_after_seconds if isinstance(error, errors.Transient) else None
        return Outcome(End.FAILED, at_least_seconds=after or 0.0)

    def _panicked(self, own: OwnObject) -> Outcome:
        self._metrics.panics.labels(own.key.kind.lower()).inc()
        self._metrics.reconcile_errors.labels(own.key.kind.lower()).inc()
        _log.exception("This is a defect of the operator; other objects go on", **_labels(own))
        return Outcome(End.FAILED)

    def _say(self, own: OwnObject, plan: Plan, report: Report) -> None:
        counts = {
            "deleted": report.deleted,
            "created": report.created,
            "patched": report.patched,
            "status": "written" if report.status_written else None,
        }
        said = {name: value for name, value in counts.items() if value}
        _log.info(plan.because, **_labels(own), **said)


_RESULTS: Mapping[End, str] = {
    End.SETTLED: "success",
    End.GONE: "success",
    End.CHANGED: "requeue",
    End.PUT_OFF: "requeue_after",
    End.FAILED: "error",
}


def _labels(own: OwnObject) -> dict[str, Any]:
    key = own.key
    return {
        "kind": key.kind,
        "namespace": key.namespace,
        "name": key.name,
        "generation": own.generation,
    }


def _asks_otherwise(now: OwnObject, before: OwnObject) -> bool:
    """Whether somebody changed the spec, or made another object of that name."""
    return (now.uid, now.generation) != (before.uid, before.generation)


def _is_anothers(own: OwnObject) -> bool:
    """Whether the object names another controller, which alone acts on it and writes its status."""
    return bool(own.body["spec"].get("managedBy", CONTROLLER) != CONTROLLER)


def _tombstones(view: View) -> list[PodView]:
    return [pod for pod in view.pods if pod.gone]


def _invalid_status(own: OwnObject, error: ValidationError, now: datetime) -> dict[str, Any]:
    before = own.body["status"]
    try:
        old = Status.model_validate(before).conditions
    except ValidationError:
        old, before = (), {}
    verdict = Verdict(Standing.STALLED, ready=False, reason="InvalidSpec", message=_sentence(error))
    # Complete and Failed are final, whatever an older schema let into the spec.
    extras = conditions.extras(old)
    summary = conditions.summarise(old, verdict, extras, generation=own.generation, now=now)
    written = Status(observed_generation=own.generation, conditions=summary).wire()
    return {**before, **written}


def _sentence(error: ValidationError) -> str:
    """Return what pydantic says about each wrong field, and what to do."""
    return f"The spec is not valid: {wrong_fields(error)}. Change it and apply it again."
